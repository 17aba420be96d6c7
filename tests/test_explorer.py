"""The explorer: what it holds equals the analysis, and what a browser shows of it equals what it holds."""

import json
import math
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs

import pandas as pd
import pytest
import synthetic

from batchscale import cli, explorer
from batchscale.analysis import findings
from batchscale.errors import UserError
from batchscale.explorer import contents as room
from batchscale.explorer import page as pages
from batchscale.explorer.contents import contents
from batchscale.records import Study

CHROMIUM = shutil.which("chromium")
SIZES = {"small": (4, 8, 16), "large": (64, 256, 1024, 4096)}
MODES = ("baseline_small", "baseline_large", "scaled_lr")
CURRENCIES = ("accuracy", "updates", "time")


@pytest.fixture(scope="module", autouse=True)
def _few_targets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "MOST", 6)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Records of 33 runs, two of them unusual: one diverged, and one under way."""
    path = tmp_path_factory.mktemp("explored") / "some runs"
    path.mkdir()
    epochs = synthetic.study(modes=MODES, epochs=12, **SIZES)
    for (name, size, seed), rows in epochs.groupby(["experiment", "batch_size", "seed"]):
        stem, status, kept = f"{name}_bs{size}_seed{seed}", "complete", rows
        if (name, size, seed) == ("scaled_lr", 4096, 2):
            status, kept = "diverged", rows.head(3)
        if (name, size, seed) == ("baseline_large", 64, 2):
            status, kept = "running", rows.head(5)
        kept.to_csv(path / f"{stem}.csv", index=False)
        (path / f"{stem}.json").write_text(json.dumps(synthetic.sidecar(name, size, seed, status, epochs=12)))
    return path


@pytest.fixture(scope="module")
def content(folder) -> dict:
    return contents(Study.load(folder))


def points_of(found: findings.Findings) -> dict:
    """Estimate and interval by mode and currency."""
    return {
        (name, what): (mode.breaking_points[what].estimate, *mode.breaking_points[what].interval)
        for name, mode in found.modes.items()
        for what in CURRENCIES
    }


def points_at(group: dict, tolerance: int, target: int) -> dict:
    """The same at two places of the sliders, as the page looks them up."""
    found = {}
    for name, accuracy in group["tolerance"]["steps"][tolerance]["modes"].items():
        found[name, "accuracy"] = accuracy
        at_target = group["target"]["steps"][target]["modes"][name][accuracy["beginning"]]
        found |= {(name, what): at_target[what] for what in ("updates", "time")}
    return {key: (point["estimate"], point["low"], point["high"]) for key, point in found.items()}


# ---- contents


def test_runs_and_curves_by_hand():
    rows = [
        # B, epoch, accuracy, gap, time, mode, seed, updates
        (8, 1, 0.5, 0.01, 10.0, "baseline_small", 0, 100),
        (8, 2, 0.7, 0.02, 20.0, "baseline_small", 0, 200),
        (16, 1, 0.4, 0.01, 5.0, "baseline_large", 0, 50),
        (16, 2, 0.6, 0.03, 10.0, "baseline_large", 0, 100),
        (32, 1, 0.1, 0.0, 3.0, "baseline_large", 1, 25),
    ]
    names = ["batch_size", "epoch", "accuracy", "generalization_error", "running_time", "experiment", "seed", "updates"]
    epochs = pd.DataFrame(rows, columns=names).reindex(columns=list(synthetic.COLUMNS))
    (group,) = contents(Study.of(epochs, diverged=[("baseline_large", 32, 1)], folder="mine"))["groups"]
    assert [mode["label"] for mode in group["modes"]] == ["small batches, base rate", "base rate"]
    assert [mode["color"] for mode in group["modes"]] == ["#000000", "#004488"]
    assert [mode["symbol"] for mode in group["modes"]] == ["circle", "square"]
    runs = [(run["mode"], run["size"], run["seed"], run["status"], run["accuracy"]) for run in group["runs"]]
    assert runs == [
        (1, 16, 0, "finished", 0.6),
        (1, 32, 1, "diverged", None),
        (0, 8, 0, "finished", 0.7),
    ]
    assert (group["runs"][0]["updates"], group["runs"][0]["running_time"]) == (100, 10)
    assert group["rows"]["counts"] == [2, 1, 2]
    assert group["rows"]["accuracy"] == [0.4, 0.6, 0.1, 0.5, 0.7]
    assert group["rows"]["running_time"] == [5, 10, 3, 10, 20]
    assert group["rows"]["test_loss"] is None  # not recorded
    assert group["modes"][1]["curve"] == [2, 0]  # the reference's best, then its own
    step = group["target"]["steps"][[each["target"] for each in group["target"]["steps"]].index(0.6)]
    at = dict(zip(step["runs"], step["updates"], strict=True))
    assert at == {0: 100, 1: None, 2: 150}  # half way from 0.5 to 0.7


def test_every_place_of_the_sliders_is_an_analysis(folder, content):
    (group,), study = content["groups"], Study.load(folder)
    tolerances = [step["tolerance"] for step in group["tolerance"]["steps"]]
    targets = [step["target"] for step in group["target"]["steps"]]
    assert tolerances == [step / 400 for step in range(21)]
    first = findings.analyse(study)
    assert points_at(group, group["tolerance"]["at"], group["target"]["at"]) == points_of(first)
    assert (tolerances[group["tolerance"]["at"]], targets[group["target"]["at"]]) == (0.01, first.target)
    for at, tolerance in list(enumerate(tolerances))[::5]:
        found = findings.analyse(study, tolerance=tolerance, with_target=False)
        expected = {key: point for key, point in points_of(found).items() if key[1] == "accuracy"}
        assert {key: points_at(group, at, 0)[key] for key in expected} == expected
        assert group["tolerance"]["steps"][at]["threshold"] == found.threshold.accuracy
    for at, target in enumerate(targets[::5]):
        assert points_at(group, 8, 5 * at) == points_of(findings.analyse(study, tolerance=0.02, target=target))
    assert len({tuple(points_at(group, at, 0).values()) for at in range(21)}) > 10  # or else equality says little


def test_a_curve_that_begins_elsewhere_at_another_tolerance(folder, monkeypatch):
    """Of a mode that is its own reference: then updates and time depend on the tolerance as well."""
    monkeypatch.setattr(room, "TOLERANCES", (0.2,))
    monkeypatch.setattr(room, "FITS", 0)
    monkeypatch.setattr(room, "FEWEST", 1)
    finals = {2: 0.71, 8: 0.755, 32: 0.76, 128: 0.755, 512: 0.70, 2048: 0.6}
    runs = [
        synthetic.run(
            "scaled_lr", size, seed, 2000 * (1 + 100 / size) * (1 + 0.03 * seed), final + seed / 1000, 12, target=0.5
        )
        for size, final in finals.items()
        for seed in (0, 1)
    ]
    study = Study.of(pd.concat(runs, ignore_index=True))
    (group,) = contents(study, reference=("scaled_lr",), target=0.5)["groups"]
    places = {step["modes"]["scaled_lr"]["beginning"] for step in group["tolerance"]["steps"]}
    assert len(places) > 1
    for at, step in enumerate(group["tolerance"]["steps"]):
        for place, goal in enumerate(group["target"]["steps"]):
            found = findings.analyse(
                study, reference=("scaled_lr",), tolerance=step["tolerance"], target=goal["target"]
            )
            assert points_at(group, at, place) == points_of(found)


def test_the_sliders_hold_what_was_asked_for(folder, monkeypatch):
    monkeypatch.setattr(room, "FITS", 0)
    monkeypatch.setattr(room, "FEWEST", 1)
    study = Study.load(folder)
    (group,) = contents(study, tolerance=0.0111, target=0.655)["groups"]
    assert group["tolerance"]["steps"][group["tolerance"]["at"]]["label"] == "1.11 points"
    assert group["target"]["steps"][group["target"]["at"]]["target"] == 0.655
    (group,) = contents(study, threshold=0.7, target=0.6)["groups"]
    assert group["tolerance"]["is_fixed"]
    assert [(step["label"], step["threshold"]) for step in group["tolerance"]["steps"]] == [("given", 0.7)]


def test_groups_of_other_settings_have_verdicts_of_their_own(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "FITS", 0)
    monkeypatch.setattr(room, "FEWEST", 1)
    for path in folder.iterdir():
        shutil.copy(path, tmp_path)
    wide = synthetic.study(modes=("baseline_small", "scaled_lr"), epochs=6, small=(8,), large=(64, 512), seeds=(7,))
    for (name, size, seed), rows in wide.groupby(["experiment", "batch_size", "seed"]):
        rows.to_csv(tmp_path / f"{name}_bs{size}_seed{seed}.csv", index=False)
        beside = synthetic.sidecar(name, size, seed, width=2.0, epochs=6)
        (tmp_path / f"{name}_bs{size}_seed{seed}.json").write_text(json.dumps(beside))
    study = Study.load(tmp_path)
    first, second = contents(study, reference=("baseline_large",))["groups"]  # which the second group lacks
    assert (first["label"], second["label"]) == ("width 0.25 (33 runs)", "width 2 (3 runs)")
    found = findings.analyse(study.where(width=2.0))
    assert points_at(second, second["tolerance"]["at"], second["target"]["at"]) == points_of(found)


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_of_very_many_epochs_some_are_kept_and_always_the_last(rows, monkeypatch):
    monkeypatch.setattr(room, "ROWS", rows)
    epochs = synthetic.study(modes=("baseline_small",), small=(8, 16), seeds=(0,), epochs=40)
    (group,) = contents(Study.of(epochs))["groups"]
    assert sum(group["rows"]["counts"]) <= max(rows, 2)
    ends = [sum(group["rows"]["counts"][: at + 1]) - 1 for at in range(2)]
    assert [group["rows"]["epoch"][end] for end in ends] == [40, 40]


def logs(tmp_path: Path, text: str) -> Study:
    (tmp_path / "log.csv").write_text(text)
    return Study.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "batch_size,accuracy\n8,0.7\n64,0.6\n",  # final accuracies alone
        "batch_size,epoch,accuracy\n8,1,0.5\n8,2,0.6\n",  # one run, no times, no updates
        "batch_size,target,updates_to_target\n8,0.7,1000\n64,0.7,200\n512,0.7,100\n",  # no accuracies
        "batch_size,target,updates_to_target\n8,3.42,1000\n64,3.42,200\n",  # a loss
    ],
)
def test_what_other_tools_record_suffices(tmp_path, text):
    json.dumps(contents(logs(tmp_path, text)), allow_nan=False)


def test_a_study_without_runs(tmp_path):
    json.dumps(contents(Study.load(tmp_path)), allow_nan=False)


# ---- the file


def test_no_name_becomes_markup():
    study = Study.of(
        synthetic.study(modes=("baseline_small",), small=(8,), seeds=(0,), epochs=2), folder="</title><script>"
    )
    text = pages.page(contents(study), "plotly")
    assert text.count("<script") == 3
    assert "&lt;/title&gt;&lt;script&gt; · batchscale" in text


def test_the_same_records_give_the_same_file(content):
    assert pages.page(content, "a") == pages.page(content, "a")


def test_without_plotly_one_line_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pages.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed; pip install "batchscale\[explorer\]"'):
        explorer.write(Study.load(folder), tmp_path / "explorer.html")
    assert not list(tmp_path.iterdir())


# ---- in a browser


@pytest.fixture(scope="module")
def file(content, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("file") / "explorer #1.html"
    path.write_text(pages.page(content, pages._plotly()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def watched(browser, file):
    """Opens a file in a window of its own. In the end nothing was logged, and nothing but the files was asked for."""
    windows, logged, requested = [], [], []

    def open_at(address: str = "", path: Path = file, **settings):
        page = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **settings}).new_page()
        windows.append(page)
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(path.as_uri() + address)
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        return page

    yield open_at
    for page in windows:
        page.context.close()
    assert logged == []
    asked = [url for url in requested if not url.startswith(("blob:", "data:"))]
    assert len(asked) == len(windows)
    assert all(url.startswith("file:") for url in asked)


@pytest.fixture(scope="module")
def window(watched):
    """One window for many tests: opening takes longer than they do."""
    return watched()


@pytest.fixture
def opened(window):
    """Shows the view of an address in it."""

    def open_at(address: str = ""):
        window.evaluate("text => { state = viewOf(text); page = 0; show(); save(); }", address.removeprefix("#"))
        return window

    return open_at


def slide(page, control: str, place: int) -> None:
    page.locator(control).evaluate(
        "(each, value) => { each.value = value; each.dispatchEvent(new Event('input', {bubbles: true})); }", str(place)
    )


def table_of(page) -> dict:
    """The shown breaking points by label of the mode."""
    rows = page.locator("#points tr.points")
    cells = [row.locator("th, td").all_inner_texts() for row in rows.all()]
    return {name.strip(): [cell.split("\n")[0] for cell in rest] for name, *rest in cells}


def test_it_shows_the_breaking_points_of_analyse(opened, content, folder, capsys):
    page, (group,) = opened(), content["groups"]
    labels = {mode["name"]: mode["label"] for mode in group["modes"]}
    seen = set()
    for tolerance, target in ((4, group["target"]["at"]), (0, 0), (12, 2), (20, 5)):
        slide(page, "#tolerance", tolerance)
        slide(page, "#target", target)
        asked = group["tolerance"]["steps"][tolerance]["tolerance"], group["target"]["steps"][target]["target"]
        command = ["analyse", str(folder), "--json", "--tolerance", str(asked[0]), "--target", str(asked[1])]
        assert cli.main(command) == 0
        found = json.loads(capsys.readouterr().out)
        shown = table_of(page)
        for name, mode in found["modes"].items():
            for what, text in zip(CURRENCIES, shown[labels[name]], strict=True):
                point = mode["breaking_point"][what]
                if point["estimate"] is None:
                    assert text[0] in "–<>"
                else:
                    assert float(text.replace("\u202f", "")) == pytest.approx(point["estimate"], rel=0.06)
            assert mode["sentence"] in page.locator("#points").inner_text()
        percent = f"{100 * found['threshold']['accuracy']:.1f} %"
        assert f"Accuracy to keep: {percent}" in page.locator("#threshold").inner_text()
        assert page.locator("#left svg.overlay text.level").text_content() == f"threshold {percent}"
        seen.add(str(shown))
    assert len(seen) == 4


PIXELS = """() => {
    const {xaxis, yaxis} = document.getElementById("left")._fullLayout;
    const lines = [...document.querySelectorAll("#left svg.overlay line")];
    return {
        limit: Number(lines[0].getAttribute("y1")),
        ticks: lines.filter(each => each.getAttribute("stroke-width") === "2.5").map(each => +each.getAttribute("x1")),
        pixels: [yaxis.range, yaxis._offset, yaxis._length, xaxis.range, xaxis._offset, xaxis._length],
    };
}"""


def test_the_marks_stand_where_the_values_are(opened, content):
    """The threshold and the breaking points, in the same pixels as Plotly's own marks."""
    page, (group,) = opened("#tolerance=0.03"), content["groups"]
    step = next(step for step in group["tolerance"]["steps"] if step["tolerance"] == 0.03)
    found = page.evaluate(PIXELS)
    (low, high), top, height, (left, right), start, width = found["pixels"]
    assert found["limit"] == pytest.approx(top + height * (high - 100 * step["threshold"]) / (high - low), abs=1)
    estimates = [point["estimate"] for point in step["modes"].values()]
    expected = [start + width * (math.log10(each) - left) / (right - left) for each in estimates]
    assert found["ticks"] == pytest.approx(expected, abs=1)


