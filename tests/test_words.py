"""Words: numbers and lists, reasons, verdicts and their comparison, and a figure that cannot be saved."""

import dataclasses
import doctest
import inspect
import itertools
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from synthetic import sidecar, sidecars
from test_analysis import NOTHING, table

from batchscale import schedules
from batchscale.analysis import projection, sentences, words
from batchscale.analysis.breaking_point import CURRENCIES, BreakingPoint
from batchscale.analysis.findings import Effect, Findings, ModeFindings, analyse
from batchscale.analysis.reasons import WORDING, Reason, grouped, together
from batchscale.analysis.tables import Beginning
from batchscale.analysis.threshold import Threshold
from batchscale.modes import MODES
from batchscale.records import figures, files
from batchscale.records.study import Study


@pytest.mark.parametrize("module", [words, sentences, schedules, projection], ids=lambda module: module.__name__)
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
        (12.77, 99.4, "13–99"),  # batch sizes: two digits below 100, three from there on
        (100.4, 1248.3, "100–1250"),
        (8.0, None, "≥ 8"),
    ],
)
def test_interval(low, high, shown):
    assert words.interval(low, high) == shown


@pytest.mark.parametrize(
    ("point", "shown"),
    [
        (BreakingPoint(246.4, 32.4, 921.0, (128, 256)), "246"),
        (BreakingPoint(28.24, None, None, (16, 32)), "28"),
        (BreakingPoint(9.72, 3.0, 22.0, (None, 16)), "9.7"),  # an estimate below the records is one
        (BreakingPoint(None, 700.0, None, (8192, None)), "> 8192"),
        (BreakingPoint(None, None, 130.0, (None, 128)), "< 128"),
        (BreakingPoint(None), "–"),
        (BreakingPoint(None, 100.0, None), "–"),  # a side that no recorded batch size shows
    ],
)
def test_verdict_size(point, shown):
    assert words.verdict_size(point) == shown


def test_verdict_size_of_a_critical_batch_size_has_no_side():
    fit = dataclasses.make_dataclass("Fit", ["estimate"])
    assert (words.verdict_size(fit(409.6)), words.verdict_size(fit(None))) == ("410", "–")


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
    "target": 0.71,
    "name": "scaled_lr",
    "best": 8,
    "column": "running_time",
    "folders": (("older", 3), ("pilot", 1)),
    "slope": -0.9,
    "others": (3.4, 0.5),
    "goals": (("scaled_lr", 3.4), ("mine", 0.5)),
    "half": 0.8,
    "whole": 0.9,
    "most": 0.31,
    "span": 8.0,
}
# Where `sizes` is how many.
NUMBERS = {"too few sizes": 2, "too few peaks": 2, "too few step times": 1, "seeds missing": 3, "answerable": 4}
PAIRS = {"lengths differ within": {"lengths": ((2.0, (8, 16)), (3.0, (32,)))}}  # epochs, and at which batch sizes
NUMBERS |= {"varies too much": 3, "may always fall": 3, "may never fall": 3}


@pytest.mark.parametrize("kind", WORDING)
def test_every_reason_has_words(kind):
    arguments = inspect.signature(WORDING[kind]).parameters
    values = {name: PLAUSIBLE[name] for name in arguments}
    if kind in NUMBERS:
        values["sizes"] = NUMBERS[kind]
    shown = str(Reason.of(kind, **values | PAIRS.get(kind, {})))
    assert len(shown) > 10
    assert not set("{}<>") & set(shown)
    assert "None" not in shown
    assert shown[-1] not in ".;, "  # several are joined, and end a sentence
    assert not re.search(r"up to (?!\d)", shown)
    for name, value in values.items():  # every value is in the words
        if isinstance(value, str):
            assert value in shown, name


def test_a_reason_of_no_known_kind_is_refused():
    with pytest.raises(KeyError, match="no such kind"):
        Reason.of("no such kind")


