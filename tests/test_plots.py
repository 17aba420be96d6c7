"""Figures show what they are given, also when that is little."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import synthetic
from test_analysis import NOTHING, STUDY, table
from test_findings import LITTLE

from batchscale.analysis import findings, plots, tables
from batchscale.modes import MODES


@pytest.fixture(autouse=True)
def _no_window():
    mpl.use("agg")
    yield
    plt.close("all")


def drawn(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().T.tolist() for line in axes.get_lines()}


def test_against_batch_size():
    _, ax = plt.subplots()
    plots.against_batch_size(ax, tables.over_seeds(tables.final(STUDY), "accuracy"), "accuracy")
    assert drawn(ax) == {
        "small batches, base rate": [[2, 8], [pytest.approx(0.65), pytest.approx(0.67)]],
        "linearly scaled rate": [[128], [0.5]],
    }
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (0.60, 0.70)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "8", "128"]
    assert ax.get_xscale() == "log"


def test_against_epoch_is_darker_for_larger_batches():
    _, ax = plt.subplots()
    small = STUDY[STUDY["experiment"] == "baseline_small"]
    plots.against_epoch(ax, tables.over_seeds(small, "accuracy", by=("batch_size", "epoch")), "accuracy")
    assert drawn(ax)["B = 8"] == [[1, 2], [0.4, pytest.approx(0.67)]]
    luminance = [mpl.colors.rgb_to_hsv(line.get_color()[:3])[2] for line in ax.get_lines()]
    assert luminance == sorted(luminance, reverse=True)


def test_threshold_line():
    _, ax = plt.subplots()
    plots.threshold_line(ax, tables.threshold(STUDY))  # no line to compare with it
    assert not ax.get_lines()
    ax.plot([2, 8], [0.5, 0.6])
    plots.threshold_line(ax, None)
    assert len(ax.get_lines()) == 1
    plots.threshold_line(ax, tables.threshold(STUDY))
    assert ax.get_lines()[1].get_ydata()[0] == pytest.approx(0.66)
    assert ax.get_lines()[1].get_label() == "threshold 0.660 (B = 8 less 0.01)"


def test_a_long_name_is_shortened_in_its_middle():
    assert plots.mode_label("a" * 32) == "a" * 32
    first, second = (plots.mode_label(f"my_experiment_with_a_{'long_' * 10}name_{end}") for end in (1, 2))
    assert first == "my_experiment_w…long_long_name_1"
    assert second.endswith("_2")
    assert plots.mode_label("scaled_lr") == "linearly scaled rate"


def test_modes_are_told_apart_everywhere():
    own = ["mine", "yours"]
    styles = [plots.mode_style(name, own) for name in [*MODES, *own]]
    assert len({style["color"] for style in styles}) == len({style["marker"] for style in styles}) == 6
    # the study's modes keep theirs whatever else is there
    assert [plots.mode_style(name) for name in MODES] == styles[:4]


def test_nothing_to_show():
    _, (left, right) = plt.subplots(1, 2)
    plots.against_batch_size(left, tables.over_seeds(NOTHING, "running_time"), "running_time")
    plots.against_epoch(right, tables.over_seeds(NOTHING, "accuracy", by=("batch_size", "epoch")), "accuracy")
    left.figure.canvas.draw()
    assert (texts(left), texts(right)) == (["no finished runs"], ["no runs"])
    for axis in (left.xaxis, left.yaxis, right.xaxis, right.yaxis):
        assert not [number.get_text() for number in axis.get_ticklabels()]


def test_the_interval_of_one_batch_size_is_a_bar():
    _, ax = plt.subplots()
    one = STUDY[STUDY["batch_size"] == 8]
    plots.against_batch_size(ax, tables.over_seeds(tables.final(one), "accuracy"), "accuracy")
    assert ax.collections[1].get_segments()[0].tolist() == [[8, 0.66], [8, 0.68]]


def test_one_epoch_is_a_point():
    _, ax = plt.subplots()
    one = table(("mine", 8, 0, [0.5]))
    plots.against_epoch(ax, tables.over_seeds(one, "accuracy", by=("batch_size", "epoch")), "accuracy")
    assert ax.get_lines()[0].get_marker() == "o"


WARM = "gradual_warmup_scaled_lr"


def mode(accuracy=None, updates=None, time=None, *, intervals=(), fit=(None, None, None), noise=None) -> dict:
    """A mode as in the result of `findings.analyse`, as far as figures need it."""
    verdicts = {"accuracy": accuracy, "updates": updates, "time": time}
    open_ended = dict.fromkeys(verdicts, (None, None))
    return {
        "breaking_point": verdicts
        | {"intervals": open_ended | dict(intervals), "reasons": dict.fromkeys(verdicts, "nobody knows")},
        "critical_batch_size": dict(zip(("estimate", "low", "high"), fit, strict=True)),
        "noise_scale": noise and dict(zip(("median", "low", "high"), noise, strict=True)) | {"reason": "hidden"},
        "batch_sizes": [{"batch_size": size} for size in (128, 256, 512)],
    }


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
    runs = tables.to_target(records.assign(updates=10 * records["epoch"]), 0.5, failed)
    plots.to_target(ax, runs, tables.means_to_target(runs), "updates", 0.5)
    assert drawn(ax)["linearly scaled rate"] == [[128], [pytest.approx(15)]]
    reached, missed, diverged = (collection.get_offsets().tolist() for collection in ax.collections)
    assert (reached, missed, diverged) == ([[128, pytest.approx(15)]], [[256, 20]], [[512, 20]])
    assert len(ax.collections[1].get_facecolors()) == 0
    (at_once,) = [line for line in ax.get_lines() if line.get_transform() == ax.get_xaxis_transform()]
    assert (at_once.get_marker(), at_once.get_xydata().tolist()) == ("x", [[1024, 0]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["128", "256", "512", "1024"]
    assert ax.get_title() == "target: accuracy 0.500"
    assert {"target not reached: at least this", "diverged here"} < set(drawn(ax))


def test_to_target_has_no_line_without_clipping_but_for_crosses():
    """Without points it would reach to the figure's corner, and the layout with it."""
    _, ax = plt.subplots()
    runs = tables.to_target(table(("scaled_lr", 128, 0, [0.1, 0.9])).assign(updates=[5, 10]), 0.5)
    plots.to_target(ax, runs, tables.means_to_target(runs), "updates", 0.5)
    assert all(line.get_clip_on() for line in ax.get_lines())