DRAWN = """() => Object.fromEntries(["left", "right"].map(id => [id, document.getElementById(id).data
    .filter(trace => id === "right" || trace.mode === "markers").reduce((sum, trace) => sum + (id === "left"
    ? trace.x.length : 1), 0)]))"""


def test_filters_filter(opened):
    page = opened()
    assert page.evaluate(DRAWN) == {"left": 32, "right": 11}  # all but the run under way; 3 + 4 + 4 sizes
    assert "33 of 33 runs shown, 11 combinations" in page.locator("#shown").inner_text()
    page.get_by_label("linearly scaled rate", exact=True).uncheck()
    assert "21 of 33 runs" in page.locator("#shown").inner_text()
    assert page.evaluate(DRAWN)["left"] == 20
    page.get_by_role("checkbox", name="4096").uncheck()
    assert "18 of 33 runs" in page.locator("#shown").inner_text()
    page.get_by_role("group", name="Seeds").get_by_role("checkbox", name="1", exact=True).uncheck()
    assert "12 of 33 runs" in page.locator("#shown").inner_text()
    assert set(page.locator("#runs tbody td:nth-child(3)").all_inner_texts()) == {"0", "2"}
    page.get_by_role("button", name="Seeds: none").click()
    assert page.locator("#left-note").inner_text().startswith("Nothing to draw")
    page.get_by_role("button", name="Reset view").click()
    assert "33 of 33 runs" in page.locator("#shown").inner_text()