def test_reasons_are_values():
    assert Reason.of("smaller is worse", best=32, sizes=[8, 16]) == Reason.of(
        "smaller is worse", best=32, sizes=(8, 16)
    )
    assert (
        len({Reason.of("smaller is worse", best=32, sizes=[8]), Reason.of("smaller is worse", best=32, sizes=[8])}) == 1
    )
    assert together(()) is None
    two = (Reason.of("no finished run"), Reason.of("too few pairs", pairs=0))
    assert together(two) == "no run is finished; 0 pairs of equal seeds"
    assert str(Reason.of("too few pairs", pairs=1)) == "1 pair of equal seeds: no interval"


def test_things_with_the_same_reasons_share_a_line():
    few, times = Reason.of("too few sizes", sizes=1, left_censored=False), Reason.of("no times")
    assert grouped({"accuracy": (), "updates": (few,), "time": (times, few), "critical batch size": (few,)}) == [
        f"updates and critical batch size: {few}",
        f"time: {times}; {few}",
    ]


@pytest.mark.parametrize(
    ("sizes", "end"),
    [
        (4, "the highest accuracy that every mode reaches over a factor of 5.8 in batch size"),
        (1, "which one mode reaches at 1 batch size; the fit needs three"),
    ],
)
def test_why_this_target(sizes, end):
    said = str(Reason.of("answerable", target=0.71, sizes=sizes, span=46 / 8))
    assert said == f"updates and time count to 71.0 %, {end}"


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


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"optimizer": "sgd", "weight_decay": 0.01}, "SGD with momentum 0.9 and weight decay 0.01"),
        ({"optimizer": "sgd", "momentum": 0}, "SGD without momentum"),
        ({"optimizer": "nesterov", "momentum": 0.95}, "SGD with Nesterov momentum 0.95"),
        ({"optimizer": "adamw"}, "AdamW with β₁ = 0.9"),
        ({"optimizer": "adamw", "momentum": 0, "weight_decay": 0.01}, "AdamW with β₁ = 0 and weight decay 0.01"),
        # Whether it takes the default is not known without importing it; it does take what is not the default.
        ({"optimizer": "timm.optim:Lamb"}, "timm.optim:Lamb"),
        ({"optimizer": "timm.optim:Lamb", "weight_decay": 0.01}, "timm.optim:Lamb with weight decay 0.01"),
        ({"optimizer": "my:opt", "momentum": 0, "weight_decay": 0.01}, "my:opt with momentum 0 and weight decay 0.01"),
        ({"optimizer": "my:opt", "momentum": 0.8}, "my:opt with momentum 0.8"),
    ],
)
def test_optimizer_in_the_line_of_settings(changed, words):
    runs = table(("scaled_lr", 128, 0, [0.5]), ("scaled_lr", 128, 1, [0.5]))
    assert sentences.settings(Study.of(runs, sidecars=sidecars(runs, **changed))) == (
        f"cifar10, models:CNN at width 0.25, {words}, base rate 0.002 at batch size 8, fp32"
    )


def test_decay_and_augmentation_in_the_line_of_settings():
    runs = table(("scaled_lr", 128, 0, [0.5]), ("scaled_lr", 256, 0, [0.5]), ("scaled_lr", 512, 0, [0.5]))
    changed = {"decay": "cosine", "augment": "flip-crop", "optimizer": "adamw"}
    study = Study.of(runs, sidecars=sidecars(runs, **changed))
    assert sentences.settings(study) == (
        "cifar10 with random flips and crops, models:CNN at width 0.25, AdamW with β₁ = 0.9, base rate 0.002 at batch "
        "size 8, cosine decay of the rate over 10 epochs, fp32"
    )
    changed = {"decay": "step", "augment": "flip", "train_size": 100}
    study = Study.of(runs, sidecars=[sidecar("scaled_lr", *run, **changed) for run in ((128, 0), (256, 0), (512, 0))])
    for run, epochs in zip(study.sidecars, (90, 30, 90), strict=True):  # another number at another batch size
        study.sidecars[run]["experiment"]["epochs"] = epochs
    assert sentences.settings(study) == (
        "cifar10 (first 100 training images) with random flips, models:CNN at width 0.25, SGD with momentum 0.9, base "
        "rate 0.002 at batch size 8, step decay of the rate over 30 or 90 epochs, fp32"
    )