def test_to_target_says_what_is_missing():
    runs = tables.to_target(table(("scaled_lr", 128, 0, [0.1, 0.9])), 0.5)  # without updates
    for rows, target, reason in (
        (runs, None, "no target: there is no threshold, and none was given"),
        (runs, 0.5, "not recorded"),
        (runs.iloc[:0], 0.5, "no runs"),
    ):
        _, ax = plt.subplots()
        plots.to_target(ax, rows, tables.means_to_target(rows), "updates", target)
        assert texts(ax) == [reason]
        assert not ax.get_lines()
        assert not ax.get_title()


def test_critical_batch_size_is_on_its_curve():
    _, ax = plt.subplots()
    ax.set_xscale("log")
    ax.set_xlim(10, 1000)
    fit = {"estimate": 100.0, "low": 50.0, "high": 200.0, "steps_min": 7.0, "batch_sizes": [20, 80]}
    plots.critical_batch_size(ax, "scaled_lr", fit)
    curve, marker, _ = ax.get_lines()
    np.testing.assert_allclose(curve.get_ydata(), 7 + 700 / np.array(curve.get_xdata()))
    assert curve.get_xdata()[[0, -1]].tolist() == pytest.approx([20, 1000])
    assert marker.get_xydata().tolist() == [[100, 14]]
    assert ax.collections[0].get_segments()[0].tolist() == [[50, 14], [200, 14]]
    assert ax.get_xlim() == (10, 1000)
    plots.critical_batch_size(ax, "scaled_lr", fit | {"estimate": None})
    plots.critical_batch_size(ax, "scaled_lr", fit | {"steps_min": None})
    assert len(ax.get_lines()) == 3
    plots.critical_batch_size(ax, "scaled_lr", fit | {"batch_sizes": [200, 800]})  # B_crit is extrapolated
    assert ax.get_lines()[3].get_xdata()[0] == pytest.approx(100)


