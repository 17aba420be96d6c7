"""What a user sees while runs go on: a bar for each of them, and one line for each that is done.

In a terminal the bars are tqdm's. In a notebook (Jupyter, Colab, papermill) they are tqdm's text in one output that is
updated in place, so that a saved notebook never keeps a half-finished widget. Where standard error is a file (the log
of a cluster), there is one line an epoch instead.
"""

import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm.std import tqdm

from batchscale.epoch import Epoch
from batchscale.experiment import Experiment

if TYPE_CHECKING:
    from batchscale.training.loop import Progress

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
_WIDE = 120  # columns from which there is room for the name of the mode and for whole words


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


def under_torchrun() -> bool:
    """Whether torchrun started this process, as one of several or alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def summary(experiment: Experiment, status: str, rows: list[Epoch]) -> str:
    """One line on a run that is done, as in `scaled_lr B=128 seed 0: complete, 10 epochs, accuracy 0.7120, 63.1 s`."""
    if not rows:
        return f"{experiment}: {status} in the first epoch"
    last = rows[-1]
    epochs = f"{last.epoch} epoch{'s' if last.epoch > 1 else ''}"
    return f"{experiment}: {status}, {epochs}, accuracy {last.accuracy:.4f}, {last.running_time:.1f} s"


class Display:
    """Shows several runs at once, as a context; `show` may be called from one thread only."""

    def __init__(self, runs: int):
        self.runs, self.done = runs, 0
        self._states: dict[Experiment, _State] = {}
        self._output = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception) -> None:
        for experiment in reversed(list(self._states)):  # tqdm puts the cursor back when the first bar is closed last
            self._forget(experiment)

    def show(self, what: str, experiment: Experiment | None, content) -> None:
        """An event of a run: its `progress`, the `record` of an epoch, the line with which it does `finish`, or a
        `notice`, which may also be about no run in particular."""
        show = {"progress": self._progress, "record": self._record, "finish": self._finish, "notice": self._notice}
        show[what](experiment, content)

    def _progress(self, experiment: Experiment, progress: "Progress") -> None:
        state = self._states.setdefault(experiment, _State(started_at=progress.images))
        state.progress = progress
        if in_notebook():
            self._update_output()
        elif sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns - 2  # room for the ^C that a terminal prints
            wide = columns >= _WIDE - 2
            if state.bar is None:
                state.bar = tqdm(
                    total=progress.total_images,
                    initial=progress.images,
                    bar_format=_FORMAT if wide else _FORMAT.replace(" left", ""),
                    leave=False,
                    mininterval=0,
                    ncols=columns,
                )
            state.bar.ncols = columns
            state.bar.set_description_str(_label(experiment, progress, wide), refresh=False)
            state.bar.set_postfix_str(state.numbers(wide), refresh=False)
            state.bar.update(progress.images - state.bar.n)

    def _record(self, experiment: Experiment, record: Epoch) -> None:
        self._states.setdefault(experiment, _State(started_at=0)).accuracy = record.accuracy
        if not in_notebook() and not sys.stderr.isatty():
            print(
                f"{experiment} epoch {record.epoch}/{experiment.epochs}: accuracy {record.accuracy:.4f}, "
                f"test loss {record.test_loss:.4f}, {record.images_per_second:.0f} images/s",
                file=sys.stderr,
                flush=True,
            )

    def _finish(self, experiment: Experiment, line: str) -> None:
        self.done += 1
        self._forget(experiment)
        tqdm.write(f"[{self.done}/{self.runs}] {line}", file=sys.stdout)
        sys.stdout.flush()

    def _notice(self, experiment: Experiment | None, line: str) -> None:
        tqdm.write(line if experiment is None else f"{experiment}: {line}", file=sys.stdout)
        sys.stdout.flush()

    def _forget(self, experiment: Experiment) -> None:
        state = self._states.pop(experiment, None)
        if state is not None and state.bar is not None:
            state.bar.close()
        if in_notebook():
            self._update_output()

    def _update_output(self) -> None:
        from IPython.display import display

        lines = [state.text(experiment) for experiment, state in self._states.items() if state.progress is not None]
        content = {"text/plain": "\n".join(lines)}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)


@dataclass
class _State:
    """One run on display."""

    started_at: int  # images it had seen when this display began: the time left is judged by what came after
    progress: "Progress | None" = None
    accuracy: float | None = None  # of the last epoch that is over
    bar: tqdm | None = None
    start: float = field(default_factory=time.monotonic)

    def numbers(self, wide: bool = True) -> str:
        accuracy = "" if self.accuracy is None else f", {'accuracy' if wide else 'acc'} {self.accuracy:.3f}"
        unit = "images/s" if wide else "img/s"
        return f"loss {self.progress.loss:.3f}{accuracy}, {self.progress.images_per_second:.0f} {unit}"

    def text(self, experiment: Experiment) -> str:
        return tqdm.format_meter(
            self.progress.images,
            self.progress.total_images,
            time.monotonic() - self.start,
            initial=self.started_at,
            ncols=_WIDE,
            prefix=_label(experiment, self.progress),
            postfix=self.numbers(),
            bar_format=_FORMAT,
        )


def _label(experiment: Experiment, progress: "Progress", wide: bool = True) -> str:
    if wide:
        return f"{experiment} epoch {progress.epoch}/{experiment.epochs}"
    return f"B={experiment.batch_size} s{experiment.seed} {progress.epoch}/{experiment.epochs}"