def test_settings_of_older_sidecars_are_those_of_the_defaults():
    runs = table(("scaled_lr", 128, 0, [0.5]), ("scaled_lr", 128, 1, [0.5]))
    beside = sidecars(runs)
    for content in beside:
        for field in ("optimizer", "decay", "augment"):
            del content["experiment"][field]
    assert sentences.settings(Study.of(runs, sidecars=beside)) == (
        "cifar10, models:CNN at width 0.25, SGD with momentum 0.9, base rate 0.002 at batch size 8, fp32"
    )


def test_settings_that_differ_are_not_claimed():
    """Of a study that is not analysed as it is: analysed are runs that agree."""
    runs = table(("scaled_lr", 128, 0, [0.5]), ("scaled_lr", 128, 1, [0.5]))
    beside = [sidecar("scaled_lr", 128, 0), sidecar("scaled_lr", 128, 1, optimizer="adamw", decay="linear")]
    said = sentences.settings(Study.of(runs, sidecars=beside))
    assert not re.search("SGD|AdamW|decay", said)


BASE, SCALED, WARM = (MODES[name] for name in list(MODES)[1:])
FOUND = analyse(NOTHING)
THRESHOLD = Threshold(
    accuracy=0.75,
    best=0.76,
    tolerance=0.01,
    from_batch_size=8,
    reference=("baseline_small",),
    mean=0.76,
    standard_deviation=0.004,
    seeds=3,
    error=0.002,
    freedom=10,
)


class TestThreshold:
    """Student's quantile for ten degrees of freedom is 2.228, so that 0.002 become 0.45 points."""

    KEEP = "With a tolerance of 1 point, a larger minibatch has to keep 75.0 %."

    def test_best(self):
        assert sentences.threshold(THRESHOLD) == [
            "The best small minibatch, 8 images, reaches a test accuracy of 76.0 ± 0.4 % (3 seeds, 95 % interval 75.6 "
            "to 76.4 %).",
            self.KEEP,
        ]

    def test_optimism_is_said(self):
        assert sentences.threshold(dataclasses.replace(THRESHOLD, mean=0.764)) == [
            "The best small minibatch, 8 images, reaches a test accuracy of 76.4 ± 0.4 % (3 seeds).",
            "The best of several means is too high by chance, here by about 0.4 points; 76.0 % count (95 % interval "
            "75.6 to 76.4 %).",
            self.KEEP,
        ]

    def test_a_single_seed_has_no_interval(self):
        single = dataclasses.replace(THRESHOLD, seeds=1, standard_deviation=math.nan, error=math.nan)
        first, _ = sentences.threshold(single)
        assert first.endswith("reaches a test accuracy of 76.0 % (1 seed, no interval).")

    def test_mean(self):
        mean = dataclasses.replace(THRESHOLD, from_batch_size=None)
        assert sentences.threshold(mean) == [
            "The small minibatches reach a mean test accuracy of 76.0 % (3 seeds, 95 % interval 75.6 to 76.4 %).",
            self.KEEP,
        ]

    def test_of_another_reference(self):
        """Its batch sizes need not be small."""
        mine = dataclasses.replace(THRESHOLD, reference=("mine",))
        assert sentences.threshold(mine)[0].startswith("The best reference batch size, 8 images, reaches")
        assert sentences.threshold(dataclasses.replace(mine, from_batch_size=None))[0].startswith(
            "The reference minibatches reach"
        )

    def test_given_or_none(self):
        given = Threshold(accuracy=0.7612, best=0.7612, error=0.0)
        assert sentences.threshold(given) == ["A larger minibatch has to keep an accuracy of 76.1 %, as given."]
        assert sentences.threshold(None) == ["No run of the reference is finished, so there is no accuracy to keep."]


def losses(*rows: tuple) -> pd.DataFrame:
    """Rows of (batch size, accuracy or None, deviation, finished, diverged), against a best accuracy of 0.76."""
    names = ["batch_size", "accuracy", "standard_deviation", "seeds", "diverged"]
    table = pd.DataFrame(rows, columns=names).astype({"accuracy": float})
    loss = (0.76 - table["accuracy"]).fillna(np.inf)
    return table.assign(loss=loss, loss_low=loss - 0.01, loss_high=loss + 0.01)


