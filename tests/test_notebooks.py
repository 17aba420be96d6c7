"""The notebooks as users run them: unchanged, with other parameters, from anywhere."""

import ast
import difflib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import psutil
import pytest
from conftest import PROJECT
from kills import Run
from test_files import wait_until

from batchscale import sweeps
from batchscale.analysis import plots
from batchscale.analysis.findings import analyse
from batchscale.errors import UserError
from batchscale.experiment import DECAY, LARGE_BATCH_SIZES, SEEDS, SMALL_BATCH_SIZES, Experiment
from batchscale.modes import MODES
from batchscale.records import digest, figures
from batchscale.records.tables import load
from batchscale.sweeps import notebooks
from batchscale.training import datasets

TINY = {"dataset": "digits", "width": 0.1, "train_size": 256, "epochs": 2, "warmup_epochs": 1}
ONE_RUN = {"batch_sizes": [64], "seeds": [0], **TINY}
PARAMETERS = {"data_dir", "dataset", "data_root", "batch_sizes", "seeds", "epochs", "base_lr", "reference_batch_size"}
PARAMETERS |= {"warmup_epochs", "train_size", "width", "workers"}
SETTINGS = {  # parameters that are fields of every experiment, none of them with its default
    **{"dataset": "digits", "train_size": 256, "model": "networks:Net", "width": 1.0, "epochs": 2},
    **{"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.1, "precision": "bf16", "augment": "flip"},
    **{"base_lr": 0.001, "reference_batch_size": 4, "warmup_epochs": 1.0, "decay": "cosine"},
}
PARAMETERS |= set(SETTINGS)
OTHERWISE = {"optimizer": "adamw", "weight_decay": 0.1, "augment": "flip", "decay": "cosine"}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(PROJECT / f"{name}.ipynb", as_version=4)


def cells(notebook) -> dict[str, nbformat.NotebookNode]:
    return {cell["id"]: cell for cell in notebook.cells}


def defaults(notebook) -> dict:
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    values = {}
    exec(cell.source, {}, values)
    return values


def test_every_notebook_is_known():
    known = [*notebooks.TRAINING, notebooks.RESULTS, notebooks.FINDING]
    assert sorted(path.stem for path in PROJECT.glob("*.ipynb")) == sorted(known)


def test_the_notebook_that_finds_hands_on_every_setting():
    scope = {"sweeps": sweeps, "Experiment": Experiment, "project": PROJECT, **defaults(read(notebooks.FINDING))}
    scope |= SETTINGS
    exec(cells(read(notebooks.FINDING))["experiment"].source, scope)
    assert {field: getattr(scope["experiment"], field) for field in SETTINGS} == SETTINGS
    assert scope["experiment"].lr_scaling == "linear"


def test_the_notebook_that_finds_begins_as_those_of_the_study_do():
    ours, theirs = (cells(read(name))["setup"].source for name in (notebooks.FINDING, notebooks.TRAINING[0]))
    changed = [line for line in difflib.ndiff(theirs.splitlines(), ours.splitlines()) if line[0] in "+-"]
    assert len(changed) <= 14
    assert all("import" in line for line in changed)
    assert not any(cell.get("outputs") for cell in read(notebooks.FINDING).cells)


@pytest.mark.slow
def test_a_stranger_gets_advice_and_an_answer(tmp_path):
    """From any folder, small; what it recorded is what the results notebook reads."""
    out = tmp_path / "out"
    values = {**TINY, "train_size": 600, "epochs": 3, "base_lr": 0.01, "data_dir": str(out)}
    values |= {"minutes": 0.7, "hours": 0.012, "small_batch_sizes": [16]}
    notebook = PROJECT / f"{notebooks.FINDING}.ipynb"
    executed = papermill(notebook, tmp_path / "executed.ipynb", tmp_path, **values, project_dir=str(PROJECT))
    said = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert "images/s at batch size" in said
    assert "The linear rule" in said
    assert "baseline_small B=16 seed 0: complete" in said
    assert (out / "advice.json").exists()
    assert set(load(out)["experiment"]) == {"baseline_small", "gradual_warmup_scaled_lr"}
    assert {path.name for path in (out / "figures").iterdir()} == {"advice.png", "advice.svg"}


@pytest.mark.parametrize("name", notebooks.TRAINING)
def test_parameters_are_the_studys_defaults(name):
    notebook = read(name)
    values = defaults(notebook)
    assert set(values) >= PARAMETERS
    study = Experiment(batch_size=1)
    for field in SETTINGS:
        assert values[field] == (DECAY if field == "decay" else getattr(study, field)), field
    assert tuple(values["seeds"]) == SEEDS
    sizes = SMALL_BATCH_SIZES if name == "baseline_small_minibatch" else LARGE_BATCH_SIZES
    assert tuple(values["batch_sizes"]) == sizes
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.metadata.tags == ["parameters"]  # what users edit comes first


def test_parameters_of_the_results_are_the_defaults_of_the_analysis():
    """All of them, each handed on under its own name; an empty list stands for none."""
    wanted = {
        name: parameter.default
        for name, parameter in inspect.signature(analyse).parameters.items()
        # with_target saves time and asks nothing; rates are in a folder of their own
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("with_target", "rates")
    }
    values = defaults(read(notebooks.RESULTS))
    assert {name: tuple(values[name]) if values[name] == [] else values[name] for name in wanted} == wanted
    sources = [cell.source for cell in read(notebooks.RESULTS).cells if cell.cell_type == "code"]
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (call,) = [each for each in calls if ast.unparse(each.func) == "findings.analyse"]
    assert ast.unparse(call) == "findings.analyse(study, rates=Study.load(data_dir / LANDSCAPE), **asked)"
    (asked,) = re.findall(r"^asked = (\{.*?\})", "\n".join(sources), re.DOTALL | re.MULTILINE)
    assert eval(asked, {name: name for name in wanted}) == {name: name for name in wanted}


@pytest.mark.parametrize("name", notebooks.TRAINING)
def test_the_rule_of_the_mode(name):
    notebook = cells(read(name))
    scope = {"sweeps": sweeps, **defaults(read(name))}
    exec(notebook["experiments"].source, scope)
    (mode,) = [mode.name for mode in MODES.values() if mode.notebook == name]
    assert [
        (run.name, run.seed, run.batch_size, run.lr_scaling, run.warmup, run.warmup_epochs)
        for run in scope["experiments"]
    ] == [
        (mode, seed, size, MODES[mode].lr_scaling, MODES[mode].warmup, 2)
        for seed in scope["seeds"]
        for size in (SMALL_BATCH_SIZES if mode == "baseline_small" else LARGE_BATCH_SIZES)
    ]


@pytest.mark.parametrize("name", notebooks.TRAINING)
def test_every_setting_is_handed_on(name):
    assert not [field for field, value in SETTINGS.items() if value == getattr(Experiment(batch_size=1), field)]
    scope = {"sweeps": sweeps, **defaults(read(name)), **SETTINGS}
    exec(cells(read(name))["experiments"].source, scope)
    for run in scope["experiments"]:
        assert {field: getattr(run, field) for field in SETTINGS} == SETTINGS


@pytest.mark.parametrize("name", notebooks.TRAINING)
def test_from_parameters_to_results_with_another_optimizer_and_decay(tmp_path, name):
    """The cells one after another in this process; another test has papermill run them."""
    notebook = cells(read(name))
    scope = {"sweeps": sweeps, "datasets": datasets, "digest": digest, "figures": figures, "plots": plots, "plt": plt}
    exec(notebook["parameters"].source, scope)
    scope |= {**TINY, **OTHERWISE, "batch_sizes": [8, 64], "seeds": [0], "data_dir": tmp_path}
    for key in ("experiments", "images", "schedules", "train", "table", "figure"):
        exec(notebook[key].source, scope)
        if key == "schedules":
            (ax,) = plt.gcf().axes
            drawn = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    records = scope["records"]
    assert records["batch_size"].tolist() == [8, 8, 64, 64]
    for run in scope["experiments"]:
        assert {field: getattr(run, field) for field in OTHERWISE} == OTHERWISE
        line = drawn["B = 8, 64" if run.lr_scaling == "none" else f"B = {run.batch_size}"]
        rows = records[records["batch_size"] == run.batch_size]
        assert rows["learning_rate"].tolist() == [
            run.learning_rate(256 // run.batch_size * end - 1, 256 // run.batch_size) for end in (1, 2)
        ]
        if run.batch_size == 8 or run.lr_scaling != "none":  # the line of several is that of the smallest
            assert line[-1].tolist() == pytest.approx([2 - run.batch_size / 256, rows["learning_rate"].iloc[-1]])
    assert len(plt.gcf().axes) == 2  # accuracy and generalization error; the rate has a figure of its own
    plt.close("all")


def test_a_single_batch_size_and_seed_may_be_a_number():
    name = notebooks.TRAINING[2]
    scope = {"sweeps": sweeps, **defaults(read(name)), "batch_sizes": 128, "seeds": 0}
    exec(cells(read(name))["experiments"].source, scope)
    assert [(run.batch_size, run.seed) for run in scope["experiments"]] == [(128, 0)]


@pytest.mark.parametrize("recorded", [False, True])
def test_cells_below_an_interrupted_training_show_what_is_recorded(tmp_path, capsys, recorded):
    """Nothing below the cell that trains takes anything from it."""
    notebook = cells(read(notebooks.TRAINING[0]))
    scope = {"sweeps": sweeps, "digest": digest, "figures": figures, "plots": plots, "plt": plt}
    exec(notebook["parameters"].source, scope)
    scope |= {**TINY, "batch_sizes": [64, 128], "seeds": [0], "data_dir": tmp_path}
    exec(notebook["experiments"].source, scope)
    if recorded:
        sweeps.run(scope["experiments"][:1], data_dir=tmp_path)
    exec(notebook["table"].source, scope)
    exec(notebook["figure"].source, scope)
    assert scope["records"]["batch_size"].tolist() == ([64, 64] if recorded else [])
    assert (tmp_path / "figures" / "baseline_small.png").is_file()
    assert f"SHA-256 of all CSVs in data_dir: {digest(tmp_path)}" in capsys.readouterr().out
    plt.close("all")


def test_records_that_would_be_lost_with_the_session_are_named(tmp_path, monkeypatch, capsys):
    drive = tmp_path / "drive"
    monkeypatch.setattr(sys.modules["batchscale.sweeps.directories"], "COLAB_DRIVE", drive)
    there = drive / "MyDrive" / "data"
    assert sweeps.directories(tmp_path, there, "images", mount_drive=True) == (there, tmp_path / "images")
    assert "NOTE" not in capsys.readouterr().out
    assert sweeps.directories(tmp_path, "data", None, mount_drive=True) == (tmp_path / "data", tmp_path / "datasets")
    assert "mount_drive is True but data_dir is data, which is not on the Drive" in capsys.readouterr().out
    sweeps.directories(tmp_path, "data", None)
    assert "NOTE" not in capsys.readouterr().out


def test_notebooks_differ_in_a_few_lines():
    first, *others = (cells(read(name)) for name in notebooks.TRAINING)
    for other in others:
        assert list(other) == list(first)
        for key in ("setup", "directories", "images", "network", "step", "plan", "schedules", "train", "table"):
            assert other[key].source == first[key].source, key
        for key in ("parameters", "experiments", "figure"):
            pairs = zip(other[key].source.splitlines(), first[key].source.splitlines(), strict=True)
            assert sum(ours != theirs for ours, theirs in pairs) <= 4, key


def test_sections():
    for name in notebooks.TRAINING:
        headings = [
            cell.source.splitlines()[0][3:5] for cell in read(name).cells if cell.source.startswith("## ")
        ]  # "## 1 Libraries, ..."
        assert headings == ["1 ", "2 ", "3 ", "4 "]


def papermill(notebook: Path, out: Path, cwd: Path, **parameters) -> nbformat.NotebookNode:
    """As in a terminal: papermill, an installed kernel, whatever directory one is in."""
    subprocess.run(
        [*(sys.executable, "-m", "papermill", str(notebook), str(out)), "-y", json.dumps(parameters)],
        cwd=cwd,
        check=True,
        capture_output=True,
    )
    return nbformat.read(out, as_version=4)


def text(notebook) -> str:
    return json.dumps([cell.get("outputs", []) for cell in notebook.cells])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows cannot interrupt a process")
@pytest.mark.parametrize(("number", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)])
def test_a_study_that_is_stopped_saves_and_leaves_no_process(tmp_path, number, send):
    """The kernel is in a group of its own, and its workers are its children."""
    flags = ["--dataset", "digits", "--width", "0.1", "--small", "2", "4", "--epochs", "9", "--workers", "2"]
    study = Run(["study", "--out", str(tmp_path / "out"), *flags], tmp_path / "log")
    wait_until(lambda: list((tmp_path / "out").glob("*.csv")) or not study.process.is_alive(), seconds=180)
    processes = psutil.Process(study.process.pid).children(recursive=True)
    assert len(processes) >= 2  # two kernels that train side by side
    send(study.process.pid, number)
    assert study.ended() == 128 + number
    assert study.said().splitlines()[-1] == "stopped; everything is saved: run again to continue"
    assert "Traceback" not in study.said()
    assert psutil.wait_procs(processes, timeout=20)[1] == []
    assert list((tmp_path / "out").glob("*.ckpt"))
    assert not list((tmp_path / "out").glob(".*"))


def test_a_terminal_shows_how_many_epochs_a_study_has_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for name, rows in (("baseline_small_bs8_seed0", 3), ("baseline_small_bs16_seed0", 2)):
        (tmp_path / f"{name}.csv").write_text("batch_size,epoch\n" + rows * "8,1\n")
    said = ""
    with notebooks._epochs_shown(tmp_path):
        while "5 epochs recorded" not in said:
            said += capsys.readouterr().err


@pytest.mark.slow
def test_from_a_folder_with_a_space_and_another_working_directory(tmp_path):
    """A copy of the project, its notebook started from a folder beside it, the project named in the first cell."""
    copy = tmp_path / "my copy"
    copy.mkdir()
    for name in ("models.py", f"{notebooks.TRAINING[0]}.ipynb"):
        shutil.copy(PROJECT / name, copy)
    shutil.copytree(PROJECT / "batchscale", copy / "batchscale")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    source = copy / f"{notebooks.TRAINING[0]}.ipynb"
    executed = papermill(
        source, elsewhere / "out.ipynb", elsewhere, project_dir=str(copy), data_dir="my data", **ONE_RUN
    )
    assert load(copy / "my data")["batch_size"].tolist() == [64, 64]  # relative to the project
    assert f"project {copy.name}" in text(executed)


@pytest.mark.slow
def test_from_below_the_project(tmp_path):
    """Not named: found above the working directory, before the installed package."""
    folder = tmp_path / "a b" / "notebooks"
    folder.mkdir(parents=True)
    shutil.copytree(PROJECT / "batchscale", folder.parent / "batchscale")
    shutil.copy(PROJECT / "models.py", folder.parent)
    executed = papermill(
        PROJECT / f"{notebooks.TRAINING[3]}.ipynb",
        folder / "out.ipynb",
        folder,
        **(ONE_RUN | {"epochs": 1}),
    )
    assert f"project {folder.parent.name}" in text(executed)
    assert load(folder.parent / "data")["epoch"].tolist() == [1]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Runs the cell that finds the project where there is none: in an empty folder, and nothing is installed."""
    content, elsewhere = tmp_path / "content", tmp_path / "else where"
    for folder in (content, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    finding, _, _ = cells(read(notebooks.TRAINING[0]))["setup"].source.partition("\ntry:\n")

    def found(**given) -> Path:
        scope = {"mount_drive": False, "project_dir": None, "project_url": str(tmp_path / "nowhere"), **given}
        exec(finding.replace('"/content', f'"{content}'), scope)
        return scope["project"]

    return found


def made_project(folder: Path) -> Path:
    (folder / "batchscale").mkdir(parents=True)
    (folder / "batchscale" / "experiment.py").touch()
    return folder


@pytest.mark.parametrize(
    "place", ["batchscale", "drive/MyDrive/batchscale", "drive/MyDrive/Colab Notebooks/batchscale"]
)
def test_the_project_is_found_in_the_usual_places_of_colab(alone, tmp_path, place):
    project = made_project(tmp_path / "content" / place)
    assert alone() == project.resolve()
    assert sys.path[0] == str(project.resolve())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_project_that_is_missing_is_fetched(alone, tmp_path, capsys):
    source = made_project(tmp_path / "source")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(source)]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    assert alone(project_url=source.as_uri()) == (tmp_path / "else where" / "batchscale").resolve()
    assert f"Fetching the project from {source.as_uri()} ..." in capsys.readouterr().out


@pytest.mark.parametrize("has_git", [True, False])
def test_a_project_that_cannot_be_fetched_is_a_message_and_no_traceback(alone, tmp_path, monkeypatch, has_git):
    if not has_git:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Exception, match="nowhere could not be fetched: set project_url, or project_dir") as stop:
        alone()
    assert stop.value._render_traceback_() == [str(stop.value)]
    with pytest.raises(Exception, match="No batchscale project in missing: correct project_dir"):
        alone(project_dir="missing")


def test_kernels_of_a_study_import_from_the_folder_where_it_is_started(tmp_path, monkeypatch):
    """They run in the project's folder, and the user's own network lies where the command was typed."""
    (tmp_path / "my_own_network.py").write_text("")
    monkeypatch.chdir(tmp_path)
    before, codes = dict(os.environ), []

    def executed(name, project, out, parameters):
        command = [sys.executable, "-c", "import my_own_network"]
        codes.append(subprocess.run(command, cwd=project, check=False).returncode)

    monkeypatch.setattr(notebooks, "_execute", executed)
    notebooks.execute(tmp_path / "out", {"model": "my_own_network:Net"})
    assert codes == [0] * 5
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("given", "at_once", "workers"),
    [
        ({"workers": 2, "small": [8, 16], "large": [64]}, 2, [1, 1, 1, 1]),
        ({"workers": 9, "small": [8, 16], "large": [64]}, 4, [2, 2, 2, 2]),
        ({"small": [8, 16], "large": [64]}, 1, [None] * 4),
        ({"workers": 2}, 1, [2] * 4),  # the study's own sizes overlap
        ({"workers": 2, "small": [8, 16], "large": [16, 64]}, 1, [2] * 4),  # 16 at the base rate is one run
        ({"workers": 2, "small": [4], "large": [8]}, 1, [2] * 4),  # up to the reference batch size too
        ({"workers": 2, "small": [4], "large": [8], "reference_batch_size": 4}, 2, [1, 1, 1, 1]),
    ],
)
def test_notebooks_of_a_study_run_side_by_side_unless_they_share_a_run(tmp_path, monkeypatch, given, at_once, workers):
    """The results notebook is the last, and sees all of them ended."""
    running, most, seen, lock = [0], [], {}, threading.Lock()

    def executed(name, project, out, parameters):
        with lock:
            running[0] += 1
            most.append(running[0])
        time.sleep(0.2)
        with lock:
            seen[name] = parameters.get("workers"), os.environ.get("OMP_NUM_THREADS")
            running[0] -= 1

    monkeypatch.setattr(notebooks, "_execute", executed)
    monkeypatch.setattr(notebooks, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    sizes = {key: given.pop(key) for key in ("small", "large") if key in given}
    notebooks.execute(tmp_path / "out", given, **sizes)
    assert list(seen)[-1] == notebooks.RESULTS
    assert (max(most[:-1]), most[-1]) == (at_once, 1)
    assert [seen[name][0] for name in notebooks.TRAINING] == workers
    assert {threads for _, threads in seen.values()} == {"5" if at_once == 1 else str(8 // at_once)}


def test_after_a_notebook_has_failed_no_other_is_begun(tmp_path, monkeypatch):
    begun = []

    def executed(name, project, out, parameters):
        begun.append(name)
        raise UserError(f"{name} failed")

    monkeypatch.setattr(notebooks, "_execute", executed)
    with pytest.raises(UserError, match=f"{notebooks.TRAINING[0]} failed"):
        notebooks.execute(tmp_path / "out", {"workers": 1})
    assert begun == [notebooks.TRAINING[0]]


@pytest.mark.slow
def test_recorded_runs_are_shown_without_images(tmp_path):
    """The committed records of CIFAR-10 can be looked at where there are no images, and no download is tried."""
    name = notebooks.TRAINING[3]
    small = {"data_dir": str(tmp_path / "data"), **ONE_RUN, **OTHERWISE, "train_size": None}
    first = papermill(PROJECT / f"{name}.ipynb", tmp_path / "first.ipynb", PROJECT, **small)
    for path in (tmp_path / "data").glob("*.json"):  # as if they had been trained on CIFAR-10
        path.write_text(path.read_text().replace('"digits"', '"cifar10"'))
    small |= {"dataset": "cifar10", "data_root": str(tmp_path / "nothing here")}
    executed = papermill(PROJECT / f"{name}.ipynb", tmp_path / "second.ipynb", PROJECT, **small)
    assert "All of these runs are recorded already; there are no images here, and none are needed." in text(executed)
    assert not (tmp_path / "nothing here").exists()
    assert set(load(tmp_path / "data")["updates"]) == {23, 46}  # of 1500 images
    noted = json.loads((tmp_path / "data" / "gradual_warmup_scaled_lr_bs64_seed0.json").read_text())["experiment"]
    assert {field: noted[field] for field in OTHERWISE} == OTHERWISE
    schedules = [
        [output.data["image/png"] for output in cells(notebook)["schedules"].outputs] for notebook in (first, executed)
    ]
    assert len(schedules[0]) == 1
    assert schedules[1] == schedules[0]  # the records say how many updates an epoch has


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        (notebooks.TRAINING[1], {"batch_sizes": [300]}, "batch_size is 300 but digits has 256 training images here"),
        (notebooks.RESULTS, {"data_dir": "{}/nothing"}, "holds no CSV; run one of the training notebooks first"),
        (notebooks.RESULTS, {}, "baseline.csv, line 2: accuracy is '62.1', which is not in 0-1; import it: "),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(tmp_path, name, wrong, message):
    (tmp_path / "baseline.csv").write_text(
        "batch_size,epoch,accuracy,generalization_error,running_time\n64,1,62.1,0.1,1\n"
    )
    out = tmp_path / "out.ipynb"
    given = {"data_dir": str(tmp_path), **(TINY if name in notebooks.TRAINING else {}), **wrong}
    given["data_dir"] = given["data_dir"].replace("{}", str(tmp_path))
    with pytest.raises(subprocess.CalledProcessError):
        papermill(PROJECT / f"{name}.ipynb", out, PROJECT, **given)
    (error,) = [
        output
        for cell in nbformat.read(out, as_version=4).cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert message in error.evalue
    assert len(error.traceback) == 1
