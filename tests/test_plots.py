"""Figures show what they are given, also when that is little."""

import dataclasses

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import synthetic
from test_analysis import EPOCHS, NOTHING, STUDY, table, timed
from test_findings import LITTLE

from batchscale.analysis import findings, plots
from batchscale.analysis.breaking_point import CURRENCIES, BreakingPoint
from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.crossing import Crossing
from batchscale.analysis.findings import Effect, Findings, ModeFindings, NoiseScale, ToTarget
from batchscale.analysis.reasons import WORDING, Reason
from batchscale.analysis.tables import Beginning
from batchscale.analysis.threshold import Threshold
from batchscale.analysis.words import images
from batchscale.experiment import Experiment
from batchscale.modes import MODES, Mode
from batchscale.records import figures
from batchscale.records.study import Study


@pytest.fixture(autouse=True)
def _no_window():
    mpl.use("agg")
    yield
    plt.close("all")


def drawn(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().T.tolist() for line in axes.get_lines()}


@pytest.fixture(autouse=True)
def _reason_of_the_tests(monkeypatch):
    """A reason with words of one's own, to find again in a figure."""
    monkeypatch.setitem(WORDING, "said", lambda words: words)


def said(words: str) -> Reason:
    return Reason("said", (("words", words),))


def test_against_batch_size():
    """A line begins at the best reference batch size, 8; the smaller one is drawn for the reference alone."""
    _, ax = plt.subplots()
    plots.against_batch_size(ax, findings.analyse(STUDY), "accuracy")
    scaled = [[8, 128], [pytest.approx(0.67), 0.5]]
    assert drawn(ax) == {
        "small batches, base rate": [[2, 8], [pytest.approx(0.65), pytest.approx(0.67)]],
        "linearly scaled rate": scaled,
    }
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (0.60, 0.70)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "8", "128"]
    assert ax.get_xscale() == "log"
    _, ax = plt.subplots()
    plots.against_batch_size(ax, findings.analyse(STUDY), "accuracy", ["scaled_lr"])
    assert drawn(ax) == {"linearly scaled rate": scaled}
    assert [text.get_text() for text in ax.get_xticklabels()] == ["8", "128"]


def test_a_mode_without_a_finished_run_of_its_own_has_no_line():
    """The runs of the reference that its curve would begin with are no runs of the mode."""
    study = Study.of(table(("baseline_small", 8, 0, [0.6])), diverged=[("scaled_lr", 128, 0)])
    found = findings.analyse(study)
    assert list(found.modes) == ["scaled_lr"]
    _, ax = plt.subplots()
    plots.against_batch_size(ax, found, "accuracy")
    assert list(drawn(ax)) == ["small batches, base rate"]


def test_against_epoch_is_darker_for_larger_batches():
    _, ax = plt.subplots()
    small = EPOCHS[EPOCHS["experiment"] == "baseline_small"]
    plots.against_epoch(ax, small, "accuracy")
    assert drawn(ax)["B = 8"] == [[1, 2], [0.4, pytest.approx(0.67)]]
    shades = [grey(line.get_color()) for line in ax.get_lines()]
    assert shades == sorted(shades, reverse=True)


SCALED = {"name": "scaled_lr", "lr_scaling": "linear", "base_lr": 0.1}
WARMED = {**SCALED, "name": "gradual_warmup_scaled_lr", "warmup": "gradual"}


def scheduled(*experiments: Experiment, train_images: float | None = 640):
    _, ax = plt.subplots()
    plots.schedules(ax, experiments, train_images)
    return ax, {label: list(zip(*points, strict=True)) for label, points in drawn(ax).items()}


def test_schedules_have_every_corner():
    """Of 640 images: 10 updates per epoch at B = 64, 40 at 16. All updates are there, up to 100 between two corners."""
    ax, lines = scheduled(*(Experiment(batch_size=size, epochs=4, decay="linear", **WARMED) for size in (64, 16)))
    assert list(lines) == ["B = 16", "B = 64"]
    assert [(len(line), line[0]) for line in lines.values()] == [(160, (0, 0.1)), (40, (0, 0.1))]
    wanted = {0.1: 0.135, 1: 0.45, 2: 0.8, 2.1: 0.76, 3.9: 0.04}  # 0.1 + 0.7·t/20 up to t = 20, then 0.8·(40 − t)/20
    assert {x: dict(lines["B = 64"])[x] for x in wanted} == pytest.approx(wanted)
    wanted = {0.025: 0.10125, 2: 0.2, 2.025: 0.1975, 3.975: 0.0025}  # 0.1 + 0.1·t/80 up to t = 80
    assert {x: dict(lines["B = 16"])[x] for x in wanted} == pytest.approx(wanted)
    assert [line.get_drawstyle() for line in ax.get_lines()] == ["steps-post"] * 2
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("completed epochs", "learning rate")
    colours = [line.get_color().tolist() for line in ax.get_lines()]
    assert colours == [shade.tolist() for shade in plots._shades([16, 64]).values()]


def test_schedules_of_very_many_updates_have_every_corner():
    """320 000 updates of two images each; a constant warm-up, then steps at 1/3, 2/3 and 8/9 of them."""
    steps = {"epochs": 100, "decay": "step", "reference_batch_size": 1, "warmup": "constant", "warmup_epochs": 2.5}
    ax, lines = scheduled(Experiment(batch_size=2, **SCALED, **steps), train_images=6400)
    (line,) = lines.values()
    assert 300 < len(line) <= 510
    found = {round(3200 * x): rate for x, rate in line}
    corners = {7999: 0.1, 8000: 0.2, 106_666: 0.2, 106_667: 0.02, 213_333: 0.02, 213_334: 0.002, 284_444: 0.002}
    corners |= {0: 0.1, 284_445: 0.0002, 319_999: 0.0002}
    assert {update: found.get(update) for update in corners} == pytest.approx(corners)
    assert ax.get_lines()[0].get_drawstyle() == "default"
    low, high = ax.get_ylim()
    assert low < 0.0002 < 0.2 < high