def test_means_are_of_the_runs_that_are_shown(opened, folder):
    page = opened("#seed=1&mode=baseline_large")
    shown = page.evaluate("() => document.getElementById('left').data.find(trace => trace.mode === 'lines').y")
    epochs = Study.load(folder).epochs
    last = epochs[(epochs["experiment"] == "baseline_large") & (epochs["seed"] == 1) & (epochs["epoch"] == 12)]
    assert shown[-4:] == pytest.approx((100 * last.sort_values("batch_size")["accuracy"]).tolist(), abs=1e-3)


def test_every_choice_draws_something(opened):
    page = opened()
    for y in page.locator("#y option").evaluate_all("all => all.map(each => each.value)"):
        page.locator("#y").select_option(y)
        assert page.evaluate(DRAWN)["left"] > 20, y
        for box in ("#log-size", "#log-y"):
            page.locator(box).click()
    for x in ("epoch", "updates", "images", "running_time"):
        page.locator("#x").select_option(x)
        page.locator("#log-x").click()
        assert page.evaluate(DRAWN)["right"] >= 11, x
    values = page.evaluate("() => [group.rows.updates[0] * group.runs[0].size, group.rows.images[0]]")
    assert values[0] == values[1] > 0


def test_the_address_restores_the_view(opened, watched):
    page = opened()
    page.locator("#y").select_option("updates")
    page.locator("#x").select_option("images")
    slide(page, "#tolerance", 10)
    slide(page, "#target", 1)
    page.get_by_label("linearly scaled rate", exact=True).uncheck()
    page.get_by_role("checkbox", name="256").uncheck()
    page.locator("#theme").select_option("dark")
    page.locator("#log-x").check()
    page.locator("#runs tbody button").first.click()
    page.wait_for_timeout(400)
    address = page.url.partition("#")[2]
    kept = parse_qs(address)
    assert kept["tolerance"] == ["0.025"]
    assert (kept["no-mode"], kept["no-size"], kept["theme"]) == (["scaled_lr"], ["256"], ["dark"])
    words = ["#left-title", "#right-title", "#shown", "#points", "#threshold", "#run", "#runs"]
    before = [page.locator(each).inner_text() for each in words]
    again = watched(f"#{address}")
    assert [again.locator(each).inner_text() for each in words] == before
    assert again.evaluate("address()") == address
    assert again.locator("#log-x").is_checked()
    again.evaluate("location.hash = ''")
    again.wait_for_timeout(200)
    assert again.locator("#y").input_value() == "accuracy"


