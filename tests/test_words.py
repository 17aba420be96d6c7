"""Words: numbers and lists, reasons, comparisons of modes, and a figure that cannot be saved."""

import dataclasses
import doctest
import inspect
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from synthetic import sidecars
from test_analysis import NOTHING, table

from batchscale import schedules
from batchscale.analysis import projection, sentences, words
from batchscale.analysis.breaking_point import BreakingPoint
from batchscale.analysis.findings import Findings, ModeFindings, analyse
from batchscale.analysis.reasons import WORDING, Reason, together
from batchscale.analysis.threshold import Threshold
from batchscale.modes import MODES
from batchscale.records import figures, files
from batchscale.records.study import Study


@pytest.mark.parametrize("module", [words, schedules, projection], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (np.float64("nan"), "–"),
        (0, "0"),
        (0.0, "0"),
        (8, "8"),
        (np.int64(8192), "8192"),
        (np.float64(8192), "8192"),
        (99_999, "99999"),
        (100_000, "100\u202f000"),
        (np.int64(1_234_567), "1\u202f234\u202f567"),  # whole: in full
        (99_999.4, "100\u202f000"),  # three digits
        (1_234_567.8, "1\u202f230\u202f000"),
        (12.34, "12.3"),
        (0.00012345, "0.000123"),
        (-0.5, "-0.5"),
        (-1234.5, "-1230"),
        (-123_456.0, "-123\u202f000"),
        (math.inf, "inf"),
    ],
)
def test_number(value, shown):
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (128, 256, "128–256"),
        (128, None, "≥ 128"),
        (None, 256, "≤ 256"),
        (None, None, ""),
        (8, 8, "8–8"),
        (0.5, 200_000, "0.5–200\u202f000"),
    ],
)
def test_interval(low, high, shown):
    assert words.interval(low, high) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.01, "1 point"),
        (0.0099, "1 point"),
        (0, "0 points"),
        (0.0004, "0 points"),
        (-0.0004, "0 points"),  # and not −0
        (-0.013, "-1.3 points"),
        (-0.02, "-2 points"),
        (np.float64(0.1), "10 points"),
        (math.inf, "inf points"),
    ],
)
def test_points(value, shown):
    assert words.points(value) == shown


def test_percent():
    assert words.percent(0.7874) == "78.7 %"
    assert words.percent(1) == "100.0 %"
    assert words.percent(0.5, math.nan) == "50.0 %"  # one seed
    assert words.percent(0.5, None) == "50.0 %"
    assert words.percent(np.float64(0.5), np.float64(0.0)) == "50.0 ± 0.0 %"


def test_count():
    assert words.count(0, "run") == "0 runs"
    assert words.count(np.int64(1), "run") == "1 run"
    assert words.count(1.0, "image") == "1 image"
    assert words.count(100_000, "update") == "100\u202f000 updates"


def test_listed():
    assert words.listed([]) == ""
    assert words.listed(["a"]) == "a"
    assert words.listed(np.array([1, 2])) == "1 and 2"
    assert words.listed((1, 2, 3), last="or") == "1, 2 or 3"
    assert words.listed(str(number) for number in range(2)) == "0 and 1"


def test_sizes_at():
    among = [64, 128, 256, 512]
    assert words.sizes_at([64], among) == "at 64"
    assert words.sizes_at([64, 128], among) == "at 64 and 128"
    assert words.sizes_at(pd.Series([64, 128, 256]), pd.Series(among)) == "at batch sizes from 64 to 256"
    assert words.sizes_at(np.array([64, 128, 512]), among) == "at 64, 128 and 512"  # 256 lies between
    assert words.sizes_at(among, among) == "at batch sizes from 64 to 512"


def test_sentence():
    assert words.sentence("a b") == "A b."
    assert words.sentence("“mine” is kept") == "“mine” is kept."
    assert words.sentence("at 64 it ends") == "At 64 it ends."


# Values of the kinds that the analysis gives, by the names of the arguments.
PLAUSIBLE = {
    "size": 128,
    "loss": 0.013,
    "sizes": (128, 256),
    "first": 8,
    "last": 512,
    "low": 33.3,
    "high": 4321.5,
    "epochs": 3,
    "of": 9,
    "pairs": 1,
    "ours": "scaled_lr",
    "theirs": "baseline_large",
    "left_censored": True,
    "workers": 64,
    "parameters": (5, 7),
    "names": ("scaled_lr", "mine"),
    "run": "mine B=8 seed 0",
    "named": ("mine B=8 seed 0", "mine B=8 seed 1"),
    "epoch": 3,
    "lengths": (("baseline_small", 1), ("mine", 2)),
    "single": 1,
    "runs": 2,
    "differing": (("dataset", "digits", "cifar10"), ("train_size", None, 100)),
}
NUMBERS = {"too few sizes": 2, "too few step times": 1, "seeds missing": 3}  # where `sizes` is how many


