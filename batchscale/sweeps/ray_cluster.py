"""Many experiments on many machines, with Ray: each run is a task, which Ray starts where there is room for it.

    python -m batchscale sweep --engine ray --gpus-per-run 1 --cores-per-run 4      # on any node of a Ray cluster

The code goes to the cluster once, and the images into its object store, from which a node fetches them once for all its
runs. A node that sees `data_dir` trains there, as a local worker does: when it dies, the next one goes on from the
checkpoint. Any other trains in a folder of its own, and the files come back when the run ends or is stopped.
"""

import contextlib
import importlib.util
import logging
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from numbers import Real
from pathlib import Path

from batchscale.errors import UserError, first_line
from batchscale.experiment import Experiment
from batchscale.records.files import Busy, forget_dead, lock, write_whole
from batchscale.records.record import Record
from batchscale.sweeps.options import WAIT_SECONDS, Options, Report
from batchscale.sweeps.pending import latest
from batchscale.sweeps.process import Process
from batchscale.sweeps.signals import Stop

RETRIES = 3  # of a run whose node or process died: if it is the run that kills them, that has to end


def require(*, workers: int, gpus_per_run: float, cores_per_run: int, scratch: Path | None) -> None:
    """Check what a sweep with Ray needs.

    Raises:
        UserError: Ray is not installed, or a setting does not fit.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError('engine is ray, which is not installed; pip install "batchscale[ray]"')
    if workers != 1:
        raise UserError(
            f"workers is {workers} but engine is ray, which trains as many runs at a time as the cluster has room for; "
            f"leave it out, and say with cores_per_run and gpus_per_run what a run takes"
        )
    if scratch is not None:
        raise UserError(f"scratch_dir is {scratch} but engine is ray, whose nodes write to data_dir; leave it out")
    if not isinstance(cores_per_run, int) or isinstance(cores_per_run, bool) or cores_per_run < 1:
        raise UserError(f"cores_per_run is {cores_per_run!r}; it must be a whole number of at least 1")
    if not (isinstance(gpus_per_run, Real) and gpus_per_run >= 0 and (gpus_per_run <= 1 or gpus_per_run % 1 == 0)):
        raise UserError(f"gpus_per_run is {gpus_per_run!r}; it must be a fraction from 0 to 1, or a whole number")
    if " " in sys.executable:
        raise UserError(
            f"engine is ray, which starts its workers through a shell, and {sys.executable} has a space in its path; "
            f"install batchscale in another folder"
        )


def work(
    experiments: list[Experiment],
    setting: Options,
    report: Report,
    stop: Stop,
    *,
    gpus_per_run: float,
    cores_per_run: int,
    address: str | None,
) -> list[str]:
    """Bring each of them to its end, on whichever node; what failed, a line each.

    Args:
        address: of the cluster. None: RAY_ADDRESS, or the cluster that this machine belongs to, or one of this machine
            alone, for as long as the sweep takes.

    Raises:
        UserError: there is no cluster at that address.
    """
    setting = replace(setting, data_dir=setting.data_dir.absolute())  # a task starts in another folder
    failures, images, todo, started, deaths = [], {}, {}, {}, Counter()
    with _connected(address), tempfile.NamedTemporaryFile(dir=setting.data_dir, prefix=".", suffix=".tmp") as mark:
        import ray
        from ray.exceptions import RayError, RayTaskError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        beside_us = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=beside_us).remote()
        # Ray's own retries would come without a word, and without the files of a run that was begun earlier.
        task = ray.remote(_train).options(num_cpus=cores_per_run, num_gpus=gpus_per_run, max_retries=0)

        def fail(experiment: Experiment, line: str) -> None:
            failures.append(line)
            if len(experiments) > 1:
                report("finish", experiment, line.replace(": ", ": failed, ", 1))

        def submit(experiment: Experiment) -> None:
            try:
                if experiment.dataset not in images:
                    images[experiment.dataset] = ray.put(_arrays(experiment.dataset, setting.data_root))
                files = _files(experiment, setting.data_dir)
            except UserError as error:
                fail(experiment, f"{experiment}: {error}")
                return
            data = images[experiment.dataset]
            todo[task.remote(experiment, setting, mark.name, data, files, cores_per_run, mailbox)] = experiment

        for experiment in experiments:
            submit(experiment)
        if todo and not any(_has_room(node, gpus_per_run, cores_per_run) for node in ray.nodes()):
            what = f"cores_per_run {cores_per_run}, gpus_per_run {gpus_per_run:g}"
            report("notice", None, f"no node of the cluster has room for a run ({what}); waiting for one")
        while todo:
            done, _ = ray.wait(list(todo), timeout=0.2)
            # After that: a task ends when all that it had to tell has arrived.
            for what, experiment, content in map(pickle.loads, ray.get(mailbox.take.remote(stop.is_set()))):
                if what == "start":
                    started[experiment] = content
                else:
                    report(what, experiment, content)
            for reference in done:
                experiment = todo.pop(reference)
                try:
                    lines, files = ray.get(reference)
                    _bring_back(experiment, files, setting, report)
                    for line in lines:
                        fail(experiment, line)
                except RayTaskError as error:
                    fail(experiment, f"{experiment}: {type(error.cause).__name__}: {first_line(error.cause)}")
                except RayError as error:
                    forget_dead(setting.lock_file(experiment), *started.pop(experiment, (0, "")))
                    deaths[experiment] += 1
                    if deaths[experiment] > RETRIES:
                        times = f"its node or process died {deaths[experiment]} times"
                        fail(experiment, f"{experiment}: {times} ({type(error).__name__})")
                    else:
                        report("notice", experiment, "its node or process died; another goes on from what was saved")
                        submit(experiment)
                except Busy:  # somebody else trains it here as well: what came back is kept until that is over
                    todo[reference] = experiment
                    time.sleep(WAIT_SECONDS)
                except UserError as error:
                    fail(experiment, f"{experiment}: {error}")
            if stop.is_set():  # those that have begun save and end by themselves
                for reference in [each for each, experiment in todo.items() if experiment not in started]:
                    ray.cancel(reference)
                    del todo[reference]
    return failures


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to the cluster, or the one that this process has already, with the code that it was given."""
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        yield
        return
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    where = address or os.environ.get("RAY_ADDRESS", "")
    host, _, port = where.removeprefix("ray://").rpartition(":")
    with tempfile.TemporaryDirectory() as code:
        _copy_code(Path(code))
        try:
            if host and port.isdecimal():  # where nobody answers, ray.init would try for minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            ray.init(
                address,
                runtime_env={"working_dir": code},
                include_dashboard=False,
                log_to_driver=False,  # a task tells what a user is to see
                logging_level=logging.ERROR,
            )
        except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"no Ray cluster answers{' at ' * bool(where)}{where} ({reason}); start one with ray start --head, "
                f"or give another --ray-address (local: one of this machine alone)"
            ) from error
        finally:
            if in_main_thread:
                signal.signal(signal.SIGTERM, handler)  # ray.init puts its own in place of it, which saves nothing
    try:
        yield
    except RayError as error:  # no task's, but the node's that this process is on
        raise UserError(f"the Ray cluster failed ({first_line(error)}); start again to go on") from error
    finally:
        ray.shutdown()


