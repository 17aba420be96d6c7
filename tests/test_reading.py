"""Every figure of README, report and results notebook at the size at which it is read: no text is too small, and no two
texts overlap."""

import importlib.util
import itertools
import json
import shutil

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import synthetic
from conftest import PROJECT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from batchscale.analysis import findings, plots
from batchscale.modes import MODES
from batchscale.records import Study, bundle, figures
from batchscale.records.study import LANDSCAPE
from batchscale.sweeps import notebooks
from report import build, committed

LEAST = 7 / 72 * 96  # pixels: 7 points on a screen with 96 pixels per inch
JUPYTER, GITHUB = 1186, 840  # pixels that they show


@pytest.fixture(autouse=True)
def _no_window():
    mpl.use("agg")
    yield
    plt.close("all")


@pytest.fixture(params=["data", "digits"])
def folder(request, tmp_path):
    """The committed records, and those of a study of the shape of `make study`."""
    if request.param == "data":
        for path in (PROJECT / "data").glob("*_bs*"):
            shutil.copy(path, tmp_path)
        return tmp_path
    write(synthetic.study(seeds=(0, 1), small=(8, 16, 32), large=(64, 128, 256)), tmp_path)
    rates = [
        synthetic.run(f"rate_{factor}", size, 0, 2000, 0.74 - 0.01 * abs(np.log2(factor)), 30)
        for factor in (0.25, 0.5, 1, 2)
        for size in (64, 128, 256)
    ]
    (tmp_path / LANDSCAPE).mkdir()
    write(pd.concat(rates), tmp_path / LANDSCAPE)
    return tmp_path


def write(epochs, folder) -> None:
    """Records with sidecars; the name of a mode of a landscape says its rate, in base rates."""
    for (name, size, seed), run in epochs.groupby(["experiment", "batch_size", "seed"]):
        run.to_csv(folder / f"{name}_bs{size}_seed{seed}.csv", index=False)
        rate = name.removeprefix("rate_")
        rule = {} if rate == name else MODES["gradual_warmup_scaled_lr"].rule | {"base_lr": 0.002 * float(rate)}
        sidecar = synthetic.sidecar(name, size, seed, epochs=30, **rule)
        (folder / f"{name}_bs{size}_seed{seed}.json").write_text(json.dumps(sidecar))


def texts(figure) -> list[tuple[str, float, mpl.transforms.Bbox]]:
    """What is drawn: words, size in points, and the box around them in pixels."""
    drawn, draw = [], Text.draw

    def noted(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), text.get_fontsize(), text.get_window_extent(renderer)))
        draw(text, renderer)

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the layout is settled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        canvas.draw()
    return drawn


def faults(figure, pixels_per_inch: float) -> list[str]:
    """Texts that are too small where an inch of the figure is shown as so many pixels, that are cut off, or that
    overlap, in pairs."""
    drawn, edge = texts(figure), figure.bbox
    small = [f"{words}: {size} points" for words, size, _ in drawn if size / 72 * pixels_per_inch < LEAST - 1e-6]
    boxes = [(words, box.padded(-0.5)) for words, _, box in drawn]
    pairs = itertools.combinations(boxes, 2)
    cut = [f"{words}: cut off" for words, box in boxes if not all(edge.contains(*corner) for corner in box.corners())]
    return small + cut + [f"{one} | {other}" for (one, a), (other, b) in pairs if a.overlaps(b)]


def of_notebook(folder, monkeypatch, **given) -> dict:
    """The figures of the results notebook, whose cells run in this process with these settings."""
    shown = {}
    monkeypatch.chdir(PROJECT)
    monkeypatch.syspath_prepend(str(PROJECT))
    monkeypatch.setattr(figures, "save", lambda figure, _, name: shown.update({name: figure}))
    scope = {}
    for cell in nbformat.read(PROJECT / f"{notebooks.RESULTS}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, scope)
            if "parameters" in cell.metadata.get("tags", []):
                scope |= {"data_dir": str(folder), **given}
    return shown


@pytest.mark.slow
def test_figures_of_the_notebook_can_be_read(folder, monkeypatch, capsys):
    explore = importlib.util.find_spec("plotly") is not None
    shown = of_notebook(folder, monkeypatch, explore=explore)
    assert len(shown) >= 10
    for figure in shown.values():
        assert figure.get_figwidth() <= plots.NOTEBOOK
    wrong = {name: faults(figure, min(100, JUPYTER / figure.get_figwidth())) for name, figure in shown.items()}
    assert {name: fault for name, fault in wrong.items() if fault} == {}
    assert (folder / bundle.NAME).is_file()
    assert (folder / "explorer.html").is_file() == explore
    assert ("landscape" in shown) == (folder / LANDSCAPE).is_dir()
    assert f"records, figures and tables together are in {folder / bundle.NAME}" in capsys.readouterr().out


def test_the_figure_of_the_readme_can_be_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(committed.plt, "close", lambda figure: None)
    committed.draw(findings.analyse(Study.load(folder)), tmp_path / "study.png")
    monkeypatch.undo()
    assert plt.gcf().get_figwidth() == plots.README
    assert faults(plt.gcf(), GITHUB / plots.README) == []


def test_figures_of_the_report_can_be_read(folder):
    shown = build.figures(findings.analyse(Study.load(folder)))
    assert len(shown) >= 4
    for name, how in shown.items():
        figure = build.drawn(*how)
        assert figure.get_figwidth() <= plots.PAGE
        assert faults(figure, 96) == [], name


def test_faults_are_seen():
    figure, ax = plt.subplots()
    ax.set_axis_off()
    ax.text(1.1, 0.2, "beyond the edge")
    ax.text(0.1, 0.5, "one")
    ax.text(0.12, 0.5, "other")
    ax.text(0.1, 0.9, "turned", rotation=90)
    ax.text(0.5, 0.9, "small", fontsize=6)
    ax.text(0.5, 0.9, "hidden", visible=False)
    assert faults(figure, 96) == ["small: 6.0 points", "beyond the edge: cut off", "one | other"]
    assert "one: 10.0 points" in faults(figure, 48)
