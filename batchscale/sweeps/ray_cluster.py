"""A sweep on a Ray cluster: each run is a task, which Ray starts where the requested cores and GPUs are free.

    python -m batchscale sweep --engine ray --gpus-per-run 1 --cores-per-run 4      # on any node of a Ray cluster

The code is sent to the cluster once. The images go into its object store, from which each node fetches them once. If a
node sees `data_dir`, it trains there like a local process; if it dies, the next node continues from the checkpoint. Any
other node trains in a temporary folder, and the files are returned when the run ends or is stopped.
"""

import contextlib
import importlib.util
import logging
import math
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from batchscale.errors import UserError, first_line
from batchscale.experiment import Experiment
from batchscale.records.files import Busy, forget_dead, lock, write_whole
from batchscale.records.record import Record
from batchscale.sweeps.failure import Failure
from batchscale.sweeps.options import Options, Report
from batchscale.sweeps.pending import latest
from batchscale.sweeps.process import WAIT_SECONDS
from batchscale.sweeps.ray_task import Mailbox, files_of, train
from batchscale.sweeps.signals import Stop
from batchscale.sweeps.source import Listed, Source

RETRIES = 3  # for a run whose node or process died; the run itself may be the cause


def require() -> None:
    """Check that this machine can start Ray.

    Raises:
        UserError: Ray is not installed, or is installed in a folder with a space in its path.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError('engine is ray, which is not installed; pip install "batchscale[ray]"')
    if " " in sys.executable:
        raise UserError(
            f"engine is ray, which starts its workers through a shell, and {sys.executable} has a space in its path; "
            f"install batchscale in another folder"
        )


def work(source: Source, options: Options, report: Report, stop: Stop) -> list[Failure]:
    """Bring every experiment to its end on some node; returns the failures.

    Raises:
        UserError: no cluster answers at `options.ray_address`, or the cluster failed.
    """
    options = replace(options, data_dir=options.data_dir.absolute())  # a task starts in another folder
    with (
        _connected(options.ray_address),
        tempfile.NamedTemporaryFile(dir=options.data_dir, prefix=".", suffix=".tmp") as mark,
    ):
        tasks = _Tasks(source, options, report, mark.name)
        tasks.submit_offers()
        tasks.tell_if_no_node_has_room()
        while tasks.running:
            ended = tasks.ended()
            # After `ended`: a task ends only once all its messages have arrived.
            tasks.pass_on_reports(stop.is_set())
            for reference in ended:
                tasks.collect(reference)
            if stop.is_set():
                tasks.cancel_waiting()
            elif ended:
                tasks.submit_offers()
    return tasks.failures


class _Tasks:
    """The tasks of a sweep, one per run. A task whose node or process dies is submitted again.

    Attributes:
        failures: the experiments that failed so far.
        running: submitted tasks that are not collected, by Ray's reference.
    """

    def __init__(self, source: Source, options: Options, report: Report, mark: str):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.source, self.options, self.report, self._mark = source, options, report, mark
        self.failures: list[Failure] = []
        self.running: dict = {}
        self._images: dict = {}  # name of a data set -> reference of its arrays
        self._started: dict[Experiment, tuple[int, str]] = {}  # process and machine
        self._deaths: Counter[Experiment] = Counter()
        beside_us = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=beside_us).remote()
        # Ray's own retries would be silent, and would not send the files that were saved in the meantime.
        reserved = {"num_cpus": options.cores_per_run, "num_gpus": options.gpus_per_run}
        self._train = ray.remote(train).options(**reserved, max_retries=0)

    def submit_offers(self) -> None:
        """Submit what the source offers: a list at once, of a search as many as the cluster has room for."""
        most = min(self.source.most, self._slots())
        while len(self.running) < most:
            try:
                offers = self.source.offers(self.running.values())
            except UserError as error:
                self._fail(Failure(None, str(error)))
                return
            if not offers:
                return
            self.submit(offers[0])

    def _slots(self) -> float:
        """Of runs that the cluster trains at the same time; at least 1. A list waits in Ray's own queue."""
        if isinstance(self.source, Listed):
            return math.inf
        import ray

        has, slots = ray.cluster_resources(), []
        for name, each in (("CPU", self.options.cores_per_run), ("GPU", self.options.gpus_per_run)):
            slots += [has.get(name, 0) / each] if each else []
        return max(1, math.floor(min(slots) + 1e-9))

    def submit(self, experiment: Experiment) -> None:
        import ray

        try:
            if experiment.dataset not in self._images:
                self._images[experiment.dataset] = ray.put(_arrays(experiment.dataset, self.options.data_root))
            files = files_of(experiment, self.options.data_dir)
        except UserError as error:
            self._fail(Failure(experiment, str(error)))
            self.source.end(experiment)
            return
        images = self._images[experiment.dataset]
        reference = self._train.remote(experiment, self.options, self._mark, images, files, self._mailbox)
        self.running[reference] = experiment

    def tell_if_no_node_has_room(self) -> None:
        import ray

        cores, gpus = self.options.cores_per_run, self.options.gpus_per_run
        for node in ray.nodes():
            has = node["Resources"]
            if node["Alive"] and has.get("CPU", 0) >= cores and has.get("GPU", 0) >= gpus:
                return
        if self.running:
            line = f"no node has cores_per_run {cores} and gpus_per_run {gpus:g}; waiting for one that has"
            self.report("notice", None, line)

    def ended(self) -> list:
        """References of the tasks that ended, after a short wait."""
        import ray

        return ray.wait(list(self.running), timeout=0.2)[0]

    def pass_on_reports(self, is_stopping: bool) -> None:
        """Report what the tasks sent, and tell them whether to stop."""
        import ray

        for event, experiment, content in map(pickle.loads, ray.get(self._mailbox.take.remote(is_stopping))):
            if event == "start":
                self._started[experiment] = content
            else:
                self.report(event, experiment, content)

    def collect(self, reference) -> None:
        """Take the result of a task that ended, or submit it again if its node or process died."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        experiment = self.running.pop(reference)
        try:
            failures, files = ray.get(reference)
            _bring_back(experiment, files, self.options, self.report)
            for failure in failures:
                self._fail(failure)
        except RayTaskError as error:
            self._fail(Failure(experiment, f"{type(error.cause).__name__}: {first_line(error.cause)}"))
        except RayError as error:
            self._submit_again(experiment, type(error).__name__)
        except Busy:  # another sweep trains it here as well; the result is kept until that one has ended
            self.running[reference] = experiment
            time.sleep(WAIT_SECONDS)
        except UserError as error:
            self._fail(Failure(experiment, str(error)))
        if experiment not in self.running.values():
            self.source.end(experiment)

    def _submit_again(self, experiment: Experiment, cause: str) -> None:
        forget_dead(self.options.lock_file(experiment), *self._started.pop(experiment, (0, "")))
        self._deaths[experiment] += 1
        if self._deaths[experiment] > RETRIES:
            times = self._deaths[experiment]
            self._fail(Failure(experiment, f"its node or process died {times} times ({cause})"))
        else:
            self.report("notice", experiment, "its node or process died; another one continues from the last save")
            self.submit(experiment)

    def cancel_waiting(self) -> None:
        """Cancel the tasks that have not begun. The others save and end by themselves."""
        import ray

        for reference in [each for each, experiment in self.running.items() if experiment not in self._started]:
            ray.cancel(reference)
            del self.running[reference]

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        if failure.experiment is not None:
            self.source.fail(failure.experiment)
        if not self.source.is_single:
            self.report("failure", failure.experiment, failure)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to the cluster. An existing connection of this process is used with the code that it has."""
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory() as code:
        _copy_code(Path(code))
        _connect(address, code)
    try:
        yield
    except RayError as error:  # not of a task, but of the node on which this process runs
        raise UserError(f"the Ray cluster failed ({first_line(error)}); run again to continue") from error
    finally:
        ray.shutdown()


