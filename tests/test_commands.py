"""Every command that README and `--help` show runs in a fresh clone as it stands, but for flags that make it small."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import CIFAR10, PROJECT, needs_cifar10

from batchscale import cli
from batchscale.modes import MODES
from batchscale.records import load
from batchscale.sweeps import notebooks

BIN = Path(sys.executable).parent
SMALL = "--width 0.1 --epochs 1 --warmup-epochs 1 --train-size 1100"
OWN_NETWORK = """from torch import nn


def Net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))
"""
OWN_DATA = """import numpy as np


def load():
    images, labels = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8), np.arange(200) % 2
    return images[:150], labels[:150], images[150:], labels[150:]
"""


def joined(text: str) -> str:
    """A text whose continued lines are one line each."""
    return re.sub(r"\\\n\s*", " ", text)


def blocks(text: str) -> list[str]:
    """The commands of the indented blocks of a text; a continued line is one command."""
    lines = re.findall(r"^ {4}(?! )(.*)", joined(text), re.MULTILINE)
    commands = [line.split("  #")[0].strip() for line in lines]
    return [command for command in commands if re.match(r"\S*(python|make|torchrun|sbatch)\b", command)]


README = blocks((PROJECT / "README.md").read_text(encoding="utf-8"))
HELP = blocks(cli.__doc__)


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """The files that git knows or would add, in a folder with a space in its name, with an environment and images."""
    folder = tmp_path / "a clone"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=PROJECT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, folder / name)
    (folder / ".venv").symlink_to(BIN.parent)
    if CIFAR10.is_dir():
        (folder / "datasets").symlink_to(CIFAR10)
    (folder / "my_models.py").write_text(OWN_NETWORK)
    (folder / "my_data.py").write_text(OWN_DATA)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)  # as `python -m` has it
    monkeypatch.delenv("BATCHSCALE_DATA_ROOT", raising=False)
    return folder


def small(command: str) -> str:
    """The same command, its training made short by flags alone."""
    if command.startswith("sbatch"):  # what it has a machine of the cluster do
        command = shlex.split(command)[-1].replace("$SLURM_ARRAY_TASK_ID", "8")
    if command.startswith("make"):
        return command
    if "my_models" in command:
        return f"{command} --epochs 1 --warmup-epochs 1"
    if "resnet18" in command:
        return f"{command} --epochs 1 --warmup-epochs 1 --train-size 256"
    if " train " in command:
        return f"{command} {SMALL}"
    if " sweep " in command:  # the engine of a Ray cluster is tested in test_ray.py
        return f"{command} {SMALL} --seeds 0 --names scaled_lr --large 128 256 --workers 1 --engine processes"
    if " advise " in command:
        return f"{command} --width 0.1 --train-size 1100 --minutes 1"
    if " find " in command:
        digits = "--dataset digits --width 0.1 --epochs 3 --train-size 600 --base-lr 0.01 --data-dir runs/found"
        return f"{command} {digits} --names scaled_lr --small 16 --largest 64 --hours 0.01"
    if " study " in command:
        return f"{command} --width 0.1 --epochs 2 --warmup-epochs 1 --train-size 256 --small 16 32 --large 64"
    if "noise-scale" in command:
        return f"{command} --images 600"
    return command


def run(command: str) -> None:
    """In this process, whose torch is imported already, or in one of its own where make or torchrun is the program."""
    program, *arguments = shlex.split(command)
    if Path(program).name == "python":
        assert arguments[:2] == ["-m", "batchscale"]
        assert cli.main(arguments[2:]) == 0, command
    elif program == "make":  # what it would run, the environment being there, is a command as `--help` shows one
        dry = [program, "-n", "-o", ".venv/.study", *arguments]
        done = subprocess.run(dry, capture_output=True, text=True, check=True)
        (shown,) = [line for line in joined(done.stdout).splitlines() if "-m batchscale" in line]
        assert isinstance(cli._parse(shlex.split(shown)[3:]), cli.Study)
    else:
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_there_are_commands_of_every_kind():
    words = {word for command in [*README, *HELP] for word in command.split()}
    assert {"train", "sweep", "find", "study", "analyse", "explore", "project", "import", "noise-scale"} <= words
    assert {"make", "sbatch"} <= words
    assert len(README) >= 14
    assert len(HELP) >= 7


@pytest.mark.slow
@needs_cifar10
@pytest.mark.parametrize("commands", [README, HELP], ids=["README", "help"])
def test_commands_run_one_after_another_in_a_fresh_clone(clone, commands, capsys):
    """In their order and in one clone, as a reader would: nothing that one leaves is in the way of the next."""
    committed = {path: path.read_bytes() for path in (clone / "data").rglob("*_bs*")}
    for command in commands:
        if command != "make test" and "batchscale study" not in command:  # it runs this; the next test runs the study
            run(small(command))
            assert "Traceback" not in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (clone / "data").rglob("*_bs*")} == committed


@pytest.mark.slow
def test_the_study_that_the_help_shows(clone, capfd):
    """Records, figures and executed notebooks. The second time it trains nothing: see test_committed_results.py."""
    (command,) = [command for command in HELP if " study " in command]
    out = clone / shlex.split(command)[shlex.split(command).index("--out") + 1]
    run(small(command))
    assert "scaled_lr B=64 seed 1: complete, 2 epochs" in capfd.readouterr().out
    table = load(out)
    assert len(table) == 2 * (2 * 2 + 3 * 2)
    assert set(table["experiment"]) == set(MODES)
    story = {"threshold", "base_rate", "scaled_rate", "warm_up", "effects"}
    story |= {"answer", "critical_batch_size", "breaking_points", "time", "against_batch_size", "against_epoch"}
    assert {path.stem for path in (out / "figures").iterdir()} == {*MODES, *story}
    for name in (*notebooks.TRAINING, notebooks.RESULTS):
        cells = nbformat.read(out / f"{name}.ipynb", as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        assert "error" not in {output.output_type for output in outputs}
        assert "widget-view" not in json.dumps(outputs)
