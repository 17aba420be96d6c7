"""What a user sees of a search: its runs, what is known whenever one ends, and the answer at the end."""

import io
from collections.abc import Callable
from dataclasses import replace

from batchscale import streams
from batchscale.analysis import progress
from batchscale.analysis.findings import Findings, analyse
from batchscale.analysis.search import Known, Runs, expected, known
from batchscale.experiment import Experiment
from batchscale.records.study import Study
from batchscale.sweeps.display import Display
from batchscale.sweeps.searching import Searching

HOUR = 3600
PLANNING = 3  # seconds that may be spent on what the next hour would buy


class Told:
    """Shows a search.

    Args:
        searching: the search.
        display: of its runs.
        calls: called with the findings in accuracy, whenever a run ends.
    """

    def __init__(self, searching: Searching, display: Display, calls: list[Callable[[Findings], None]]):
        self.searching, self.display, self._calls = searching, display, calls
        self._said: dict[str, str] = {}

    def show(self, event: str, experiment: Experiment | None, content) -> None:
        """The `Report` of the runs."""
        self.display.show(event, experiment, content)
        if event in ("finish", "failure"):
            self._tell()

    def _tell(self) -> None:
        """One line per mode of which something new is known."""
        runs = replace(self.searching.runs(), under_way=())
        left = self.searching.deadline - self.searching.clock()
        for name, line in progress.state(known(self.searching.search, runs), left).items():
            where = line.partition(" run")[0]
            if self._said.get(name) != where:
                self.display.show("notice", None, line)
            self._said[name] = where
        for call in self._calls:
            call(self.findings(accuracy_alone=True))

    def findings(self, *, accuracy_alone: bool = False) -> Findings:
        """What the runs that ended say."""
        tolerance = self.searching.search.tolerance
        return analyse(self._study(), tolerance=tolerance, with_target=not accuracy_alone)

    def answer(self) -> None:
        """Print what was found, and what another hour is expected to buy."""
        runs = self.searching.runs()
        now = known(self.searching.search, replace(runs, under_way=()))
        last = self._study().epochs.groupby(["experiment", "batch_size", "seed"])["running_time"].max()
        lines = progress.report(now, last.groupby("experiment").sum().to_dict())
        if now.left and now.threshold is not None:
            lines += progress.following(now, *self._in_an_hour(runs))
        for line in lines:
            print(line, file=streams.OUT, flush=True)

    def _in_an_hour(self, runs: Runs) -> tuple[Known, float]:
        """What is expected to be known after another hour, and the seconds that its runs would take. Many short runs
        are planned for a few seconds only."""
        searching, spent, planned = self.searching, 0.0, []
        until = searching.clock() + PLANNING
        for run in expected(searching.search, runs, searching.cost):
            seconds = searching.cost(*run[:2])
            if spent + seconds > HOUR or searching.clock() > until:
                break
            planned, spent = [*planned, run], spent + seconds
        under_way = (*runs.under_way, *runs.begun, *planned)
        return known(searching.search, replace(runs, begun=(), under_way=under_way)), spent

    def _study(self) -> Study:
        """The runs that ended."""
        runs = self.searching.runs()
        return Study.load(self.searching.options.data_dir).only(
            runs.taken - {*runs.begun, *runs.under_way, *runs.failed}
        )


class Drawing:
    """The curves of final accuracy with threshold and intervals, in one output of a notebook that is drawn again."""

    def __init__(self):
        self._output = None

    def draw(self, found: Findings) -> None:
        """Draw what is known."""
        from IPython.display import Image, display
        from matplotlib.figure import Figure

        from batchscale.analysis import plots

        figure, content = Figure(figsize=(8, 4.5), layout="constrained"), io.BytesIO()
        ax = figure.subplots()
        plots.against_batch_size(ax, found, "accuracy")
        plots.threshold_line(ax, found.threshold)
        plots.crossings(ax, found)
        plots.label_lines(ax)
        figure.savefig(content, format="png", dpi=100)
        image = Image(content.getvalue())
        if self._output is None:
            self._output = display(image, display_id=True)
        else:
            self._output.update(image)
