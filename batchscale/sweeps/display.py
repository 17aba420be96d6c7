"""What a user sees during a sweep: a progress bar per run in training, and a line per run that ends.

In a terminal the bars are tqdm's. In a notebook (Jupyter, Colab, papermill) they are text in one output that is updated
in place, so a saved notebook holds no unfinished widget, and lines fit beside a sidebar. If standard error is a file,
such as a cluster's log, one line per epoch replaces the bars.
"""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm.std import tqdm

from batchscale import streams
from batchscale.analysis.words import duration, percent
from batchscale.epoch import Epoch
from batchscale.experiment import Experiment
from batchscale.sweeps.failure import Failure
from batchscale.sweeps.pace import Pace

if TYPE_CHECKING:
    from batchscale.training.loop import Progress

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
_WIDE = 120  # columns needed for the name of the mode and for unabbreviated words
_BAR = 14  # columns of a bar in a notebook, whose lines have at most 78: a narrow JupyterLab shows so many


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


def summary(experiment: Experiment, status: str, rows: list[Epoch]) -> str:
    """The line of a run that ended: `scaled_lr B=128 seed 0: complete, 10 epochs, accuracy 0.7120, 63.1 s`."""
    if not rows:
        return f"{experiment}: {status} in the first epoch"
    last = rows[-1]
    epochs = f"{last.epoch} epoch{'s' if last.epoch > 1 else ''}"
    return f"{experiment}: {status}, {epochs}, accuracy {last.accuracy:.4f}, {last.running_time:.1f} s"


