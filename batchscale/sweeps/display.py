"""What a user sees during a sweep: a progress bar per run in training, and a line per run that ends.

In a terminal the bars are tqdm's. In a notebook (Jupyter, Colab, papermill) they are tqdm's text in one output that is
updated in place, so a saved notebook holds no unfinished widget. If standard error is a file, such as a cluster's log,
one line per epoch replaces the bars.
"""

import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm.std import tqdm

from batchscale import streams
from batchscale.epoch import Epoch
from batchscale.experiment import Experiment
from batchscale.sweeps.failure import Failure

if TYPE_CHECKING:
    from batchscale.training.loop import Progress

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
_WIDE = 120  # columns needed for the name of the mode and for unabbreviated words


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
        runs: number of runs to train; None: nobody knows.
    """

    def __init__(self, runs: int | None):
        self.runs, self.ended = runs, 0
        self._states: dict[Experiment, _State] = {}
        self._remarks: set[str] = set()
        self._output = None

    def __enter__(self) -> "Display":
        streams.occupy()
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
        state = self._states.setdefault(experiment, _State(started_at=progress.images))
        state.progress = progress
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
            state.bar.set_description_str(_label(experiment, progress, wide), refresh=False)
            state.bar.set_postfix_str(state.numbers(wide), refresh=False)
            state.bar.update(progress.images - state.bar.n)

    def _epoch(self, experiment: Experiment, epoch: Epoch) -> None:
        self._states.setdefault(experiment, _State(started_at=0)).accuracy = epoch.accuracy
        if not in_notebook() and not streams.ERR.isatty():
            print(
                f"{experiment} epoch {epoch.epoch}/{experiment.epochs}: accuracy {epoch.accuracy:.4f}, "
                f"test loss {epoch.test_loss:.4f}, {epoch.images_per_second:.0f} images/s",
                file=streams.ERR,
                flush=True,
            )

    def _finish(self, experiment: Experiment, line: str) -> None:
        self.ended += 1
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
    """One displayed run."""

    started_at: int  # images used before this display began; the remaining time is estimated from the later ones
    progress: "Progress | None" = None
    accuracy: float | None = None  # after the last complete epoch
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
