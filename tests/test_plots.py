"""Figures show what they are given, also when that is little."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_analysis import NOTHING, STUDY, table

from batchscale import analysis, plots
from batchscale.experiment import MODES


@pytest.fixture(autouse=True)
def _no_window():
    mpl.use("agg")
    yield
    plt.close("all")


def drawn(axes) -> dict[str, list]:
    return {line.get_label(): [line.get_xdata().tolist(), line.get_ydata().tolist()] for line in axes.get_lines()}


def test_against_batch_size():
    _, ax = plt.subplots()
    plots.against_batch_size(ax, analysis.over_seeds(analysis.final(STUDY), "accuracy"), "accuracy")
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
    plots.against_epoch(ax, analysis.over_seeds(small, "accuracy", by=("batch_size", "epoch")), "accuracy")
    assert drawn(ax)["B = 8"] == [[1, 2], [0.4, pytest.approx(0.67)]]
    luminance = [mpl.colors.rgb_to_hsv(line.get_color()[:3])[2] for line in ax.get_lines()]
    assert luminance == sorted(luminance, reverse=True)


def test_threshold_line():
    _, ax = plt.subplots()
    plots.threshold_line(ax, None)
    assert not ax.get_lines()
    plots.threshold_line(ax, analysis.threshold(STUDY))
    assert ax.get_lines()[0].get_ydata()[0] == pytest.approx(0.66)
    assert ax.get_lines()[0].get_label() == "threshold 0.660 (B = 8 less 0.01)"


def test_modes_are_told_apart_everywhere():
    own = ["mine", "yours"]
    styles = [plots.mode_style(name, own) for name in [*MODES, *own]]
    assert len({style["color"] for style in styles}) == len({style["marker"] for style in styles}) == 6
    # the study's modes keep theirs whatever else is there
    assert [plots.mode_style(name) for name in MODES] == styles[:4]


def test_nothing_to_show():
    _, (left, right) = plt.subplots(1, 2)
    plots.against_batch_size(left, analysis.over_seeds(NOTHING, "running_time"), "running_time")
    plots.against_epoch(right, analysis.over_seeds(NOTHING, "accuracy", by=("batch_size", "epoch")), "accuracy")
    left.figure.canvas.draw()


def test_one_epoch_is_a_point():
    _, ax = plt.subplots()
    one = table(("mine", 8, 0, [0.5]))
    plots.against_epoch(ax, analysis.over_seeds(one, "accuracy", by=("batch_size", "epoch")), "accuracy")
    assert ax.get_lines()[0].get_marker() == "o"


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
