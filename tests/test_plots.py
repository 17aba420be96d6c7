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
from batchscale.analysis.findings import Effect, Findings, ModeFindings, NoiseScale, ToTarget
from batchscale.analysis.reasons import WORDING, Reason
from batchscale.analysis.threshold import threshold
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
    _, ax = plt.subplots()
    plots.against_batch_size(ax, findings.analyse(STUDY), "accuracy")
    assert drawn(ax) == {
        "small batches, base rate": [[2, 8], [pytest.approx(0.65), pytest.approx(0.67)]],
        "linearly scaled rate": [[128], [0.5]],
    }
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (0.60, 0.70)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "8", "128"]
    assert ax.get_xscale() == "log"
    _, ax = plt.subplots()
    plots.against_batch_size(ax, findings.analyse(STUDY), "accuracy", ["scaled_lr"])
    assert drawn(ax) == {"linearly scaled rate": [[128], [0.5]]}


def test_against_epoch_is_darker_for_larger_batches():
    _, ax = plt.subplots()
    small = EPOCHS[EPOCHS["experiment"] == "baseline_small"]
    plots.against_epoch(ax, small, "accuracy")
    assert drawn(ax)["B = 8"] == [[1, 2], [0.4, pytest.approx(0.67)]]
    luminance = [mpl.colors.rgb_to_hsv(line.get_color()[:3])[2] for line in ax.get_lines()]
    assert luminance == sorted(luminance, reverse=True)


def test_threshold_line():
    _, ax = plt.subplots()
    plots.threshold_line(ax, threshold(STUDY))  # no line to compare with it
    assert not ax.get_lines()
    ax.plot([2, 8], [0.5, 0.6])
    plots.threshold_line(ax, None)
    assert len(ax.get_lines()) == 1
    plots.threshold_line(ax, threshold(STUDY))
    assert ax.get_lines()[1].get_ydata()[0] == pytest.approx(0.66)
    assert ax.get_lines()[1].get_label() == "threshold 0.660 (B = 8 minus 0.01)"


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


def mode(accuracy=None, updates=None, time=None, *, intervals=(), fit=(None, None, None), noise=None) -> dict:
    """What is found out about a mode, as far as figures need it."""
    sizes, bounds = (accuracy, updates, time), dict(intervals)
    points = {
        currency: BreakingPoint(size, *bounds.get(currency, (None, None)), (said("nobody knows"),), ())
        for currency, size in zip(CURRENCIES, sizes, strict=True)
    }
    measured = noise and NoiseScale(*noise, runs=1, epochs=3, measured=3 if all(noise) else 2)
    return {"breaking_points": points, "critical": critical(*fit), "noise_scale": measured}


def found_of(modes: dict[str, dict]) -> Findings:
    """Findings of modes with runs at B = 128, 256 and 512, as far as figures need them."""
    nothing = pd.DataFrame()
    study = Study.of(table(*[(name, size, 0, [0.5]) for name in modes for size in (128, 256, 512)]))
    of_modes = {
        name: ModeFindings(mode=study.modes[name], losses=nothing, curve=nothing, regimes=nothing, **facts)
        for name, facts in modes.items()
    }
    return dataclasses.replace(NOTHING_FOUND, study=study, modes=of_modes)