@pytest.mark.parametrize("kind", WORDING)
def test_every_reason_has_words(kind):
    arguments = inspect.signature(WORDING[kind]).parameters
    values = {name: PLAUSIBLE[name] for name in arguments}
    if kind in NUMBERS:
        values["sizes"] = NUMBERS[kind]
    shown = str(Reason.of(kind, **values))
    assert len(shown) > 10
    assert not set("{}<>") & set(shown)
    assert "None" not in shown
    assert shown[-1] not in ".;, "  # several are joined, and end a sentence
    for name, value in values.items():  # every value is in the words
        if isinstance(value, str):
            assert value in shown, name


def test_a_reason_of_no_known_kind_is_refused():
    with pytest.raises(KeyError, match="no such kind"):
        Reason.of("no such kind")


def test_reasons_are_values():
    assert Reason.of("single seeds", sizes=[8, 16]) == Reason.of("single seeds", sizes=(8, 16))
    assert len({Reason.of("single seeds", sizes=[8]), Reason.of("single seeds", sizes=[8])}) == 1
    assert together(()) is None
    two = (Reason.of("no finished run"), Reason.of("too few pairs", pairs=0))
    assert together(two) == "no run is finished; 0 pairs of equal seeds, where two are needed"


def test_settings_in_one_line():
    runs = table(("scaled_lr", 128, 0, [0.5]), ("scaled_lr", 128, 1, [0.5]))
    assert sentences.settings(Study.of(runs)) == "settings not recorded: these CSVs have no sidecars"
    assert sentences.settings(Study.of(runs, sidecars=sidecars(runs))) == (
        "cifar10, models:CNN at width 0.25, SGD with momentum 0.9, base rate 0.002 at batch size 8, fp32"
    )
    device = {"type": "cpu", "name": "a processor", "threads": 1}
    settings = {"dataset": "digits", "train_size": 100, "momentum": 0.0, "weight_decay": 0.0005, "precision": "bf16"}
    beside = sidecars(runs, device=device, workers=2, **settings)
    assert sentences.settings(Study.of(runs, sidecars=beside)) == (
        "digits (first 100 training images), models:CNN at width 0.25, SGD without momentum but with weight decay "
        "0.0005, base rate 0.002 at batch size 8, bf16, 2 workers on a processor (cpu, 1 thread)"
    )
    device = {"type": "cuda", "name": "a card", "threads": 8}
    assert sentences.settings(Study.of(runs, sidecars=sidecars(runs, device=device))).endswith("fp32, a card (cuda)")


BASE, SCALED, WARM = (MODES[name] for name in list(MODES)[1:])
FOUND = analyse(NOTHING)


def compared(*points: tuple | None, has_threshold: bool = True) -> list[str]:
    """What is said of the modes of the study, each with (batch size, low, high); None: it has no finished run."""
    losses = pd.DataFrame({"batch_size": [128]})
    of_modes = {}
    for mode, point in zip((BASE, SCALED, WARM), points, strict=False):
        found = BreakingPoint(*(point or (None, None, None)), (), ())
        of_modes[mode.name] = ModeFindings(
            mode, losses if point else losses.iloc[:0], losses, {"accuracy": found}, None, losses, None
        )
    threshold = Threshold(0.75, 0.76, 8, 0.01, (0.76,)) if has_threshold else None
    return sentences.comparison(dataclasses.replace(FOUND, modes=of_modes, threshold=threshold))


