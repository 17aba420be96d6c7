"""A sweep over many experiments: finished ones are skipped, the others are trained or continued.

    experiments = grid("scaled_lr", [128, 256], seeds=[0, 1], dataset="digits")
    records = run(experiments, data_dir="data", workers=2)

Every process takes the next experiment whose lock is free. In this way the processes of a sweep, and two sweeps on one
folder, share the work without further communication. Under torchrun the workers train each experiment together, see
`training.workers`; this module then runs in the first of them only.
"""

import contextlib
import signal
from collections.abc import Iterable

import pandas as pd

from batchscale import streams
from batchscale.experiment import Experiment
from batchscale.records import provenance
from batchscale.records.files import Busy, SaveError, lock, require_writable
from batchscale.sweeps import processes
from batchscale.sweeps.display import Display
from batchscale.sweeps.failure import Failure, as_error
from batchscale.sweeps.options import Options, Report
from batchscale.sweeps.pending import latest, rows_in, trained, unfinished
from batchscale.sweeps.process import Process
from batchscale.sweeps.same import sentences
from batchscale.sweeps.signals import Stop, Stopped, caught
from batchscale.sweeps.source import Listed, Source


def run(experiments: Iterable[Experiment], **options) -> pd.DataFrame:
    """Train what is not yet recorded in `data_dir`, and return the rows of all the experiments.

    Experiments that are one run under several names are trained once, see `pending.trained`; a line says so. Names are
    settled before training: of two sweeps that start at the same time, one may train the reference's run and the other
    the same run under another name.

    Args:
        experiments: what to train, in this order.
        options: fields of `Options`: where the files are, how many runs are trained at once, and so on.

    Raises:
        UserError: before training, an option is wrong, an experiment does not fit its files, or `data_dir` cannot be
            written; or, after all other experiments were trained, one of them failed.
        Stopped: Ctrl-C or SIGTERM arrived, and everything is saved.
    """
    processes.require_no_start()
    options = Options(**options)
    if options.engine == "ray":
        from batchscale.sweeps import ray_cluster

        ray_cluster.require()
    names = trained(experiments, options.data_dir, options.scratch_dir)
    experiments = list(dict.fromkeys(names.values()))
    todo = unfinished(experiments, options.data_dir, options.scratch_dir)
    _remove_unheld_locks(set(experiments).difference(todo), options)
    for line in sentences(names):
        print(line, file=streams.OUT, flush=True)
    if len(todo) < len(experiments):
        print(f"{len(experiments) - len(todo)} of {len(experiments)} recorded already", file=streams.OUT, flush=True)
    if todo:
        for folder in {options.data_dir, options.folder}:
            require_writable(folder)
        _require_images(todo, options)
        _require_same_data(set(experiments).difference(todo), todo, options)
        _train(todo, options)
    return rows_in(experiments, options.data_dir, options.scratch_dir)


def _require_same_data(finished: Iterable[Experiment], todo: list[Experiment], options: Options) -> None:
    """Compare a user's own data with those of the finished runs before others are trained on them.

    Raises:
        UserError: they are not the same, and the runs could not be compared.
    """
    from batchscale.training import datasets

    own = {experiment.dataset for experiment in todo if ":" in experiment.dataset}  # the others never change
    records = [latest(each, options.data_dir, options.scratch_dir) for each in finished if each.dataset in own]
    for name in {record.experiment.dataset for record in records if "data" in record.noted}:
        now = {"data": provenance.data(datasets.load(name, options.data_root))}
        for record in records:
            if record.experiment.dataset == name:
                record.require_same(now)


def _train(experiments: list[Experiment], options: Options) -> None:
    with Display(experiments) as display, caught(signal.SIGINT, signal.SIGTERM) as stop:
        failures = work(Listed(experiments), options, display.show, stop)
    if failures:
        raise as_error(failures)


def work(source: Source, options: Options, report: Report, stop: Stop) -> list[Failure]:
    """Train what a source offers, by the engine of the options; returns the failures.

    Raises:
        Stopped: a signal arrived, and everything is saved.
    """
    is_lost = False
    if options.engine == "ray":
        from batchscale.sweeps import ray_cluster

        failures = ray_cluster.work(source, options, report, stop)
    elif min(options.workers, source.most) > 1:
        failures = processes.work(source, options, report, stop)
    else:
        process = Process(options, report, stop)
        failures = process.work(source)
        is_lost = process.group.is_out_of_step  # torchrun then stops the remaining workers, by a signal
    if stop.signal is not None and not is_lost:
        raise Stopped(stop.signal)
    return failures


def _remove_unheld_locks(experiments: Iterable[Experiment], options: Options) -> None:
    """Remove lock files beside finished records, as a process killed at the very end leaves them."""
    for experiment in experiments:
        path = options.lock_file(experiment)
        if path.exists():
            with contextlib.suppress(Busy, SaveError), lock(path, options.holder):
                pass


def _require_images(experiments: list[Experiment], options: Options) -> None:
    """Download missing images before any run begins, so that Ctrl-C ends the download and one bar shows it."""
    from batchscale.training import datasets

    for name in dict.fromkeys(experiment.dataset for experiment in experiments):
        if not datasets.is_available(name, options.data_root):
            datasets.load(name, options.data_root)