def reached(study: Study, target: float | None) -> tuple[ToTarget, dict[str, Mode]]:
    """What `plots.to_target` draws."""
    return findings.to_target(study, target), study.modes


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
    """Means are lines, runs are dots, those that never got there open triangles at what they made, or crosses."""
    _, ax = plt.subplots()
    records = table(
        ("scaled_lr", 128, 0, [0.1, 0.9]), ("scaled_lr", 256, 0, [0.1, 0.2]), ("scaled_lr", 512, 0, [0.1, 0.2])
    )
    failed = [("scaled_lr", 512, 0), ("scaled_lr", 1024, 0)]  # the second in its first epoch
    at, modes = reached(Study.of(records.assign(updates=10 * records["epoch"]), diverged=failed), 0.5)
    plots.to_target(ax, at, "updates", modes)
    assert drawn(ax)["linearly scaled rate"] == [[128], [pytest.approx(15)]]
    arrived, missed, diverged = (collection.get_offsets().tolist() for collection in ax.collections)
    assert (arrived, missed, diverged) == ([[128, pytest.approx(15)]], [[256, 20]], [[512, 20]])
    assert len(ax.collections[1].get_facecolors()) == 0
    (at_once,) = [line for line in ax.get_lines() if line.get_transform() == ax.get_xaxis_transform()]
    assert (at_once.get_marker(), at_once.get_xydata().tolist()) == ("x", [[1024, 0]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["128", "256", "512", "1024"]
    assert ax.get_title() == "target: accuracy 0.500"
    assert {"target not reached: at least this", "diverged here"} < set(drawn(ax))


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
    curve, marker, _ = ax.get_lines()
    np.testing.assert_allclose(curve.get_ydata(), 7 + 700 / np.array(curve.get_xdata()))
    assert curve.get_xdata()[[0, -1]].tolist() == pytest.approx([20, 1000])
    assert marker.get_xydata().tolist() == [[100, 14]]
    assert ax.collections[0].get_segments()[0].tolist() == [[50, 14], [200, 14]]
    assert ax.get_xlim() == (10, 1000)
    draw(dataclasses.replace(fit, estimate=None))
    draw(dataclasses.replace(fit, steps_min=None))
    assert len(ax.get_lines()) == 3
    draw(dataclasses.replace(fit, batch_sizes=(200, 800)))  # B_crit is extrapolated
    assert ax.get_lines()[3].get_xdata()[0] == pytest.approx(100)


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
    _, ax = plt.subplots()
    plots.effects(ax, [scaling, dataclasses.replace(nothing, name="warm-up")])
    assert ax.get_legend().get_texts()[-1].get_text() == "warm-up: no pair"
    _, ax = plt.subplots()
    plots.effects(ax, [dataclasses.replace(scaling, differences=rows.iloc[1:2]), nothing])
    assert texts(ax) == ["scaling: 1 pair\nscaling: no pair"]


def test_breaking_points():
    _, ax = plt.subplots()
    scaled = mode(256, 128, 512, intervals={"accuracy": (128, 512), "updates": (None, 256)})
    plots.breaking_points(ax, found_of({"scaled_lr": scaled, "mine": mode(intervals={"updates": (None, 128)})}))
    markers = {(line.get_marker(), *line.get_xydata()[0]) for line in ax.get_lines()}
    left = ax.get_xlim()[0]
    assert markers == {("o", 256, 0), ("s", 128, -1), ("<", left, -1), ("^", 512, -2), ("<", left, -5)}
    bars = [collection.get_segments()[0].tolist() for collection in ax.collections]
    assert bars == [[[128, 0], [512, 0]], [[left, -1], [256, -1]], [[left, -5], [128, -5]]]
    beside = ["no interval", "nobody knows", "no estimate", "nobody knows"]
    assert texts(ax) == [*beside, "linearly scaled rate", "mine"]
    assert [text.get_horizontalalignment() for text in ax.texts[:3:2]] == ["right", "left"]  # within the axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["accuracy", "updates", "time"] * 2


def test_noise_scales_beside_critical_batch_sizes():
    _, ax = plt.subplots()
    modes = {"scaled_lr": mode(fit=(400, 200, 800), noise=(300, 100, 900)), "mine": mode(noise=(50, 40, 60))}
    plots.noise_scales(ax, found_of(modes))
    values = [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata())]
    assert values == [400, 300, 50]
    bars = [collection.get_segments()[0][:, 0].tolist() for collection in ax.collections]
    assert bars == [[200, 800], [100, 900], [40, 60]]
    assert texts(ax) == ["B_crit undetermined"]


def test_every_second_of_many_powers_of_two_is_named():
    _, ax = plt.subplots()
    plots.noise_scales(ax, found_of({"mine": mode(noise=(900, 4, 1_000_000))}))
    assert [text.get_text() for text in ax.get_xticklabels()] == [str(4**power) for power in range(1, 11)]


def test_noise_scales_that_are_not_measurable_or_not_measured():
    _, ax = plt.subplots()
    modes = {"scaled_lr": mode(noise=(50, 40, None)), "mine": mode(noise=(None, 40, None)), "none": mode()}
    plots.noise_scales(ax, found_of(modes))
    end = ax.get_xlim()[1]
    bars = [collection.get_segments()[0][:, 0].tolist() for collection in ax.collections]
    assert bars == [[40, end], [40, end]]
    markers = [(line.get_marker(), line.get_xdata()[0]) for line in ax.get_lines() if len(line.get_xdata())]
    assert markers == [(">", end), ("^", 50), (">", end)]
    missing, hidden = "B_crit undetermined", "noise scale not measurable in 1 of 3 epochs"
    assert texts(ax) == [missing, missing, hidden, missing, "noise scale not measured"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["gradient noise scale"]


def test_frontier_joins_and_names_what_is_worth_choosing():
    _, ax = plt.subplots()
    rows = [
        ("scaled_lr", 512, 1.0, 0.5, False),
        ("scaled_lr", 256, 2.0, 0.4, True),
        ("baseline_large", 128, 10.0, 0.7, False),
    ]
    table = pd.DataFrame(rows, columns=["experiment", "batch_size", "running_time", "accuracy", "dominated"])
    found = found_of({"baseline_large": mode(), "scaled_lr": mode()})
    plots.frontier(ax, dataclasses.replace(found, frontier=table))
    assert sorted(texts(ax)) == ["128", "512"]
    line = next(line for line in ax.get_lines() if line.get_color() == "0.6")
    assert line.get_xydata().tolist() == [[1.0, 0.5], [10.0, 0.7]]
    assert {line.get_alpha() for line in ax.get_lines() if list(line.get_xdata()) == [2.0]} == {0.3}


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
    plots.to_target(axes[0], found.to_target, "updates", study.modes)
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
    plots.to_target(axes[0, 1], findings.to_target(study, None), "running_time", found.study.modes)
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
