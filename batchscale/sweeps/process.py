"""A process that trains: one experiment after another, each kept as it goes."""

import contextlib
import functools
import platform
import re
import time
from pathlib import Path

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records.files import Busy, Copies, SaveError, lock, write_whole
from batchscale.records.record import Record
from batchscale.sweeps.display import summary
from batchscale.sweeps.options import WAIT_SECONDS, Options, Report
from batchscale.sweeps.pending import latest
from batchscale.sweeps.signals import Stop
from batchscale.training.memory import memory_kept


class _StopTraining(Exception):
    """Leaves the loop of updates once the state is saved."""


class Process:
    """A process that trains: it takes the experiments that nobody else has, one after another.

    `data` is the data set of all of them, if it is there already; None: it is loaded by its name.
    """

    def __init__(self, setting: Options, report: Report, stop: Stop, data=None):
        from batchscale.sweeps import torchrun

        self.setting, self.report, self.stop, self.data = setting, report, stop, data
        self.group = torchrun.group()
        self.copies: Copies | None = None

    def work(self, experiments: list[Experiment]) -> list[str]:
        """Bring each of them to its end, whoever does it; what failed, a line each."""
        with memory_kept():
            if self.setting.scratch is None:
                return self._share(experiments)
            with Copies(self.setting.data_dir, functools.partial(self.report, "notice", None)) as self.copies:
                return self._share(experiments)

    def _share(self, experiments: list[Experiment]) -> list[str]:
        setting, failures, todo, told = self.setting, [], list(experiments), False
        while todo and not self.stop.is_set():
            busy = {}
            for experiment in todo:
                if self.stop.is_set():
                    break
                try:
                    with lock(setting.lock_file(experiment), setting.sweep):
                        self._complete(experiment)
                except Busy as other:
                    if setting.when_locked == "wait" or other.holder == setting.sweep:  # our own workers are waited for
                        busy[experiment] = other.holder
                    else:
                        failures.append(f"{experiment} is being trained by {other.holder}")
                except SaveError as error:  # nor could the next one be saved
                    return [*failures, f"{experiment}: {error}"]
                except UserError as error:
                    failures.append(f"{experiment}: {error}")
                    if self.group.is_out_of_step:  # the other workers cannot go on to the next one
                        return failures
                    if len(experiments) > 1:
                        self.report("finish", experiment, f"{experiment}: failed, {error}")
            if busy and len(busy) == len(todo):
                others = [(experiment, holder) for experiment, holder in busy.items() if holder != setting.sweep]
                if others and not told:
                    told = True
                    self.report("notice", None, "waiting for {}, which {} is training".format(*others[0]))
                time.sleep(WAIT_SECONDS)
            todo = list(busy)
        return failures

    def _complete(self, experiment: Experiment) -> None:
        """Bring a record, whose lock is held, to its end, from wherever it stands, or to where `stop` is set."""
        scratch = self.setting.scratch
        notice = functools.partial(self.report, "notice", experiment)
        keeper = latest(experiment, self.setting.data_dir, scratch, notice)
        if scratch is not None and keeper.folder != scratch:
            if keeper.finished:
                return
            for file in keeper.files:
                if file.exists():
                    write_whole(scratch / file.name, file.read_bytes())
            keeper = Record(experiment, scratch, notice)
        if not keeper.trained:
            self._train(experiment, keeper)
        elif not keeper.finished:
            keeper.finish()
        self._copy(keeper)

    def _copy(self, keeper: Record) -> None:
        if self.copies is not None:
            self.copies.request(keeper.files, move=keeper.finished)

    def _train(self, experiment: Experiment, keeper: Record) -> None:
        """Train, in ever smaller micro-batches as long as the device has no room and the user allows it."""
        from batchscale.training import datasets
        from batchscale.training.loop import OutOfMemory, Training, free_memory

        data = self.data or datasets.load(experiment.dataset, self.setting.data_root)
        images_at_once = {}
        while True:
            try:
                return self._train_with(Training(experiment, data, group=self.group), images_at_once, keeper)
            except OutOfMemory as error:
                if self.group.is_out_of_step:  # nor could they be told to take less
                    raise UserError(f"{error}; take --micro-batch-size {max(1, error.images // 2)}") from error
                images, where, problem = error.images, error.where, str(error)
            # Out of the clause above, whose error refers to everything that is to be freed.
            free_memory()
            if images == 1:
                raise UserError(f"the device has {problem}; take a smaller network or another device")
            if where == "training" and self.setting.on_out_of_memory == "stop":
                largest = Training(experiment, data).largest_that_fits(images)
                raise UserError(
                    f"the device has {problem}; the largest batch that fits is {largest}: take a smaller batch, "
                    f"--micro-batch-size {largest} or --on-out-of-memory split"
                )
            images_at_once[where] = images // 2
            seen = ", which batch norm sees one by one" if where == "training" else ""
            how = f"going on from what was saved last with at most {images // 2}{seen}"
            self.report("notice", experiment, f"{problem}: {how}")

    def _train_with(self, training, images_at_once: dict[str, int], keeper: Record) -> None:
        """Train from wherever the record stands, keeping every epoch, and long ones in the middle."""
        experiment = training.experiment
        state = keeper.resume()
        if state is not None:
            training.load_state_dict(state)
        training.limit(images_at_once)
        keeper.start(**_facts(training))
        self.group.from_first((experiment, self.setting.data_root, state))  # the other workers follow
        saved = time.monotonic()

        def between_updates(progress) -> None:
            nonlocal saved
            self.report("progress", experiment, progress)
            stopping = self.stop.is_set()
            if stopping or time.monotonic() - saved > self.setting.save_seconds:
                keeper.save_state(training.state_dict())
                self._copy(keeper)
                saved = time.monotonic()
            if stopping:
                raise _StopTraining

        try:
            with contextlib.closing(training.epochs(between_updates)) as records:
                for record in records:
                    keeper.add(record, training.state_dict())
                    self._copy(keeper)
                    saved = time.monotonic()
                    self.report("record", experiment, record)
                    if self.stop.is_set() and record.epoch < experiment.epochs:
                        return
        except _StopTraining:
            return
        keeper.finish("diverged" if training.diverged else "complete")
        self.report("finish", experiment, summary(experiment, keeper.status, keeper.rows))


def _cpu() -> str:
    """What the CPU is called; Linux says it in a file of its own, if at all."""
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _facts(training) -> dict:
    """What the sidecar notes besides the experiment: where it runs, and what follows from the experiment."""
    import torch

    device = training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    return {
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "workers": training.group.count,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "updates_per_epoch": training.updates_per_epoch,
        "train_images": len(training.data.train_images),
        "test_images": len(training.data.test_images),
        # Batch norm uses the statistics of a micro-batch ("ghost batch", Hoffer et al. 2017), which may have become
        # smaller in the middle of a run.
        "ghost_batch": [{"from_update": update, "images": size} for update, size in training.ghost_batches],
    }