def _copy_code(to: Path) -> None:
    """The Python files that a node imports: the modules and packages of the folder in which the sweep was started,
    where networks are looked up; this package; and `models`, wherever it is."""
    here, package, models = Path.cwd(), Path(__file__).parent, importlib.util.find_spec("models")
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
    """A data set as NumPy arrays, which all tasks of a node read from one place in its memory."""
    from batchscale.training import datasets

    content = vars(datasets.load(dataset, data_root))
    return {name: value.numpy() if hasattr(value, "numpy") else value for name, value in content.items()}


def _files(experiment: Experiment, folder: str | os.PathLike) -> dict[str, bytes]:
    """CSV, checkpoint and sidecar of a run, as far as it has them, in this order."""
    return {path.name: path.read_bytes() for path in Record(experiment, folder).files if path.exists()}


def _has_room(node: dict, gpus_per_run: float, cores_per_run: int) -> bool:
    has = node["Resources"]
    return node["Alive"] and has.get("CPU", 0) >= cores_per_run and has.get("GPU", 0) >= gpus_per_run


def _bring_back(experiment: Experiment, files: dict[str, bytes], setting: Options, report: Report) -> None:
    """Write what a node trained in a folder of its own, the sidecar last, unless `data_dir` has more by now.

    Raises:
        Busy: another process is training the same.
        SaveError: they cannot be written.
    """
    if not files:
        return
    with (
        lock(setting.lock_file(experiment), setting.sweep),
        tempfile.TemporaryDirectory() as folder,
    ):
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)

        def notice(line: str) -> None:
            report("notice", experiment, line)

        if latest(experiment, setting.data_dir, Path(folder), notice).folder == Path(folder):
            for name, content in files.items():
                write_whole(setting.data_dir / name, content)
            keeper = Record(experiment, setting.data_dir, notice)
            if keeper.trained and not keeper.finished:  # it had been begun here: its checkpoint is still there
                keeper.finish()