def findings_of(mode, table: pd.DataFrame, **points: BreakingPoint) -> ModeFindings:
    """What is found out about a mode, as far as sentences need it."""
    nothing = pd.DataFrame()
    points = {currency: BreakingPoint(None) for currency in CURRENCIES} | points
    return ModeFindings(mode, Beginning(), table, nothing, nothing, points, None, nothing, None)


def accuracy(table: pd.DataFrame, point: BreakingPoint, threshold: Threshold | None = THRESHOLD) -> str:
    return sentences.accuracy(findings_of(BASE, table, accuracy=point), threshold)


KEPT, LOST = (128, 0.755, 0.0021, 3, 0), (256, 0.731, 0.003, 3, 0)


class TestAccuracy:
    """The verdict of a mode on its curve, by hand."""

    def test_it_falls_below_the_threshold(self):
        assert accuracy(losses(KEPT, LOST), BreakingPoint(201.4, 140.2, 300.0, (128, 256))) == (
            "Under the base rate the accuracy falls below the threshold at 201 (95 % interval 140–300), between 128 "
            "(75.5 ± 0.2 %) and 256 (73.1 ± 0.3 %)."
        )

    def test_an_open_end(self):
        said = accuracy(losses(KEPT, LOST), BreakingPoint(201.4, 140.2, None, (128, 256)))
        assert "at 201 (95 % interval ≥ 140), between 128" in said

    def test_a_single_seed_has_no_interval(self):
        single = [(size, mean, math.nan, 1, 0) for size, mean, *_ in (KEPT, LOST)]
        assert accuracy(losses(*single), BreakingPoint(201.4, between=(128, 256))) == (
            "Under the base rate the accuracy falls below the threshold at 201, between 128 (75.5 %) and 256 (73.1 %)."
        )

    @pytest.mark.parametrize("finished", [0, 1])
    def test_it_ends_where_runs_diverge(self, finished):
        table = losses(KEPT, (256, 0.76 if finished else None, math.nan, finished, 3 - finished))
        said = accuracy(table, BreakingPoint(201.4, 140.2, 256.0, (128, 256)))
        assert said.endswith(f"between 128 (75.5 ± 0.2 %) and 256 ({3 - finished} of 3 runs diverge).")

    def test_it_keeps_the_accuracy_throughout(self):
        assert accuracy(losses(KEPT), BreakingPoint(None, 99.6, None, (128, None))) == (
            "The base rate keeps the accuracy up to 128, the largest recorded (75.5 ± 0.2 % against a threshold of "
            "75.0 %); the 95 % interval of its breaking point begins at 100."
        )
        assert accuracy(losses(KEPT), BreakingPoint(None, between=(128, None))).endswith("a threshold of 75.0 %).")

    def test_it_loses_the_accuracy_from_the_beginning(self):
        assert accuracy(losses(LOST), BreakingPoint(None, None, 256.0, (None, 256))) == (
            "Already at 256, the smallest recorded, the base rate loses 2.9 points (73.1 ± 0.3 % against 76.0 %; 95 % "
            "interval 1.9 to 3.9)."
        )

    @pytest.mark.parametrize(("finished", "fails"), [(0, "diverges"), (2, "diverges in 1 of 3 runs")])
    def test_it_diverges_from_the_beginning(self, finished, fails):
        table = losses((256, 0.76 if finished else None, math.nan, finished, 3 - finished))
        said = accuracy(table, BreakingPoint(None, None, 256.0, (None, 256)))
        assert said == f"Already at 256, the smallest recorded, the base rate {fails}."

    def test_without_a_threshold(self):
        assert accuracy(losses(LOST, KEPT), BreakingPoint(None), None) == (
            "The base rate reaches 75.5 ± 0.2 % at 128; without a reference nothing says whether that is enough."
        )
        assert accuracy(losses((256, None, math.nan, 0, 3)), BreakingPoint(None), None) == (
            "Every run of the base rate diverges."
        )

    @pytest.mark.parametrize("threshold", [THRESHOLD, None])
    def test_without_a_run(self, threshold):
        assert accuracy(losses(), BreakingPoint(None), threshold) == "No run of the base rate is finished."


