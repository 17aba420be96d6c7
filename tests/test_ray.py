"""A sweep on a real Ray cluster of two nodes, on this machine: one of them is killed, neither sees the folder, ...

Nodes, workers and the sweep are processes as they would be elsewhere; only the network between them is missing.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROJECT
from test_find import FLAGS as FIND
from test_find import noted
from test_sweeps import AS_SWEEP, SWEEP, assert_same_records, tiny

from batchscale.errors import UserError
from batchscale.records.record import Record
from batchscale.sweeps import ray_cluster
from batchscale.sweeps import sweep as sweeps

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or " " in sys.executable,
    reason="ray is not installed (pip install 'batchscale[ray]'), or in a folder with a space, where it cannot start",
)

MODELS = """
import os


def fails(num_classes):
    raise ValueError("not this one")


def kills(num_classes):
    if os.environ.get("RAY_JOB_ID"):
        os._exit(1)
"""


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes with a core each, and a GPU, or what the cluster takes for one, in the second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, about itself
        from ray.cluster_utils import Cluster

        # That a node is dead is noticed after seconds, not half a minute.
        checks = {"health_check_period_ms": 1000, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 2}
        settings = checks | {"worker_niceness": 0}  # with Ray's 15, other processes starve them
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": settings}
        running = Cluster(initialize_head=True, head_node_args=head)
        running.add_node(num_cpus=1, num_gpus=1)
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records of SWEEP, trained here."""
    folder = tmp_path_factory.mktemp("whole")
    sweeps.run(tiny([4, 8], **AS_SWEEP), data_dir=folder)
    return folder


class Sweep:
    """`python -m batchscale sweep --engine ray`, started from a folder with networks of its own."""

    def __init__(self, nodes, folder: Path, *arguments: str):
        (folder / "my_models.py").write_text(MODELS)
        self.log = folder / "log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "batchscale", *arguments, "--engine", "ray", "--ray-address", nodes.address],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(PROJECT)},
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        return self.log.read_text()

    def epochs(self) -> list[str]:
        """Those that were recorded: mode, batch size, seed, number."""
        return re.findall(r"(.* epoch \d+)/\d+: accuracy", self.said())

    def wait_for(self, reached) -> None:
        while not reached():
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)

    def ended(self) -> int:
        code = self.process.wait(timeout=100)
        assert "Traceback" not in self.said()
        return code


@pytest.mark.slow
@needs_ray
def test_a_node_is_killed_and_its_run_goes_on_elsewhere(nodes, whole, tmp_path):
    data = tmp_path / "data"
    flags = ["--data-dir", "data", "--gpus-per-run", "1", "--save-seconds", "0"]
    sweep = Sweep(nodes, tmp_path, *SWEEP, *flags)
    sweep.wait_for(lambda: len(sweep.epochs()) >= 2)
    nodes.remove_node(*nodes.worker_nodes, allow_graceful=False)
    assert not Record(tiny([4], **AS_SWEEP)[0], data).trained
    assert list(data.glob("*.ckpt"))
    nodes.add_node(num_cpus=1, num_gpus=1)
    assert sweep.ended() == 0, sweep.said()
    assert (
        "baseline_small B=4 seed 0: its node or process died; another one continues from the last save" in sweep.said()
    )
    assert len(sweep.epochs()) == len(set(sweep.epochs()))  # none was trained again
    assert_same_records(data, whole)
    assert {path.suffix for path in data.iterdir()} == {".csv", ".json"}