class _Mailbox:
    """An actor beside the sweep's process: tasks leave here what a user is to see, and look whether to stop."""

    def __init__(self):
        self._messages, self._stopping = [], False

    def put(self, message: bytes) -> None:
        self._messages.append(message)

    def take(self, stopping: bool) -> list[bytes]:
        """What has come since the last time; from now on, tasks are told whether to stop."""
        messages, self._messages, self._stopping = self._messages, [], stopping
        return messages

    def is_stopping(self) -> bool:
        return self._stopping


class _Link:
    """A task's side of the mailbox: its report, and its `Stop`.

    It waits for futures: while a task waits in ray.get or ray.wait, even for nothing, Ray gives its cores to another.
    """

    def __init__(self, mailbox):
        self._mailbox, self._sent, self._question = mailbox, None, None
        self._stopping = mailbox.is_stopping.remote().future().result()

    def send(self, *message) -> None:
        self._sent = self._mailbox.put.remote(pickle.dumps(message))  # bytes: the actor need not import torch

    def is_set(self) -> bool:
        """What the answer to the last question was; the training does not wait for the next."""
        if self._question is not None and self._question.done():
            self._stopping, self._question = self._question.result(), None
        if self._question is None:
            self._question = self._mailbox.is_stopping.remote().future()
        return self._stopping

    def flush(self) -> None:
        """Wait until all that was sent has arrived."""
        self._sent.future().result()


def _train(
    experiment: Experiment,
    setting: Options,
    mark: str,
    arrays: dict,
    files: dict[str, bytes],
    cores: int,
    mailbox,
) -> tuple[list[str], dict[str, bytes]]:
    """A run, on a node: what failed, and its files if this node does not see the `mark` in `data_dir`.

    `files` are those that `data_dir` has, to go on from.
    """
    link = _Link(mailbox)
    link.send("start", experiment, (os.getpid(), socket.gethostname()))
    import ray

    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray shows all of them to a task that asked for none
    import torch

    from batchscale.training.datasets import Dataset

    torch.set_num_threads(cores)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor is it written to
        arrays = {name: torch.from_numpy(each) if hasattr(each, "dtype") else each for name, each in arrays.items()}
    with tempfile.TemporaryDirectory() as own:
        if not Path(mark).exists():
            setting = replace(setting, data_dir=Path(own))
            for name, content in files.items():
                (Path(own) / name).write_bytes(content)
        failures = Process(setting, link.send, link, Dataset(**arrays)).work([experiment])
        trained = _files(experiment, own)
    link.flush()
    return failures, trained