def test_equal_schedules_are_one_line():
    """At the base rate all are; the rule acts above the reference batch size, 8. Seeds do not matter."""
    sizes = (2, 4, 8, 16, 32)
    ax, lines = scheduled(*(Experiment(batch_size=size, seed=seed) for seed in (0, 1) for size in sizes))
    assert list(lines) == ["B = 2–32"]
    assert {rate for _, rate in lines["B = 2–32"]} == {0.002}
    assert ax.get_yscale() == "linear"
    assert ax.get_ylim() == (0, pytest.approx(0.0022))
    assert ax.get_lines()[0].get_color().tolist() == plots._shades(sizes)[8].tolist()
    assert list(scheduled(*(Experiment(batch_size=size) for size in (128, 256)))[1]) == ["B = 128, 256"]
    for decay in ("none", "linear", "cosine", "step"):
        ax, lines = scheduled(*(Experiment(batch_size=size, decay=decay, **WARMED) for size in sizes))
        assert list(lines) == ["B = 2–8", "B = 16", "B = 32"]
        assert len(lines["B = 2–8"]) > len(lines["B = 32"])
    plots.batch_size_legend(ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["B = 32", "B = 16", "B = 2–8"]
    _, ax = plt.subplots()
    plots.against_epoch(ax, table(("mine", 8, 0, [0.1, 0.7]), ("mine", 16, 0, [0.2, 0.8])), "accuracy")
    plots.batch_size_legend(ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["B = 16", "B = 8"]  # as the lines end


def test_the_way_to_zero_does_not_hide_the_schedules():
    ax, _ = scheduled(*(Experiment(batch_size=size, decay="cosine") for size in (2, 8)), train_images=50_000)
    assert ax.get_yscale() == "linear"
    experiments = [Experiment(batch_size=size, decay="cosine", **WARMED) for size in (128, 8192)]
    ax, lines = scheduled(*experiments, train_images=50_000)
    assert lines["B = 128"][-1] == (pytest.approx(10 - 1 / 390), experiments[0].learning_rate(3899, 390))
    assert lines["B = 128"][-1][1] < ax.get_ylim()[0] == pytest.approx(0.01)
    assert lines["B = 128"][0] == (0, 0.1)


def test_schedules_of_a_part_of_the_images_or_without_updates():
    _, lines = scheduled(Experiment(batch_size=64, train_size=256, epochs=1), train_images=1500)
    assert [x for x, _ in lines["B = 64"]] == [0, 0.25, 0.5, 0.75]
    ax, lines = scheduled(*(Experiment(batch_size=size, epochs=1) for size in (1500, 1501)), train_images=1500)
    assert list(lines) == ["B = 1500"]  # a larger minibatch has no update, as training will say
    assert ax.get_lines()[0].get_marker() == "o"
    for available, reason in ((10, "no updates"), (np.nan, "number of training images unknown")):
        ax, lines = scheduled(Experiment(batch_size=64), train_images=available)
        assert (lines, texts(ax)) == ({}, [reason])
        plots.batch_size_legend(ax)
        assert ax.get_legend() is None


def test_of_very_many_schedules_some_are_drawn():
    ax, lines = scheduled(*(Experiment(batch_size=size, epochs=1, **SCALED) for size in range(9, 309)))
    assert len(lines) == 16
    assert ax.get_xlabel() == "completed epochs (16 of 300 schedules)"


def test_threshold_line():
    best = Threshold(accuracy=0.66, best=0.67, tolerance=0.01, from_batch_size=8, mean=0.67)
    _, ax = plt.subplots()
    plots.threshold_line(ax, best)  # no line to compare with it
    assert not ax.get_lines()
    ax.plot([2, 8], [0.5, 0.6])
    plots.threshold_line(ax, None)
    assert len(ax.get_lines()) == 1
    mean, given = dataclasses.replace(best, from_batch_size=None), Threshold(accuracy=0.76, best=0.76, error=0.0)
    for number, (kind, height, label) in enumerate(
        (
            (best, 0.66, "threshold 66.0 % (1 point below B = 8)"),
            (mean, 0.66, "threshold 66.0 % (1 point below the reference)"),
            (given, 0.76, "threshold 76.0 % (given)"),
        ),
        1,
    ):
        plots.threshold_line(ax, kind)
        assert ax.get_lines()[number].get_ydata()[0] == pytest.approx(height)
        assert ax.get_lines()[number].get_label() == label


def test_a_long_name_is_shortened_in_its_middle():
    names = ["a" * 32, *(f"my_experiment_with_a_{'long_' * 10}name_{end}" for end in (1, 2))]
    found = findings.analyse(Study.of(table(*[(name, 8, 0, [0.5]) for name in names])))
    _, ax = plt.subplots()
    plots.against_batch_size(ax, found, "accuracy")
    whole, first, second = drawn(ax)
    assert whole == "a" * 32
    assert first == "my_experiment_w…long_long_name_1"
    assert second == "my_experiment_w…long_long_name_2"


def test_modes_are_told_apart_everywhere():
    own = ["mine", "yours"]
    styles = [plots.mode_style(name, own) for name in [*MODES, *own]]
    assert len({style["color"] for style in styles}) == len({style["marker"] for style in styles}) == 6
    # the study's modes keep theirs whatever else is there
    assert [plots.mode_style(name) for name in MODES] == styles[:4]


def grey(colour) -> float:
    """How light it is in black and white, 0-1."""
    return float(np.dot(mpl.colors.to_rgb(colour), (0.299, 0.587, 0.114)))


def test_modes_and_batch_sizes_are_told_apart_in_grey():
    """Those of the study; for colour-blind readers Tol made the scheme."""
    shades = sorted(grey(mode.colour) for mode in MODES.values())
    assert min(np.diff(shades)) > 0.2
    assert len({mode.marker for mode in MODES.values()}) == len(MODES)
    sizes = [2**power for power in range(1, 14)]
    steps = np.diff([grey(shade) for shade in plots._shades(sizes).values()])
    assert (steps < -0.015).all()


def test_the_runs_of_the_reference_keep_their_marks():
    """They lie on top of the lines that begin with them."""
    found = findings.analyse(synthetic.as_study(seeds=(0,), large=(64, 128), epochs=10))
    _, axes = plt.subplots(1, 3)
    plots.currencies(axes, found)
    for ax in axes:
        lines = {line.get_label(): line for line in ax.get_lines()}
        ours, theirs = lines["base rate"], lines["small batches, base rate"]
        assert set(ours.get_xdata()) & set(theirs.get_xdata())
        assert theirs.get_zorder() > ours.get_zorder()
    assert len({text.get_text() for text in axes[0].figure.legends[0].get_texts()}) >= 7


def test_no_symbol_means_two_things():
    """Ticks are estimates, triangles open ends and bounds, crosses runs that diverged; the rest are modes."""
    names = [f"mine_{number:02d}" for number in range(45)]
    of_modes = {plots.mode_style(name, names)["marker"] for name in (*MODES, *names)}
    assert len(of_modes) == 7
    assert not of_modes & set("|_<>^vx1234.,")
    found = found_of({"scaled_lr": mode(POINT, OPEN_ABOVE, OPEN_BELOW, fit=FIT, noise=(50, 40, None))})
    _, axes = plt.subplots(1, 2)
    plots.breaking_points(axes[0], found)
    plots.noise_scales(axes[1], found)
    used = [{line.get_marker() for line in ax.get_lines() if len(line.get_xdata())} for ax in axes]
    assert used == [{"|", "<", ">"}, {">", plots.mode_style("scaled_lr")["marker"]}]


def test_nothing_to_show():
    _, (left, right) = plt.subplots(1, 2)
    plots.against_batch_size(left, findings.analyse(NOTHING), "running_time")
    plots.against_epoch(right, NOTHING.epochs, "accuracy")
    left.figure.canvas.draw()
    assert (texts(left), texts(right)) == (["no finished runs"], ["no runs"])
    for axis in (left.xaxis, left.yaxis, right.xaxis, right.yaxis):
        assert not [number.get_text() for number in axis.get_ticklabels()]


def test_the_interval_of_one_batch_size_is_a_bar():
    _, ax = plt.subplots()
    plots.against_batch_size(ax, findings.analyse(STUDY.where(batch_size=8)), "accuracy")
    assert ax.collections[1].get_segments()[0].tolist() == [[8, 0.66], [8, 0.68]]


def test_one_epoch_is_a_point():
    _, ax = plt.subplots()
    plots.against_epoch(ax, table(("mine", 8, 0, [0.5])), "accuracy")
    assert ax.get_lines()[0].get_marker() == "o"


WARM = "gradual_warmup_scaled_lr"


NOTHING_FOUND = findings.analyse(NOTHING)


def critical(estimate=None, low=None, high=None, steps_min=None, batch_sizes=()) -> CriticalBatchSize:
    """A fit, as far as figures need it."""
    return CriticalBatchSize(
        estimate,
        low,
        high,
        (),
        steps_min,
        None,
        None,
        batch_sizes,
        runs=0,
        right_censored=0,
        left_censored=0,
        records=(),
    )


def point(estimate=None, low=None, high=None, between=(None, None), **facts) -> BreakingPoint:
    """A breaking point, as far as figures need it."""
    return BreakingPoint(estimate, low, high, between, (said("nobody knows"),), **facts)


UNKNOWN = point()
POINT = point(256.0, 128.0, 512.0, (256, 512))
BARE = point(200.0, between=(128, 256))  # of single seeds
OPEN_ABOVE = point(None, 300.0, None, (512, None))
OPEN_BELOW = point(None, None, 130.0, (None, 128))
FIT = (400.0, 200.0, 800.0)


def mode(accuracy=UNKNOWN, updates=UNKNOWN, time=UNKNOWN, *, fit=(None, None, None), noise=None) -> dict:
    """What is found out about a mode, as far as figures need it."""
    points = dict(zip(CURRENCIES, (accuracy, updates, time), strict=True))
    measured = noise and NoiseScale(*noise, runs=1, epochs=3, measured=3 if all(noise) else 2)
    return {"breaking_points": points, "critical": critical(*fit), "noise_scale": measured}


def found_of(modes: dict[str, dict], **facts) -> Findings:
    """Findings of modes with runs at B = 128, 256 and 512, as far as figures need them."""
    nothing = pd.DataFrame()
    study = Study.of(table(*[(name, size, 0, [0.5]) for name in modes for size in (128, 256, 512)]))
    empty = {"losses": nothing, "smaller": nothing, "curve": nothing, "regimes": nothing}
    of_modes = {
        name: ModeFindings(mode=study.modes[name], beginning=Beginning(), **empty, **of_mode)
        for name, of_mode in modes.items()
    }
    return dataclasses.replace(NOTHING_FOUND, study=study, modes=of_modes, **facts)


def reached(study: Study, target: float | None) -> tuple[ToTarget, dict[str, Mode]]:
    """What `plots.to_target` draws, of curves without a reference."""
    return findings.to_target(study, target, dict.fromkeys(study.modes, Beginning())), study.modes


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_label_lines_beside_their_ends_or_in_a_legend():
    _, (near, apart, crowded) = plt.subplots(1, 3)
    for ax, other in ((near, 0.501), (apart, 0.9), (crowded, 0.9)):
        ax.plot([1, 2], [0.1, 0.5], label="one")
        ax.plot([1, 2], [0.1, other], label="other")
        ax.plot([1, 1.5], [0.2, 0.3], label="short")
        if ax is crowded:
            ax.plot([1.2, 1.6], [0.3, 0.3], label="another")  # whose name would run into that of "short"
        ax.axhline(0.4, label="key")
        plots.label_lines(ax)
    assert texts(near) == []
    assert [text.get_text() for text in near.get_legend().get_texts()] == ["one", "other", "short", "key"]
    assert texts(crowded) == []
    assert texts(apart) == ["one", "other", "short"]
    assert [text.get_text() for text in apart.get_legend().get_texts()] == ["key"]


def test_to_target():
    """Means are lines, runs are dots, those that never got there open triangles at what they made, or crosses; a
    triangle that points down is an upper bound."""
    _, ax = plt.subplots()
    records = table(
        ("scaled_lr", 64, 0, [0.8, 0.9]),
        ("scaled_lr", 128, 0, [0.1, 0.9]),
        ("scaled_lr", 256, 0, [0.1, 0.2]),
        ("scaled_lr", 512, 0, [0.1, 0.2]),
    )
    failed = [("scaled_lr", 512, 0), ("scaled_lr", 1024, 0)]  # the second in its first epoch
    at, modes = reached(Study.of(records.assign(updates=10 * records["epoch"]), diverged=failed), 0.5)
    plots.to_target(ax, at, "updates", modes)
    assert drawn(ax)["linearly scaled rate"] == [[128], [pytest.approx(15)]]
    arrived, within_first, missed, diverged = (each.get_offsets().tolist() for each in ax.collections)
    assert (arrived, within_first) == ([[128, pytest.approx(15)]], [[64, 10]])
    assert (missed, diverged) == ([[256, 20]], [[512, 20]])
    for open_triangles in ax.collections[1:3]:
        assert len(open_triangles.get_facecolors()) == 0
    down, up = (each.get_paths()[0].vertices[:, 1] for each in ax.collections[1:3])
    assert down.min() == pytest.approx(-up.max())  # each other's mirror image
    (at_once,) = [line for line in ax.get_lines() if line.get_transform() == ax.get_xaxis_transform()]
    assert (at_once.get_marker(), at_once.get_xydata().tolist()) == ("x", [[1024, 0]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["64", "128", "256", "512", "1024"]
    assert ax.get_title() == "target: 50.0 % accuracy"
    keys = {"target not reached: at least this", "within the first epoch: at most this", "diverged here"}
    assert keys < set(drawn(ax))


def test_to_target_has_no_line_without_clipping_but_for_crosses():
    """Without points it would reach to the figure's corner, and the layout with it."""
    _, ax = plt.subplots()
    at, modes = reached(Study.of(table(("scaled_lr", 128, 0, [0.1, 0.9])).assign(updates=[5, 10])), 0.5)
    plots.to_target(ax, at, "updates", modes)
    assert all(line.get_clip_on() for line in ax.get_lines())


def test_to_target_says_what_is_missing():
    study = Study.of(table(("scaled_lr", 128, 0, [0.1, 0.9])))  # without updates
    for of, target, reason in (
        (study, None, "no target: there is no threshold, and none was given"),
        (study, 0.5, "not recorded"),
        (NOTHING, 0.5, "no runs"),
    ):
        _, ax = plt.subplots()
        at, modes = reached(of, target)
        plots.to_target(ax, at, "updates", modes)
        assert texts(ax) == [reason]
        assert not ax.get_lines()
        assert not ax.get_title()


def test_critical_batch_size_is_on_its_curve():
    _, ax = plt.subplots()
    ax.set_xscale("log")
    ax.set_xlim(10, 1000)
    fit = critical(estimate=100.0, low=50.0, high=200.0, steps_min=7.0, batch_sizes=(20, 80))

    def draw(fit: CriticalBatchSize) -> None:
        plots.critical_batch_sizes(ax, dataclasses.replace(NOTHING_FOUND.to_target, critical={"scaled_lr": fit}))

    draw(fit)
    curve, marker, *keys = ax.get_lines()
    assert [key.get_label() for key in keys] == ["fitted curve", "critical batch size, 95 % interval"]
    assert marker.get_marker() == "|"
    np.testing.assert_allclose(curve.get_ydata(), 7 + 700 / np.array(curve.get_xdata()))
    assert curve.get_xdata()[[0, -1]].tolist() == pytest.approx([20, 1000])
    assert marker.get_xydata().tolist() == [[100, 14]]
    assert ax.collections[0].get_segments()[0].tolist() == [[50, 14], [200, 14]]
    assert ax.get_xlim() == (10, 1000)
    draw(dataclasses.replace(fit, estimate=None))
    draw(dataclasses.replace(fit, steps_min=None))
    assert [line.get_linestyle() for line in ax.get_lines() if len(line.get_xdata()) > 1] == ["--"]
    draw(dataclasses.replace(fit, batch_sizes=(200, 800)))  # B_crit is extrapolated
    assert [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata()) > 1] == pytest.approx([20, 100])


def test_effects_in_points():
    _, ax = plt.subplots()
    rows = pd.DataFrame(
        [(128, 0.02, 0.01, 0.03, None), (256, np.nan, np.nan, np.nan, said("1 pair")), (512, 0.04, 0.01, 0.07, None)],
        columns=["batch_size", "difference", "low", "high", "reason"],
    )
    scaling = Effect("scaling", MODES["scaled_lr"], MODES["baseline_large"], rows, None)
    nothing = dataclasses.replace(scaling, differences=rows.iloc[:0], reason=said("no pair"))
    plots.effects(ax, [scaling])
    assert drawn(ax)["scaling: linearly scaled rate\nminus base rate"] == [[128, 512], [2, 4]]
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (pytest.approx(1), pytest.approx(7))
    assert ax.get_ylim()[0] < 0
    assert ax.get_ylim()[1] > 7
    wide = dataclasses.replace(scaling, differences=rows.assign(low=-0.9, high=0.9))
    _, ax = plt.subplots()
    plots.effects(ax, [wide])
    assert ax.get_ylim() == pytest.approx((-5, 9))  # differences of 2 and 4 points can be told apart
    _, ax = plt.subplots()
    plots.effects(ax, [scaling, dataclasses.replace(nothing, name="warm-up")])
    assert ax.get_legend().get_texts()[-1].get_text() == "warm-up: no pair"
    _, ax = plt.subplots()
    plots.effects(ax, [dataclasses.replace(scaling, differences=rows.iloc[1:2]), nothing])
    assert texts(ax) == ["scaling: 1 pair\nscaling: no pair"]


LEFT, RIGHT = 128 / 1.5, 512 * 1.5  # of the axis over the powers of two that hold everything


def bars(ax) -> list:
    """Horizontal ones: (from, to, height)."""
    segments = [tuple(map(tuple, part)) for each in ax.collections for part in getattr(each, "get_segments", list)()]
    return [(start[0], end[0], start[1]) for start, end in segments if start[1] == end[1]]


def test_breaking_points():
    """Ticks with numbers are estimates, bars intervals, arrows open ends; a row of which nothing is known says why."""
    rows = {
        "scaled_lr": mode(POINT, BARE, OPEN_ABOVE),
        "mine": mode(UNKNOWN, OPEN_BELOW, point(400.0, None, 500.0, (256, 512))),
    }
    _, ax = plt.subplots()
    plots.breaking_points(ax, found_of(rows))
    assert ax.get_xlim() == pytest.approx((LEFT, RIGHT))
    markers = [(line.get_marker(), *line.get_xydata()[0]) for line in ax.get_lines()]
    assert markers == [
        ("|", 256, 0),
        ("|", 200, -1),
        (">", pytest.approx(RIGHT), -2),
        ("<", pytest.approx(LEFT), -5),
        ("<", pytest.approx(LEFT), -6),
        ("|", 400, -6),
    ]
    assert bars(ax) == [
        (128, 512, 0),
        (300, pytest.approx(RIGHT), -2),
        (pytest.approx(LEFT), 130, -5),
        (pytest.approx(LEFT), 500, -6),
    ]
    beside = ["256", "200", "> 512", "nobody knows", "< 128", "400"]
    assert texts(ax) == [*beside, "linearly scaled rate", "mine"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["accuracy", "updates", "time"] * 2


def within(ax) -> bool:
    """Whether all words are inside the axes."""
    ax.figure.canvas.draw()
    inside = ax.get_window_extent()
    boxes = [text.get_window_extent() for text in ax.texts]
    return all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)


@pytest.mark.parametrize(
    "found",
    [
        point(128.0, 128.0, 128.0, (128, 256)),
        point(512.0, 512.0, 512.0, (512, None)),
        point(512.0, 128.0, 700.0, (512, None)),
        point(512.0, 128.0, None, (512, None)),
        point(500.0, 500.0, 40_000.0, (256, 512)),
        point(None, None, None, (512, None)),
        point(None, None, None, (None, 128)),
        point(None, 520.0, None, (512, None)),
        OPEN_ABOVE,
        OPEN_BELOW,
        BARE,
    ],
)
def test_numbers_of_breaking_points_stay_within_the_axes(found):
    """In the size that the report gives them, wherever the estimate lies."""
    figure, ax = plt.subplots(figsize=(6.3, 1.35), layout="constrained")
    plots.breaking_points(ax, found_of({"scaled_lr": mode(found, found, found)}))
    assert within(ax)
    figure.canvas.draw()
    left, right = ax.get_xlim()
    for start, end, _ in bars(ax):
        assert left <= start <= end <= right


def test_what_lies_far_beyond_the_records_does_not_stretch_the_axis():
    """An upper end at more than 64 times the largest batch size is an arrow; one nearer is drawn."""
    for high, is_open in ((512 * 65.0, True), (512 * 63.0, False)):
        _, ax = plt.subplots()
        plots.breaking_points(ax, found_of({"scaled_lr": mode(point(256.0, 128.0, high, (256, 512)))}))
        _, right = ax.get_xlim()
        assert [line.get_marker() for line in ax.get_lines()] == ([">", "|"] if is_open else ["|"])
        ((start, end, _),) = bars(ax)
        assert (start, end) == (128, pytest.approx(right) if is_open else high)
        assert right == pytest.approx(RIGHT) if is_open else right > high


@pytest.mark.parametrize("found", [POINT, BARE, OPEN_ABOVE, OPEN_BELOW, UNKNOWN, point(400.0, None, 500.0)])
def test_bars_and_arrows_are_what_the_interval_is(found):
    """No interval, no bar; an arrow at an open end of one, and at no other; a number where there is an estimate."""
    _, ax = plt.subplots()
    plots.breaking_points(ax, found_of({"scaled_lr": mode(found, found, found)}))
    ends = found.interval if found.interval != (None, None) else (None, None)
    count = 0 if ends == (None, None) else 3
    assert len(bars(ax)) == count
    arrows = [line.get_marker() for line in ax.get_lines() if line.get_marker() in ("<", ">")]
    assert arrows.count("<") == (count if ends[0] is None else 0)
    assert arrows.count(">") == (count if ends[1] is None else 0)
    ticks = [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "|"]
    assert ticks == ([found.estimate] * 3 if found.estimate else [])
    shown = {None: "nobody knows", 256.0: "256", 200.0: "200", 400.0: "400"}[found.estimate]
    shown = {OPEN_ABOVE: "> 512", OPEN_BELOW: "< 128"}.get(found, shown)
    assert texts(ax)[:3] == [shown] * 3


THRESHOLD = Threshold(accuracy=0.75, best=0.76, tolerance=0.01, from_batch_size=64, mean=0.76, error=0.001)
# Falls by a point per doubling from 128 on, so that it crosses 0.75 at 256.
CURVE = Crossing(256.0, 181.0, 400.0, (128.0, 256.0, 512.0), (0.76, 0.75, 0.74))


def crossed(**points: BreakingPoint):
    """Axes with lines of some modes and where they cross the threshold, and the limits before that."""
    _, ax = plt.subplots(figsize=(6.3, 2.3), layout="constrained")
    found = found_of({name: mode(at) for name, at in points.items()}, threshold=THRESHOLD)
    for name in points:
        ax.plot([64, 512], [0.76, 0.7], **plots.mode_style(name, points))
    plots._log2_axis(ax, [64, 128, 256, 512])
    before = ax.get_xlim(), ax.get_ylim()
    plots.crossings(ax, found)
    return ax, before


def test_crossings():
    """The fitted curve, a dotted line from the threshold down to a tick with a number, and the interval as a bar."""
    ax, (limits, (low, high)) = crossed(scaled_lr=point(256.0, 181.0, 400.0, (256, 512), curve=CURVE))
    colour = plots.mode_style("scaled_lr")["color"]
    _, tick, key, curve, fitted = ax.get_lines()
    assert (curve.get_linestyle(), curve.get_color()) == ("--", colour)
    assert fitted.get_label() == "fitted curve"
    sizes, values = np.array(curve.get_xdata()), np.array(curve.get_ydata())
    assert (sizes[0], sizes[-1]) == (128, pytest.approx(512))
    np.testing.assert_allclose(values[1:-1], 0.76 - 0.01 * np.log2(sizes[1:-1] / 128), atol=1e-9)
    ((start, end, height),) = bars(ax)
    assert (start, end) == (181, 400)
    assert ax.get_ylim()[0] < height < low  # below all lines
    assert ax.get_ylim()[1] == high
    assert ax.get_xlim() == limits
    assert (tick.get_marker(), *tick.get_xydata()[0], tick.get_color()) == ("|", 256, height, colour)
    assert texts(ax) == ["256"]
    (dotted,) = [each for each in ax.collections if each.get_segments()[0][0][0] == each.get_segments()[0][1][0]]
    assert dotted.get_segments()[0].tolist() == [[256, height], [256, 0.75]]
    assert dotted.get_linestyle()[0][1] is not None  # dashes or dots
    assert key.get_label() == "breaking point, 95 % interval"
    assert len(key.get_xdata()) == 0


def test_crossings_have_a_row_each():
    shown = point(256.0, 181.0, 400.0, (256, 512), curve=CURVE)
    ax, (_, (low, _)) = crossed(baseline_large=shown, scaled_lr=dataclasses.replace(shown, high=None), mine=shown)
    heights = [height for *_, height in bars(ax)]
    assert sorted(set(heights), reverse=True) == heights
    assert ax.get_ylim()[0] < heights[-1] < heights[0] < low
    labels = [line.get_label() for line in ax.get_lines() if not line.get_label().startswith("_")]
    assert labels == ["breaking point, 95 % interval", "fitted curve"]  # once


@pytest.mark.parametrize(
    ("found", "markers", "number", "count"),
    [
        (point(256.0, None, None, (256, 512), curve=CURVE), ["|"], "256", 0),  # single seeds: no bar
        (point(256.0, 181.0, None, (256, 512), curve=CURVE), [">", "|"], "256", 1),
        (point(256.0, None, 400.0, (256, 512), curve=CURVE), ["<", "|"], "256", 1),
        (point(None, 400.0, None, (512, None), curve=CURVE), [">"], "> 512", 1),
        (point(None, None, 140.0, (None, 128), curve=CURVE), ["<"], "< 128", 1),
    ],
)
def test_crossings_that_are_open(found, markers, number, count):
    ax, (limits, _) = crossed(scaled_lr=found)
    symbols = [line for line in ax.get_lines()[1:] if len(line.get_xdata()) == 1]
    assert [line.get_marker() for line in symbols] == markers
    for line in symbols:
        if line.get_marker() != "|":
            assert line.get_xdata()[0] == limits[line.get_marker() == ">"]
    assert len(bars(ax)) == count
    assert texts(ax) == [number]
    assert ax.get_xlim() == limits
    assert within(ax)
    lines = [each for each in ax.collections if each.get_segments()[0][0][0] == each.get_segments()[0][1][0]]
    assert len(lines) == (found.estimate is not None)


def test_breaking_points_are_below_the_lines():
    """One row per mode that has a verdict, on an axis of powers of ten."""
    _, ax = plt.subplots()
    ax.plot([128, 512], [40, 20])
    plots._log2_axis(ax, [128, 256, 512])
    ax.set_yscale("log")
    limits, (low, high) = ax.get_xlim(), ax.get_ylim()
    points = {"baseline_large": POINT, "scaled_lr": UNKNOWN, "mine": OPEN_ABOVE}
    plots.breaking_points_below(ax, points)
    assert [bar[:2] for bar in bars(ax)] == [(128, 512), (300, pytest.approx(limits[1]))]
    heights = [bar[2] for bar in bars(ax)]
    assert ax.get_ylim()[0] < heights[1] < heights[0] < low
    assert ax.get_ylim()[1] == pytest.approx(high)
    assert ax.get_xlim() == limits
    symbols = [(line.get_marker(), line.get_xdata()[0]) for line in ax.get_lines()[1:] if len(line.get_xdata())]
    assert symbols == [("|", 256), (">", limits[1])]
    assert texts(ax) == ["256", "> 512"]
    before = ax.get_ylim()
    assert plots.breaking_points_below(ax, {"mine": UNKNOWN}) == {}
    assert ax.get_ylim() == before


def test_without_a_curve_nothing_is_crossed():
    ax, before = crossed(scaled_lr=UNKNOWN)
    assert (ax.get_xlim(), ax.get_ylim()) == before
    assert (len(ax.get_lines()), texts(ax)) == (1, [])
    _, empty = plt.subplots()
    plots.crossings(empty, found_of({"scaled_lr": mode(point(256.0, curve=CURVE))}, threshold=THRESHOLD))
    assert not empty.has_data()


def test_crossings_of_some_modes():
    found = point(256.0, 181.0, 400.0, (256, 512), curve=CURVE)
    ax, _ = crossed(baseline_large=found, scaled_lr=found)
    both = len(bars(ax))
    _, ax = plt.subplots()
    ax.plot([64, 512], [0.76, 0.7])
    two = {name: mode(found) for name in ("baseline_large", "scaled_lr")}
    plots.crossings(ax, found_of(two, threshold=THRESHOLD), ["scaled_lr"])
    assert (both, len(bars(ax))) == (2, 1)
    (tick,) = [line for line in ax.get_lines() if line.get_marker() == "|" and len(line.get_xdata())]
    assert tick.get_color() == plots.mode_style("scaled_lr")["color"]


def test_the_curve_of_records_crosses_the_threshold_where_it_is_drawn():
    """Of a whole analysis: the dotted lines end on the fitted curves, and every number is an estimate."""
    found = findings.analyse(synthetic.as_study(large=(128, 256, 512, 1024), epochs=10))
    _, ax = plt.subplots()
    plots.against_batch_size(ax, found, "accuracy")
    plots.threshold_line(ax, found.threshold)
    plots.crossings(ax, found)
    points = [mode.breaking_points["accuracy"] for mode in found.modes.values()]
    known = [point for point in points if point.estimate is not None]
    assert len(known) >= 2
    for point in known:
        assert point.curve.curve(np.array([point.estimate]))[0] == pytest.approx(found.threshold.accuracy, abs=1e-6)
        kept, lost = point.between
        assert kept <= point.estimate <= lost
        assert point.low <= point.estimate
        assert point.high is None or point.estimate <= point.high
    assert [text for text in texts(ax) if text[0] != ">"] == [images(point.estimate) for point in known]


def test_noise_scales_beside_critical_batch_sizes():
    _, ax = plt.subplots()
    modes = {"scaled_lr": mode(fit=FIT, noise=(300, 100, 900)), "mine": mode(noise=(50, 40, 60))}
    plots.noise_scales(ax, found_of(modes))
    values = [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata())]
    assert values == [400, 300, 50]
    assert [bar[:2] for bar in bars(ax)] == [(200, 800), (100, 900), (40, 60)]
    assert texts(ax) == ["critical batch size undetermined"]


@pytest.mark.parametrize(("width", "step"), [(24, 1), (12, 2), (6.4, 3), (3.2, 6)])
def test_as_many_batch_sizes_are_named_as_have_room(width, step):
    """A small tick marks the others."""
    figure, ax = plt.subplots(figsize=(width, 4))
    plots.noise_scales(ax, found_of({"mine": mode(noise=(900, 4, 1_000_000))}))
    figure.canvas.draw()
    powers = [2**power for power in range(2, 21)]
    assert [text.get_text() for text in ax.get_xticklabels()] == list(map(str, powers[::step]))
    assert set(ax.xaxis.get_minorticklocs()) | set(ax.xaxis.get_majorticklocs()) == set(powers)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (30, 40_000, [100, 1000, 10_000]),
        (240, 1040, [300, 500, 700, 1000]),
        (54, 330, [70, 100, 150, 200, 300]),
        (9, 30_000, [10, 100, 1000, 10_000]),
    ],
)
def test_an_axis_of_powers_of_ten_has_numbers_where_the_points_are(low, high, shown):
    """Four at least, as round as can be."""
    _, ax = plt.subplots()
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    plots._few_numbers(ax.yaxis, (low, high))
    seen = [tick for tick in ax.yaxis.get_majorticklocs() if low <= tick <= high]
    assert len(seen) >= 4
    assert set(shown) <= set(seen)