def test_an_address_that_names_what_is_not_there(opened):
    page = opened("#group=9&y=<b>&x=%00&tolerance=7&target=x&mode=nobody&run=a&theme=pink&logY=2")
    assert page.locator("#y").input_value() == "accuracy"
    assert page.locator("#points tr.points").count() == 2


FOCUS = """() => {
    const at = document.activeElement, shown = at.matches(".chips input") ? at.nextElementSibling : at;
    return [at.id || at.value || at.textContent, getComputedStyle(shown).outlineStyle];
}"""


def test_the_keyboard_reaches_and_moves_every_control(watched):
    page = watched()
    reached = []
    for _ in range(70):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.value || document.activeElement.textContent"
            )
        )
        visible = page.evaluate("""() => {
            const at = document.activeElement;
            const shown = at.matches(".chips input") ? at.nextElementSibling : at;
            return getComputedStyle(shown).outlineStyle;
        }""")
        assert visible == "solid" or reached[-1] in (None, ""), reached[-1]
        if reached[-1] == "next":
            break
    assert [
        name for name in ("y", "tolerance", "target", "log-size", "log-y", "x", "log-x") if name not in reached
    ] == []
    assert {"scaled_lr", "4096", "2", "reset", "copy", "theme"} <= set(reached)
    page.locator("#tolerance").focus()
    before = page.locator("#threshold").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tolerance").input_value() == "5"
    assert page.locator("#threshold").inner_text() != before
    page.locator("#runs tbody button").nth(2).focus()
    page.keyboard.press("Enter")
    assert page.locator("#run").inner_text().startswith("small batches, base rate, batch size 4, seed 2")
    assert page.locator("#left svg.overlay circle.followed").count() == 1
    assert page.locator("#right svg.overlay polyline.followed").count() == 1
    assert page.evaluate("document.activeElement.dataset.run") is not None  # the focus stays
    page.keyboard.press("Enter")
    assert page.locator("#left svg.overlay circle.followed").count() == 0