OVERLAP = "overlap: the records do not tell which goes further."
LARGEST = 1024
BEYOND = (None, 600.0, None, (LARGEST, None))  # the curve may fall below the threshold beyond the records
OPEN = (None, None, None, (LARGEST, None))
FAILS = (None, None, 128.0, (None, 128))


def compared(*points: tuple | None, has_threshold: bool = True, effects: tuple[Effect, ...] = ()) -> list[str]:
    """What is said of the modes of the study, each with (estimate, low, high); None: it has no finished run."""
    table, of_modes = losses(KEPT), {}
    for mode, point in zip((BASE, SCALED, WARM), points, strict=False):
        found = BreakingPoint(*(point or (None,)))
        of_modes[mode.name] = findings_of(mode, table if point else table.iloc[:0], accuracy=found)
    threshold = THRESHOLD if has_threshold else None
    return sentences.comparison(dataclasses.replace(FOUND, modes=of_modes, threshold=threshold, effects=effects))


class TestComparison:
    def test_rules_with_overlapping_intervals_are_not_told_apart(self):
        assert compared((140.4, 128.2, 512.0), (256.0, 90.5, 1024.0)) == [
            "The intervals of the base rate and the linear rule without warm-up overlap: the records do not tell which "
            "goes further."
        ]

    def test_paired_runs_tell_more_than_overlapping_intervals(self):
        """Pairs share the noise of their seeds. Neither modes behind nor differences that may be zero are named."""
        rows = [(128, 0.004, -0.002, 0.01), (256, 0.009, 0.002, 0.016), (512, 0.015, 0.004, 0.026)]
        differences = pd.DataFrame(rows, columns=["batch_size", "difference", "low", "high"])
        adds = Effect("gradual warm-up", WARM, SCALED, differences, None)
        level = (512, 256, 512), (512, 256, 512)
        _, paired, behind = compared((64, 64, 64), *level, effects=(adds, dataclasses.replace(adds, over=BASE)))
        assert paired == (
            "Compared at equal batch sizes and seeds, gradual warm-up raises the accuracy by 0.9 to 1.5 points at 256 "
            "and 512."
        )
        assert behind.endswith("goes further than the base rate.")
        unsure = dataclasses.replace(adds, differences=differences[:1])
        assert len(compared(None, *level, effects=(unsure,))) == 1

    def test_an_interval_that_is_open_below_overlaps_what_it_reaches(self):
        (said,) = compared((128, 128, 128), (256, None, 512))
        assert said.endswith(OVERLAP)

    def test_the_same_batch_size_is_level(self):
        (said,) = compared((256, 256, 256), (256, 256, 256))
        assert said.endswith(OVERLAP)

    def test_rules_with_disjoint_intervals_are_ranked(self):
        assert compared((128, 100, 128), (512, 128.1, 600)) == [
            "The linear rule without warm-up goes further than the base rate."
        ]
        assert compared((512, 256, 512), (128, 128, 128), (64, 64, 128)) == [
            "The base rate goes further than the linear rule without warm-up and the linear rule with gradual warm-up."
        ]

    def test_intervals_that_touch_are_not_disjoint(self):
        (said,) = compared((128, 128, 256), (512, 256, 512))
        assert said.endswith(OVERLAP)

    def test_one_that_keeps_it_to_the_end_of_its_records(self):
        """Its interval is open above, and begins where it surely keeps the accuracy."""
        assert compared((256, 128, 512), BEYOND) == ["The linear rule without warm-up goes further than the base rate."]
        (said,) = compared((256, 128, 601), BEYOND)
        assert said.endswith(OVERLAP)
        (said,) = compared((256, 128, 512), OPEN)
        assert "are in part unknown" in said

    def test_some_level_and_some_behind(self):
        first, second = compared((64, 64, 64), (256, 128, 512), (512, 256, 1024))
        assert first == (
            "The intervals of the linear rule without warm-up and the linear rule with gradual warm-up overlap: the "
            "records do not tell which goes further."
        )
        assert second == "The linear rule with gradual warm-up goes further than the base rate."

    def test_overlap_is_said_of_those_that_overlap(self):
        """The furthest reaches down to both others, of which one is surely beyond the other."""
        said, beyond = compared((128, 128, 128), (512, 256, 512), (1024, None, 1024))
        assert said == (
            "The intervals of the linear rule without warm-up and the linear rule with gradual warm-up overlap: the "
            "records do not tell which goes further."
        )
        assert beyond == "The linear rule without warm-up goes further than the base rate."

    def test_single_seeds_have_no_intervals(self):
        assert compared((128, None, None), (1024, None, None)) == [
            "The intervals of the base rate and the linear rule without warm-up are unknown: the records do not tell "
            "which goes further."
        ]

    @pytest.mark.parametrize("points", [((128, 128, 256), (1024, None, None)), ((128, None, None), (1024, 512, 1024))])
    def test_one_without_an_interval(self, points):
        (said,) = compared(*points)
        assert said.endswith("are in part unknown: the records do not tell which goes further.")
        assert "overlap" not in said

    def test_no_rule_keeps_the_accuracy(self):
        assert compared(FAILS, FAILS) == ["No recorded rule keeps the accuracy at any larger batch size."]

    def test_one_rule_keeps_it(self):
        assert compared(FAILS, (256, 240.7, 512)) == [
            "The linear rule without warm-up keeps the accuracy up to 256 (95 % interval 241–512).",
            "No batch size recorded for the base rate keeps it.",
        ]
        assert compared(FAILS, OPEN)[0] == (
            "The linear rule without warm-up keeps the accuracy up to 1024, the largest recorded."
        )

    def test_nothing_to_compare(self):
        assert compared() == []
        assert compared((128, 128, 128), has_threshold=False) == []
        assert compared(None, None) == []  # no run is finished: nothing was lost either
        assert compared(None, (256, 256, 512)) == [
            "The linear rule without warm-up keeps the accuracy up to 256 (95 % interval 256–512)."
        ]