def test_noise_scales_that_are_not_measurable_or_not_measured():
    _, ax = plt.subplots()
    modes = {"scaled_lr": mode(noise=(50, 40, None)), "mine": mode(noise=(None, 40, None)), "none": mode()}
    plots.noise_scales(ax, found_of(modes))
    end = ax.get_xlim()[1]
    assert [bar[:2] for bar in bars(ax)] == [(40, end), (40, end)]
    markers = [(line.get_marker(), line.get_xdata()[0]) for line in ax.get_lines() if len(line.get_xdata())]
    assert markers == [(">", end), (plots.mode_style("scaled_lr")["marker"], 50), (">", end)]
    missing, hidden = "critical batch size undetermined", "noise scale not measurable in 1 of 3 epochs"
    assert texts(ax) == [missing, missing, hidden, missing, "noise scale not measured"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["gradient noise scale"]


def test_frontier_joins_and_names_what_is_worth_choosing():
    _, ax = plt.subplots()
    rows = [
        ("scaled_lr", 512, 1.0, 0.5, False),
        ("scaled_lr", 256, 2.0, 0.52, True),
        ("scaled_lr", 1024, 3.0, 0.2, True),
        ("baseline_large", 128, 10.0, 0.7, False),
    ]
    table = pd.DataFrame(rows, columns=["experiment", "batch_size", "running_time", "accuracy", "dominated"])
    found = found_of({"baseline_large": mode(), "scaled_lr": mode()})
    found = dataclasses.replace(found, frontier=table)
    plots.frontier(ax, found)
    plots.label_frontier(ax, found)
    assert texts(ax) == ["1 combination below", "B = 128", "B = 512"]
    assert 0.2 < ax.get_ylim()[0] < 0.5
    line = next(line for line in ax.get_lines() if line.get_color() == "0.6")
    assert line.get_xydata().tolist() == [[1.0, 0.5], [10.0, 0.7]]
    assert {line.get_alpha() for line in ax.get_lines() if list(line.get_xdata()) == [2.0, 3.0]} == {0.3}


def test_powers_of_two_are_named():
    """The sizes that a search adds between them have small ticks alone."""
    _, ax = plt.subplots(figsize=(3.2, 4))
    sizes = [2, 7, 8, 13, 23, 27, 64, 512, 736, 4096]
    plots.against_batch_size(
        ax, findings.analyse(Study.of(table(*[("mine", size, 0, [0.2]) for size in sizes]))), "accuracy"
    )
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "64", "512", "4096"]