class Display:
    """Shows several runs at once, as a context. Call `show` from one thread only.

    Args:
        experiments: the runs to train; None: nobody knows.
    """

    def __init__(self, experiments: Sequence[Experiment] | None):
        self.runs, self.begun, self.ended = None if experiments is None else len(experiments), 0, 0
        self._pace = Pace(experiments or ())
        self._states: dict[Experiment, _State] = {}
        self._remarks: set[str] = set()
        self._output = None

    def __enter__(self) -> "Display":
        streams.occupy()
        if in_notebook():
            self._update_output()  # before processes start, which takes seconds
        return self

    def __exit__(self, *exception) -> None:
        for experiment in reversed(list(self._states)):  # tqdm restores the cursor if the first bar closes last
            self._forget(experiment)

    def show(self, event: str, experiment: Experiment | None, content) -> None:
        """Show an event of a run.

        Args:
            event: `progress`, `epoch`, `finish`, `failure`, `notice`, or `remark`, a notice that is shown once.
            experiment: the run; None for a notice about the whole sweep.
            content: a `Progress`, an `Epoch`, the run's `summary`, a `Failure` or a line, respectively.
        """
        getattr(self, f"_{event}")(experiment, content)

    def _progress(self, experiment: Experiment, progress: "Progress") -> None:
        state = self._state(experiment, progress.images)
        if state.progress is None:
            self._pace.begin(experiment, progress.total_images)
        state.progress = progress
        used, left = progress.images - state.started_at, progress.total_images - progress.images
        self._pace.note(experiment, used, time.monotonic() - state.start, left)
        if in_notebook():
            self._update_output()
        elif streams.ERR.isatty():
            columns, rows = shutil.get_terminal_size()  # not tqdm's, which shows nothing where the size is unknown
            columns -= 2  # leaves room for the ^C that a terminal prints
            wide = columns >= _WIDE - 2
            if state.bar is None:
                state.bar = tqdm(
                    total=progress.total_images,
                    initial=progress.images,
                    bar_format=_FORMAT if wide else _FORMAT.replace(" left", ""),
                    leave=False,
                    mininterval=0,
                    ncols=columns,
                    nrows=rows,
                    file=streams.ERR,
                )
            state.bar.ncols = columns
            state.bar.set_description_str(self._label(experiment, wide), refresh=False)
            state.bar.set_postfix_str(state.numbers(wide), refresh=False)
            state.bar.update(progress.images - state.bar.n)

    def _epoch(self, experiment: Experiment, epoch: Epoch) -> None:
        self._state(experiment, 0).accuracy = epoch.accuracy
        if not in_notebook() and not streams.ERR.isatty():
            print(
                f"{experiment} epoch {epoch.epoch}/{experiment.epochs}: accuracy {epoch.accuracy:.4f}, "
                f"test loss {epoch.test_loss:.4f}, {epoch.images_per_second:.0f} images/s",
                file=streams.ERR,
                flush=True,
            )

    def _finish(self, experiment: Experiment, line: str) -> None:
        self.ended += 1
        self._pace.end(experiment)
        self._forget(experiment)
        self._say(f"[{self.ended}{f'/{self.runs}' if self.runs else ''}] {line}")

    def _failure(self, experiment: Experiment, failure: Failure) -> None:
        self._finish(experiment, failure.line)

    def _notice(self, experiment: Experiment | None, line: str) -> None:
        self._say(line if experiment is None else f"{experiment}: {line}")

    def _remark(self, _, line: str) -> None:
        if line not in self._remarks:
            self._remarks.add(line)
            self._say(line)

    def _say(self, line: str) -> None:
        tqdm.write(line, file=streams.OUT)
        streams.OUT.flush()

    def _forget(self, experiment: Experiment) -> None:
        state = self._states.pop(experiment, None)
        if state is not None and state.bar is not None:
            state.bar.close()
        if in_notebook():
            self._update_output()

    def _state(self, experiment: Experiment, images: int) -> "_State":
        if experiment not in self._states:
            self.begun += 1
            self._states[experiment] = _State(self.begun, images, time.monotonic())
        return self._states[experiment]

    def _label(self, experiment: Experiment, wide: bool = True) -> str:
        """`run 3 of 15: scaled_lr B=128 seed 0, epoch 5 of 10`, or a short form."""
        state = self._states[experiment]
        if not wide:
            return f"B={experiment.batch_size} s{experiment.seed} {state.progress.epoch}/{experiment.epochs}"
        number = f"run {state.number}{f' of {self.runs}' if self.runs else ''}"
        return f"{number}: {experiment}, epoch {state.progress.epoch} of {experiment.epochs}"

    def _update_output(self) -> None:
        from IPython.display import display

        content = {"text/plain": "\n".join(self._lines())}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)

    def _lines(self) -> list[str]:
        """What a notebook shows: two lines per run in training, and one for all."""
        shown = {run: state for run, state in self._states.items() if state.progress is not None}
        if not shown:
            return ["starting: the first numbers take some seconds"] if not self.ended else []
        lines = []
        for run, state in shown.items():
            lines += [self._label(run), f"  {state.bar_and_numbers(self._pace.left(run))}"]
        # The time of day: a browser that was closed meanwhile shows what was drawn last, for ever.
        ended = f"{self.ended}{f' of {self.runs}' if self.runs else ''} runs ended"
        lines.append(", ".join([ended, *_about(self._pace.all_left()), f"at {time.strftime('%H:%M:%S')}"]))
        return lines


@dataclass
class _State:
    """One displayed run."""

    number: int  # of the run, in the order in which they began
    started_at: int  # images used before this display began; the remaining time is estimated from the later ones
    start: float  # when it began, in seconds
    progress: "Progress | None" = None
    accuracy: float | None = None  # after the last complete epoch
    bar: tqdm | None = None

    def numbers(self, wide: bool = True) -> str:
        accuracy = "" if self.accuracy is None else f", {'accuracy' if wide else 'acc'} {self.accuracy:.3f}"
        unit = "images/s" if wide else "img/s"
        return f"loss {self.progress.loss:.3f}{accuracy}, {self.progress.images_per_second:.0f} {unit}"

    def bar_and_numbers(self, left: float) -> str:
        """`██████········  42 % done, about 3 min left, accuracy 71.2 %, 1860 images/s`; at first the loss."""
        progress = self.progress
        done = progress.images / progress.total_images
        full = int(_BAR * done)
        parts = [
            f"{'█' * full}{'·' * (_BAR - full)} {int(100 * done):3d} % done",
            *_about(left),
            f"loss {progress.loss:.3f}" if self.accuracy is None else f"accuracy {percent(self.accuracy)}",
            f"{progress.images_per_second:.0f} images/s",
        ]
        return ", ".join(parts)


def _about(seconds: float) -> list[str]:
    return [] if math.isnan(seconds) else [f"about {duration(seconds)} left"]