class TestComparison:
    def test_rules_with_overlapping_intervals_are_not_told_apart(self):
        assert compared((128, 128, 512), (256, 256, 1024)) == [
            "The accuracy is kept up to 128 (95 % interval 128–512) by the base rate and up to 256 (95 % interval "
            "256–1024) by the linear rule without warm-up; these intervals overlap, so the records do not tell which "
            "goes further."
        ]

    def test_an_interval_that_is_open_below_overlaps_what_it_reaches(self):
        (said,) = compared((128, 128, 128), (256, None, 512))
        assert "up to 256 (95 % interval ≤ 512) by the linear rule without warm-up; these intervals overlap" in said

    def test_the_same_batch_size_is_level(self):
        (said,) = compared((256, 256, 256), (256, 256, 256))
        assert "these intervals overlap" in said

    def test_rules_with_disjoint_intervals_are_ranked(self):
        assert compared((128, 128, 128), (512, 256, 512)) == [
            "The linear rule without warm-up goes further than the base rate."
        ]
        assert compared((512, 256, 512), (128, 128, 128), (64, 64, 128)) == [
            "The base rate goes further than the linear rule without warm-up and the linear rule with gradual warm-up."
        ]

    def test_intervals_that_touch_are_not_disjoint(self):
        (said,) = compared((128, 128, 256), (512, 256, 512))
        assert "these intervals overlap" in said

    def test_some_level_and_some_behind(self):
        first, second = compared((64, 64, 64), (256, 128, 512), (512, 256, 1024))
        assert first.startswith(
            "The accuracy is kept up to 256 (95 % interval 128–512) by the linear rule without warm-up"
        )
        assert "the base rate" not in first
        assert second == "The linear rule with gradual warm-up goes further than the base rate."

    def test_overlap_is_said_of_those_that_overlap(self):
        """The furthest reaches down to both others, of which one is surely beyond the other."""
        said, beyond = compared((128, 128, 128), (512, 256, 512), (1024, None, 1024))
        assert said == (
            "The accuracy is kept up to 512 (95 % interval 256–512) by the linear rule without warm-up and up to 1024 "
            "(95 % interval ≤ 1024) by the linear rule with gradual warm-up; these intervals overlap, so the records "
            "do not tell which goes further."
        )
        assert beyond == "The linear rule without warm-up goes further than the base rate."

    def test_single_seeds_have_no_intervals(self):
        (said,) = compared((128, None, None), (1024, None, None))
        assert said == (
            "The accuracy is kept up to 128 by the base rate and up to 1024 by the linear rule without warm-up; there "
            "are no intervals, so the records do not tell which goes further."
        )

    @pytest.mark.parametrize("points", [((128, 128, 256), (1024, None, None)), ((128, None, None), (1024, 512, 1024))])
    def test_one_without_an_interval(self, points):
        (said,) = compared(*points)
        assert "some have no interval, so the records do not tell which goes further" in said
        assert "overlap" not in said

    def test_no_rule_keeps_the_accuracy(self):
        assert compared((None, None, 128), (None, None, None)) == [
            "No recorded rule keeps the accuracy of the small minibatches at any larger batch size."
        ]

    def test_one_rule_keeps_it(self):
        assert compared((None, None, None), (256, 256, 512)) == [
            "The linear rule without warm-up keeps the accuracy up to 256 (95 % interval 256–512).",
            "No batch size recorded for the base rate keeps it.",
        ]

    def test_nothing_to_compare(self):
        assert compared() == []
        assert compared((128, 128, 128), has_threshold=False) == []
        assert compared(None, None) == []  # no run is finished: nothing was lost either
        assert compared(None, (256, 256, 512)) == [
            "The linear rule without warm-up keeps the accuracy up to 256 (95 % interval 256–512)."
        ]


def test_frontier_in_words():
    """Nothing is said that the records do not bear out."""

    def said(epochs: pd.DataFrame, times: list[float]) -> str:
        (sentence,) = sentences.frontier(of(Study.of(epochs.assign(running_time=times))))
        return sentence

    def of(study: Study) -> Findings:
        return analyse(study, target=0.5)

    runs = table(("baseline_small", 8, 0, [0.6]), ("scaled_lr", 128, 0, [0.5]))
    assert said(runs, [9.0, 1.0]).endswith(
        "It runs from linearly scaled rate at 128 (50.0 % in 1 s) to small batches, base rate at 8 (60.0 % in 9 s)."
    )
    assert "one is both the fastest and the most accurate: small batches, base rate at 8" in said(runs, [1.0, 9.0])
    assert said(runs, [math.nan, math.nan]) == (
        "No run that does better than guessing has a recorded time, so accuracy cannot be compared with time."
    )
    assert sentences.frontier(FOUND) == ["No run is finished, so accuracy cannot be compared with time."]


@pytest.fixture
def figure():
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    yield figure
    plt.close(figure)


def test_a_figure_that_cannot_be_saved_is_one_line(figure, tmp_path, capsys):
    (tmp_path / "data").write_text("a file")
    figures.save(figure, tmp_path / "data", "name")
    printed = capsys.readouterr().out
    assert printed.startswith(f"name: figure not saved, {tmp_path / 'data' / 'figures'} cannot be written (")
    assert printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data").read_text() == "a file"


def test_a_figure_is_not_saved_where_google_drive_is_not_mounted(figure, tmp_path, capsys, monkeypatch):
    """What would be written there would be a folder of the virtual machine, and hide the drive later."""
    drive = tmp_path / "content" / "drive"
    monkeypatch.setattr(files, "COLAB_DRIVE", drive)
    monkeypatch.setattr(files, "COLAB_SCRATCH", tmp_path / "scratch")
    figures.save(figure, drive / "MyDrive" / "data", "name")
    printed = capsys.readouterr().out
    assert printed.startswith("name: figure not saved, ")
    assert "but Google Drive is not mounted" in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    (drive / "MyDrive").mkdir(parents=True)  # mounted: it is saved, and at its own place
    figures.save(figure, drive / "MyDrive" / "data", "name")
    assert capsys.readouterr().out == ""
    saved = drive / "MyDrive" / "data" / "figures"
    assert sorted(path.name for path in saved.iterdir()) == ["name.png", "name.svg"]
    assert not (tmp_path / "scratch").exists()