POINTS = [(300.4, 200.6, 500.2, (256, 512)), (300.4, None, None, (256, 512)), BEYOND, OPEN, FAILS, (None,), None]


@pytest.mark.parametrize("points", [*itertools.product(POINTS, repeat=2)])
def test_no_number_is_made_up_and_none_is_missing(points):
    """Whatever is known of two rules: every number is one of theirs, and "up to" is followed by one."""
    known = {"95"}
    for point in filter(None, points):
        known |= {words.images(end) for end in point[:3] if end is not None}
        known |= {str(size) for size in (point[3] if len(point) > 3 else ()) if size is not None}
    said = compared(*points)
    for currency in CURRENCIES:
        of_modes = {
            mode.name: findings_of(mode, losses(KEPT), **{currency: BreakingPoint(*point)})
            for mode, point in zip((BASE, SCALED), points, strict=True)
            if point
        }
        found = dataclasses.replace(FOUND, modes=of_modes, threshold=THRESHOLD)
        said += [*sentences.breaking_points(found), *sentences.smallest(found)]
    for sentence in said:
        assert sentence.endswith(".")
        assert set(re.findall(r"\d+(?:\.\d+)?", sentence)) <= known, sentence
        assert not re.search(r"up to (?!\d)", sentence), sentence
        assert not re.search(r"–(?!\d)", sentence)  # no dash for what is undetermined


def test_breaking_points_side_by_side():
    of_base = findings_of(
        BASE, losses(KEPT), accuracy=BreakingPoint(28.2, 12.8, 109.0, (16, 32)), time=BreakingPoint(*OPEN)
    )
    of_scaled = findings_of(SCALED, losses(KEPT), updates=BreakingPoint(None, None, 40.0))
    found = dataclasses.replace(FOUND, modes={BASE.name: of_base, SCALED.name: of_scaled}, threshold=THRESHOLD)
    assert sentences.breaking_points(found) == [
        "Under the base rate larger minibatches keep the accuracy up to 28 (95 % interval 13–109) and shorten the "
        "time to target by a tenth or more up to 1024, the largest recorded; the records determine no breaking point "
        "in updates.",
        "Under the linear rule without warm-up the records determine no breaking point in accuracy, updates or time.",
    ]
    assert sentences.smallest(found) == [
        "The smallest known breaking point of each rule is 28 for the base rate (in accuracy)."
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
