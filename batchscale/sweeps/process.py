"""A process that trains: one experiment after another, each saved after every epoch."""

import contextlib
import functools
import math
import time

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records import provenance
from batchscale.records.checkpoint import NotLoadable
from batchscale.records.files import Busy, Copies, SaveError, lock, write_whole
from batchscale.records.record import Record
from batchscale.sweeps.display import summary
from batchscale.sweeps.failure import Failure
from batchscale.sweeps.options import Options, Report
from batchscale.sweeps.pending import latest
from batchscale.sweeps.signals import Stop
from batchscale.sweeps.source import Listed, Source
from batchscale.sweeps.torchrun import group

WAIT_SECONDS = 0.5  # between two attempts to lock an experiment that another process is training


class _StopTraining(Exception):
    """Leaves the loop of updates once the state is saved."""


class Process:
    """A process that trains the experiments that no other process has locked, one after another.

    Args:
        data: data set of all experiments; None loads the data set of each by its name.

    Attributes:
        failures: the experiments that failed so far.
    """

    def __init__(self, options: Options, report: Report, stop: Stop, data=None):
        self.options, self.report, self.stop, self.data = options, report, stop, data
        self.group = group()
        self.failures: list[Failure] = []
        self._copies: Copies | None = None
        self._loaded = None  # data set of the latest run; to read somebody's files may take longer than a run
        self._cannot_save = False
        self._source: Source = Listed([])

    def work(self, source: Source) -> list[Failure]:
        """Bring every experiment of the source to its end, in this process or in another one; returns the failures."""
        from batchscale.training.memory import memory_kept

        self._source = source
        with contextlib.ExitStack() as stack:
            stack.enter_context(memory_kept())
            if self.options.scratch_dir is not None:
                notice = functools.partial(self.report, "notice", None)
                self._copies = stack.enter_context(Copies(self.options.data_dir, notice))
            self._share(source)
        return self.failures

    def _share(self, source: Source) -> None:
        """Train the first offer that is not locked, and ask again; wait while all are, until nothing is offered."""
        is_told = False
        while offers := self._offers(source):
            busy: dict[Experiment, str] = {}  # locked by another process -> its name
            for experiment in offers:
                if self.stop.is_set() or self._cannot_save or self.group.is_out_of_step:
                    return
                try:
                    with lock(self.options.lock_file(experiment), self.options.holder):
                        self._attempt(experiment, source)
                except Busy as other:
                    # The processes of the same sweep are always waited for.
                    if self.options.when_locked == "wait" or other.holder == self.options.holder:
                        busy[experiment] = other.holder
                        continue
                    reason = f"{other.holder} is training it; run again once it has finished"
                    self.failures.append(Failure(experiment, reason))
                except UserError as error:
                    self._fail(experiment, error, source.is_single)
                source.end(experiment)
                break
            if len(busy) == len(offers):
                others = [item for item in busy.items() if item[1] != self.options.holder]
                if others and not is_told:
                    is_told = True
                    self.report("notice", None, "waiting for {}, which {} is training".format(*others[0]))
                time.sleep(WAIT_SECONDS)

    def _offers(self, source: Source) -> list[Experiment]:
        try:
            return [] if self.stop.is_set() else source.offers()
        except UserError as error:
            self.failures.append(Failure(None, str(error)))
            return []

    def _attempt(self, experiment: Experiment, source: Source) -> None:
        """Complete a locked experiment, unless it failed in another process of this sweep."""
        if source.may_train(experiment):
            try:
                self._complete(experiment)
            except Exception:
                source.fail(experiment)  # before the lock is released, for which another process may wait
                raise

    def _fail(self, experiment: Experiment, error: UserError, is_single: bool) -> None:
        failure = Failure(experiment, str(error))
        self.failures.append(failure)
        self._cannot_save = isinstance(error, SaveError)  # the next experiment could not be saved either
        if not (is_single or self._cannot_save or self.group.is_out_of_step):  # otherwise the error at the end suffices
            self.report("failure", experiment, failure)

    def _complete(self, experiment: Experiment) -> None:
        """Bring a locked record from its present state to its end, or until `stop` is set."""
        scratch = self.options.scratch_dir
        notice = functools.partial(self.report, "notice", experiment)
        record = latest(experiment, self.options.data_dir, scratch, notice)
        if scratch is not None and record.folder != scratch:
            if record.finished:
                return
            for file in reversed(record.files):  # the sidecar first: a CSV without one cannot be continued
                if file.exists():
                    write_whole(scratch / file.name, file.read_bytes())
            record = Record(experiment, scratch, notice)
        if not record.trained:
            self._train(experiment, record)
        elif not record.finished:
            record.finish(keep_state=self.options.keep_state)
        self._copy(record)

    def _copy(self, record: Record) -> None:
        if self._copies is not None:
            self._copies.request(record.files, move=record.finished)

    def _train(self, experiment: Experiment, record: Record) -> None:
        """Train, with smaller micro-batches whenever the device runs out of memory and the user allows it."""
        from batchscale.training import datasets
        from batchscale.training.loop import Training
        from batchscale.training.memory import OutOfMemory, free_memory

        if self.data is None and getattr(self._loaded, "name", None) != experiment.dataset:
            self._loaded = datasets.load(experiment.dataset, self.options.data_root)
        data = self.data or self._loaded
        images_at_once: dict[str, int] = {}
        while True:
            try:
                return self._train_with(Training(experiment, data, group=self.group), images_at_once, record)
            except OutOfMemory as error:
                if self.group.is_out_of_step:  # the other workers cannot be told to use smaller micro-batches
                    raise UserError(f"{error}; use --micro-batch-size {max(1, error.images // 2)}") from error
                images, where, problem = error.images, error.where, str(error)
            # Outside the except clause, whose error refers to everything that must be freed.
            free_memory()
            if images == 1:
                raise UserError(f"the device has {problem}; use a smaller network or another device")
            if where == "training" and self.options.on_out_of_memory == "stop":
                largest = Training(experiment, data).largest_that_fits(images)
                raise UserError(
                    f"the device has {problem}; the largest batch that fits is {largest}: use a smaller batch, "
                    f"--micro-batch-size {largest} or --on-out-of-memory split"
                )
            images_at_once[where] = images // 2
            seen = ", and batch norm sees each micro-batch separately" if where == "training" else ""
            line = f"{problem}: continuing from the last save with at most {images // 2} images at once{seen}"
            self.report("notice", experiment, line)

    def _train_with(self, training, images_at_once: dict[str, int], record: Record) -> None:
        """Train from the record's present state; save every epoch, and long ones also in between."""
        experiment, made_of = training.experiment, provenance.made_of(training)
        _require_resumable(training, record)
        state = record.resume(made_of)
        if state is not None:
            training.load_state_dict(state)
        training.limit(images_at_once)
        facts = provenance.facts(training, record.noted)
        for line in provenance.notices(facts, record.noted, experiment.batch_size):
            self.report("notice", experiment, line)
        for line in training.remarks:
            self.report("remark", None, line)
        if not self.options.noise_scale and any(math.isfinite(row.noise_scale) for row in record.rows):
            self.report(
                "notice",
                experiment,
                "the noise scale is not measured any more; analysis counts further epochs "
                "of this run as not measurable",
            )
        record.start(**made_of, **facts)
        self.group.broadcast((experiment, self.options.data_root, state, made_of))  # the other workers train the same
        saved = time.monotonic()

        def between_updates(progress) -> None:
            nonlocal saved
            self.report("progress", experiment, progress)
            is_stopping = self.stop.is_set()
            if is_stopping or time.monotonic() - saved > self.options.save_seconds:
                record.save_state(training.state_dict())
                self._copy(record)
                saved = time.monotonic()
            if is_stopping:
                raise _StopTraining

        try:
            epochs = training.epochs(between_updates, with_noise_scale=self.options.noise_scale)
            with contextlib.closing(epochs):
                for epoch in epochs:
                    record.add(epoch, training.state_dict())
                    self._copy(record)
                    saved = time.monotonic()
                    self.report("epoch", experiment, epoch)
                    if epoch.epoch < experiment.epochs and (self.stop.is_set() or self._is_lost(experiment, record)):
                        return
        except _StopTraining:
            return
        is_kept = self.options.keep_weights or record.weights.exists()  # which are those of fewer epochs
        record.finish(
            "diverged" if training.diverged else "complete",
            keep_state=self.options.keep_state,
            weights=training.model.state_dict() if is_kept else None,
        )
        self.report("finish", experiment, summary(experiment, record.status, record.rows))

    def _is_lost(self, experiment: Experiment, record: Record) -> bool:
        """Whether the source gives up a run, which its sidecar then notes. It remains one that could be continued."""
        at_most = self._source.at_most(experiment, record.rows)
        if at_most is None:
            return False
        record.note(lost={"epoch": record.rows[-1].epoch, "at_most": at_most})
        self._copy(record)
        self.report("finish", experiment, summary(experiment, f"given up, at most {at_most:.4f}", record.rows))
        return True


def _require_resumable(training, record: Record) -> None:
    """Load the initial state back into its own training, as a later sitting would, before anything is written.

    Raises:
        UserError: the state cannot be saved and loaded, or the network does not take it back.
    """
    try:
        training.load_state_dict(record.as_loaded(training.state_dict()))
    except (NotLoadable, MemoryError):
        raise
    except Exception as error:  # a user's network may raise anything
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"model {training.experiment.model} does not take back the state that it saves ({reason:.200}), so the run "
            f"could not be continued; add the set_extra_state that belongs to get_extra_state, or mend load_state_dict"
        ) from error