def test_a_screen_reader_finds_names_and_words(opened):
    page = opened()
    for role, name in (
        ("slider", "Tolerance"),
        ("slider", "Target accuracy"),
        ("combobox", "Show"),
        ("combobox", "against"),
        ("combobox", "Theme"),
        ("checkbox", "log batch size"),
        ("checkbox", "small batches, base rate"),
        ("checkbox", "1024"),
        ("group", "Modes"),
        ("table", "Breaking points of each mode"),
        ("table", "The runs that the filters leave"),
        ("heading", "Runs"),
        ("form", "Filter"),
    ):
        assert page.get_by_role(role, name=name).count() >= 1, (role, name)
    unnamed = page.evaluate("""() => [...document.querySelectorAll("input, select, button")].filter(each =>
        !(each.labels && each.labels.length && each.labels[0].textContent.trim())
        && !each.getAttribute("aria-label") && !each.textContent.trim()).length""")
    assert unnamed == 0
    left, right = (page.locator(each).get_attribute("aria-label") for each in ("#left", "#right"))
    assert re.match(r"test accuracy \(%\) against batch size\. small batches, base rate: [\d.]+ at 4, ", left)
    assert right.startswith("test accuracy against epoch: 11 lines.")
    slide(page, "#tolerance", 8)
    assert page.locator("#tolerance").get_attribute("aria-valuetext") == "2 points"
    page.wait_for_timeout(600)  # once the slider rests
    assert "tolerance of 2 points" in page.locator("#said").text_content()
    assert page.locator("#said").get_attribute("aria-live") == "polite"