def test_effects_in_points():
    _, ax = plt.subplots()
    rows = [
        {"batch_size": 128, "difference": 0.02, "low": 0.01, "high": 0.03, "reason": None},
        {"batch_size": 256, "difference": None, "low": None, "high": None, "reason": "1 pair"},
        {"batch_size": 512, "difference": 0.04, "low": 0.01, "high": 0.07, "reason": None},
    ]
    scaling = {"effect": "scaling", "of": "scaled_lr", "over": "baseline_large", "batch_sizes": rows, "reason": None}
    plots.effects(ax, [scaling])
    assert drawn(ax)["scaling: linearly scaled rate\nless base rate"] == [[128, 512], [2, 4]]
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (pytest.approx(1), pytest.approx(7))
    _, ax = plt.subplots()
    plots.effects(ax, [scaling, scaling | {"effect": "warm-up", "batch_sizes": [], "reason": "no pair"}])
    assert ax.get_legend().get_texts()[-1].get_text() == "warm-up: no pair"
    _, ax = plt.subplots()
    plots.effects(ax, [scaling | {"batch_sizes": rows[1:2]}, scaling | {"batch_sizes": [], "reason": "no pair"}])
    assert texts(ax) == ["scaling: 1 pair\nscaling: no pair"]


def test_breaking_points():
    _, ax = plt.subplots()
    scaled = mode(256, 128, 512, intervals={"accuracy": (128, 512), "updates": (None, 256)})
    plots.breaking_points(ax, {"scaled_lr": scaled, "mine": mode(intervals={"updates": (None, 128)})})
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
    plots.noise_scales(ax, modes)
    values = [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata())]
    assert values == [400, 300, 50]
    bars = [collection.get_segments()[0][:, 0].tolist() for collection in ax.collections]
    assert bars == [[200, 800], [100, 900], [40, 60]]
    assert texts(ax) == ["B_crit not determined"]


def test_every_second_of_many_powers_of_two_is_named():
    _, ax = plt.subplots()
    plots.noise_scales(ax, {"mine": mode(noise=(900, 4, 1_000_000))})
    assert [text.get_text() for text in ax.get_xticklabels()] == [str(4**power) for power in range(1, 11)]


def test_noise_scales_that_are_not_measurable_or_not_measured():
    _, ax = plt.subplots()
    modes = {"scaled_lr": mode(noise=(50, 40, None)), "mine": mode(noise=(None, 40, None)), "none": mode()}
    plots.noise_scales(ax, modes)
    end = ax.get_xlim()[1]
    bars = [collection.get_segments()[0][:, 0].tolist() for collection in ax.collections]
    assert bars == [[40, end], [40, end]]
    markers = [(line.get_marker(), line.get_xdata()[0]) for line in ax.get_lines() if len(line.get_xdata())]
    assert markers == [(">", end), ("^", 50), (">", end)]
    missing = "B_crit not determined"
    assert texts(ax) == [missing, missing, "noise scale hidden", missing, "noise scale not measured"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["gradient noise scale"]


def test_frontier_joins_and_names_what_is_worth_choosing():
    _, ax = plt.subplots()
    rows = [
        {"experiment": name, "batch_size": size, "running_time": time, "accuracy": accuracy, "dominated": dominated}
        for name, size, time, accuracy, dominated in [
            ("scaled_lr", 512, 1.0, 0.5, False),
            ("scaled_lr", 256, 2.0, 0.4, True),
            ("baseline_large", 128, 10.0, 0.7, False),
        ]
    ]
    plots.frontier(ax, rows)
    assert sorted(texts(ax)) == ["128", "512"]
    line = next(line for line in ax.get_lines() if line.get_color() == "0.6")
    assert line.get_xydata().tolist() == [[1.0, 0.5], [10.0, 0.7]]
    assert {line.get_alpha() for line in ax.get_lines() if list(line.get_xdata()) == [2.0]} == {0.3}


@pytest.mark.parametrize("case", LITTLE)
def test_little_to_show(case):
    """No warning, no error, and a word where there is nothing."""
    records, _ = LITTLE[case]
    result = findings.analyse(records, target=synthetic.TARGET)
    runs = tables.to_target(records, synthetic.TARGET)
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    plots.to_target(axes[0, 0], runs, tables.means_to_target(runs), "updates", synthetic.TARGET)
    for name, found in result["modes"].items():
        plots.critical_batch_size(axes[0, 0], name, found["critical_batch_size"], result["modes"])
    plots.to_target(axes[0, 1], runs, tables.means_to_target(runs), "running_time", None)
    plots.effects(axes[0, 2], result["effects"])
    plots.breaking_points(axes[1, 0], result["modes"])
    plots.noise_scales(axes[1, 1], result["modes"])
    plots.frontier(axes[1, 2], result["frontier"])
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
    plots.save(figure, tmp_path, "name")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["name.png", "name.svg"]
    assert (tmp_path / "figures" / "name.png").read_bytes().startswith(b"\x89PNG")