def _connect(address: str | None, code: str) -> None:
    import ray
    from ray.exceptions import RayError

    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    where = address or os.environ.get("RAY_ADDRESS", "")
    host, _, port = where.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():  # ray.init would retry for minutes if nobody answers
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(
            address,
            runtime_env={"working_dir": code},
            include_dashboard=False,
            log_to_driver=False,  # tasks report through the mailbox
            logging_level=logging.ERROR,
        )
    except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no Ray cluster answers{' at ' * bool(where)}{where} ({reason}); start one with ray start --head, "
            f"or set --ray-address to another one (local: a cluster of this machine only)"
        ) from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, handler)  # ray.init installs its own handler, which saves nothing


def _copy_code(to: Path) -> None:
    """Copy the Python files that a node imports: the modules and packages of the current folder, in which networks are
    looked up; this package; and `models`, wherever it is."""
    here, package, models = Path.cwd(), Path(__file__).parents[1], importlib.util.find_spec("models")
    files = dict.fromkeys(here.glob("*.py"), here)
    for start in here.glob("*/__init__.py"):
        files |= dict.fromkeys(start.parent.rglob("*.py"), here)
    files |= dict.fromkeys(package.rglob("*.py"), package.parent)
    if models is not None:
        files[Path(models.origin)] = Path(models.origin).parent
    for file, root in files.items():
        target = to / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _arrays(dataset: str, data_root: str | os.PathLike | None) -> dict:
    """The fields of a data set as NumPy arrays, which all tasks of a node read from shared memory."""
    from batchscale.training import datasets

    data = datasets.load(dataset, data_root)
    content = {field.name: getattr(data, field.name) for field in fields(data)}
    return {name: value.numpy() if hasattr(value, "numpy") else value for name, value in content.items()}


def _bring_back(experiment: Experiment, files: dict[str, bytes], options: Options, report: Report) -> None:
    """Write the files of a run trained in a node's own folder, the sidecar last, unless `data_dir` is more advanced.

    Raises:
        Busy: another process is training the same experiment.
        SaveError: a file cannot be written.
    """
    if not files:
        return
    with lock(options.lock_file(experiment), options.holder), tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)

        def notice(line: str) -> None:
            report("notice", experiment, line)

        if latest(experiment, options.data_dir, Path(folder), notice).folder == Path(folder):
            for name, content in files.items():
                write_whole(options.data_dir / name, content)
            record = Record(experiment, options.data_dir, notice)
            if record.trained and not record.finished:  # the checkpoint of an earlier part is still here
                record.finish(keep_state=options.keep_state)