def test_of_very_many_batch_sizes_some_are_drawn():
    """From the smallest to the largest, and the axis says how many; numbers on an axis keep a distance."""
    sizes = range(2, 302)
    epochs = table(*[("mine", size, 0, [0.1, 0.2]) for size in sizes])
    _, axes = plt.subplots(1, 2)
    plots.against_epoch(axes[0], epochs, "accuracy", sizes)
    lines = [line.get_label() for line in axes[0].get_lines()]
    assert (len(lines), lines[0], lines[-1]) == (16, "B = 2", "B = 301")
    assert axes[0].get_xlabel() == "epoch (16 of 300 batch sizes)"
    plots.against_batch_size(axes[1], findings.analyse(Study.of(epochs)), "accuracy")
    shown = [int(label.get_text()) for label in axes[1].get_xticklabels()]
    assert shown[0] == 2
    assert len(shown) <= 14
    assert min(np.diff(np.log(shown))) >= np.log(301 / 2) / 14


def test_forty_modes_can_be_told_apart():
    names = [f"mine_{number:02d}" for number in range(40)]
    styles = [plots.mode_style(name, names) for name in (*MODES, *names)]
    assert len({(style["color"], style["marker"]) for style in styles}) == 44
    study = Study.of(timed(*[(name, 128, 0, [0.1, 0.5 + place / 100]) for place, name in enumerate(names)]))
    found = findings.analyse(study, target=0.4)
    figure, axes = plt.subplots(1, 2, figsize=(16, 8), layout="constrained")
    plots.to_target(axes[0], reached(study, 0.4)[0], "updates", study.modes)
    places = np.concatenate([markers.get_offsets()[:, 0] for markers in axes[0].collections])
    assert len(places) == 40
    assert places.max() / places.min() < 2**0.5  # beside 128, not over other batch sizes
    plots.against_batch_size(axes[1], found, "accuracy")
    plots.label_lines(axes[1])
    figure.canvas.draw()
    inside, legend = axes[1].get_window_extent(), axes[1].get_legend().get_window_extent()
    assert len(axes[1].get_legend().get_texts()) == 40
    assert legend.x0 >= inside.x1  # beside the lines