@pytest.mark.slow
@needs_ray
def test_nodes_that_do_not_see_the_folder(nodes, whole, tmp_path):
    """/proc/self/cwd is another folder in every process. Stopped, what is done so far comes back, to go on from."""
    own = ["--data-dir", "/proc/self/cwd/data"]
    sweep = Sweep(nodes, tmp_path, *SWEEP, *own)
    sweep.wait_for(lambda: len(sweep.epochs()) >= 2)
    assert not list((tmp_path / "data").glob("*.csv"))
    sweep.process.send_signal(signal.SIGINT)
    assert sweep.ended() == 130
    assert sweep.said().endswith("stopped; everything is saved: run again to continue\n")
    assert list((tmp_path / "data").glob("*.ckpt"))
    sweep = Sweep(nodes, tmp_path, *SWEEP, *own)
    assert sweep.ended() == 0, sweep.said()
    assert len(sweep.epochs()) == len(set(sweep.epochs()))
    assert_same_records(tmp_path / "data", whole)
    assert {path.suffix for path in (tmp_path / "data").iterdir()} == {".csv", ".json"}


@pytest.mark.slow
@needs_ray
def test_runs_that_fail_do_not_end_the_sweep(nodes, tmp_path, monkeypatch, capsys):
    """One raises, one takes its process with it every time. What says so comes from the code that was sent along."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_cluster, "RETRIES", 1)
    (tmp_path / "my_models.py").write_text(MODELS)
    (good,) = tiny([64])
    fails, kills = (replace(good, name=name, width=1, model=f"my_models:{name}") for name in ("fails", "kills"))
    with pytest.raises(UserError) as error:
        sweeps.run([kills, fails, good], engine="ray", ray_address=nodes.address)
    failed, killed = sorted(str(error.value).split("; "))
    place = r"\(\S+_ray_pkg_\S+/my_models\.py:\d+\)"
    expected = rf"{fails}: model my_models:fails failed for width 1\.0: ValueError: not this one {place}"
    assert re.fullmatch(expected, failed)
    assert killed.startswith(f"{kills}: its node or process died 2 times (")
    said = capsys.readouterr().out
    assert said.count(f"{kills}: its node or process died; another one continues from the last save\n") == 1
    assert said.count(": failed, ") == 2
    assert f"/3] {good}: complete, 2 epochs" in said
    assert Record(good, tmp_path / "data").finished


@pytest.mark.slow
@needs_ray
def test_a_search(nodes, tmp_path):
    """As many runs at once as the cluster has cores; the next is chosen when one has ended."""
    data = noted(tmp_path / "data")
    search = Sweep(nodes, tmp_path, *FIND, "--within", "10", "--data-dir", "data")
    assert search.ended() == 0, search.said()
    assert {path.suffix for path in data.iterdir()} == {".csv", ".json"}
    assert len(re.findall(r"^\[\d+\] ", search.said(), re.MULTILINE)) == len(list(data.glob("*.csv")))
    assert "small batches, base rate: threshold " in search.said()


@needs_ray
def test_no_cluster(tmp_path):
    with pytest.raises(UserError, match="no Ray cluster answers at"):
        sweeps.run(tiny([64]), data_dir=tmp_path, engine="ray", ray_address="127.0.0.1:9")


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'which is not installed; pip install "batchscale\[ray\]"'):
        sweeps.run(tiny([64]), data_dir=tmp_path, engine="ray")


@needs_ray
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 2}, "workers is 2 but engine is ray"),
        ({"scratch_dir": "scratch"}, "scratch_dir is scratch but engine is ray"),
        ({"cores_per_run": 0}, "cores_per_run is 0; it must be a whole number of at least 1"),
        ({"gpus_per_run": -1}, "gpus_per_run is -1; it must be a fraction from 0 to 1, or a whole number"),
        ({"gpus_per_run": 1.5}, r"gpus_per_run is 1\.5; it must be"),
    ],
)
def test_settings(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        sweeps.run(tiny([64]), data_dir=tmp_path, engine="ray", **settings)


def test_ray_in_a_folder_with_a_space(monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(sys, "executable", "/home/me/my work/.venv/bin/python")
    with pytest.raises(UserError, match=r"/home/me/my work/\.venv/bin/python has a space in its path; install"):
        ray_cluster.require()