CONTRAST = """() => {
    const light = text => {
        const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(value => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const page = light(getComputedStyle(document.body).backgroundColor);
    return ["h1", "#settings", ".note", ".axes", "#points td span", "#runs button", "legend button"].map(selector => {
        const ink = light(getComputedStyle(document.querySelector(selector)).color);
        return (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05);
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_and_can_be_read(watched, scheme):
    page = watched(color_scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert min(page.evaluate(CONTRAST)) >= 4.5
    other = "light" if scheme == "dark" else "dark"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_label("Theme").select_option(other)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    assert min(page.evaluate(CONTRAST)) >= 4.5


def test_a_phone_scrolls_in_one_direction(watched):
    page = watched(viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.locator("#filters").evaluate("each => each.open")


def test_strange_records_open_too(watched, tmp_path):
    """Names that are markup, one run, no updates and no times, no runs at all."""
    name = "<script>alert('\"&</script><b>"
    two = synthetic.study(modes=("baseline_small",), small=(8, 16), seeds=(0,), epochs=3)
    strange = two.assign(experiment=name)[["batch_size", "epoch", "accuracy", "experiment", "seed"]]
    strange = strange.reindex(columns=list(synthetic.COLUMNS))
    studies = {
        "names": Study.of(strange, folder="a & <i>b</i>"),
        "one": Study.of(two.head(3)),
        "none": Study.load(tmp_path),
        "goals": logs(tmp_path, "batch_size,target,updates_to_target\n8,0.7,1000\n64,0.7,200\n512,0.7,100\n"),
    }
    for each, study in studies.items():
        path = tmp_path / f"{each}.html"
        explorer.write(study, path)
        page = watched(path=path)
        assert "undefined" not in page.locator("main").inner_text()
        assert "NaN" not in page.locator("main").inner_text()
        if each == "names":
            assert page.locator("h1").inner_text().startswith("a & <i>b</i>")
            assert page.locator("#modes label").inner_text().strip() == name
            page.get_by_role("checkbox", name="8", exact=True).uncheck()
            page.wait_for_timeout(300)
            assert page.locator("#runs tbody tr").count() == 1


# ---- the command


def test_the_command_writes_and_replaces_the_file(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(room, "FITS", 0)
    monkeypatch.setattr(room, "FEWEST", 1)
    out = tmp_path / "new folder" / "mine.html"
    for _ in range(2):
        assert cli.main(["explore", str(folder), "-o", str(out), "--target", "0.6"]) == 0
    assert re.fullmatch(
        rf"33 runs in {re.escape(str(out))} \(\d\.\d MB\); open it in any browser",
        capsys.readouterr().out.splitlines()[-1],
    )
    assert out.stat().st_size < 8e6
    assert [path.name for path in out.parent.iterdir()] == ["mine.html"]