@pytest.mark.parametrize("case", LITTLE)
def test_little_to_show(case):
    """No warning, no error, and a word where there is nothing."""
    study, _ = LITTLE[case]
    found = findings.analyse(study, target=synthetic.TARGET)
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    plots.to_target(axes[0, 0], found.to_target, "updates", found.study.modes)
    plots.critical_batch_sizes(axes[0, 0], found.to_target)
    plots.to_target(axes[0, 1], reached(found.study, None)[0], "running_time", found.study.modes)
    plots.effects(axes[0, 2], found.effects)
    plots.breaking_points(axes[1, 0], found)
    plots.noise_scales(axes[1, 1], found)
    plots.frontier(axes[1, 2], found)
    figure.canvas.draw()
    for ax in axes.flat:
        assert ax.get_lines() or ax.collections or texts(ax)


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 2)])
def test_image_grid(channels, classes):
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, channels), dtype=np.uint8)
    labels = np.arange(50) % classes
    names = [f"class {number}" for number in range(classes)]
    axes = np.array(plots.image_grid(images, labels, names).axes).reshape(2, classes)
    assert [ax.get_title() for ax in axes[0]] == names
    shown = axes[1, 1].images[0].get_array()
    np.testing.assert_array_equal(shown, images[1 + classes] if channels == 3 else images[1 + classes][..., 0])


def test_image_grid_of_a_class_without_images():
    plots.image_grid(np.zeros((1, 32, 32, 3), np.uint8), np.array([0]), ["a", "b"])


def test_save_writes_for_screen_and_page(tmp_path):
    figure, ax = plt.subplots()
    ax.plot(pd.Series([1, 2]))
    figures.save(figure, tmp_path, "name")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["name.png", "name.svg"]
    assert (tmp_path / "figures" / "name.png").read_bytes().startswith(b"\x89PNG")
