"""The report: built from whatever is recorded, true to it, the same bytes for the same records."""

import html
import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
import synthetic
import typst
from conftest import PROJECT

from batchscale.analysis import findings
from batchscale.analysis.tables import RUN
from batchscale.epoch import STUDY_COLUMNS
from batchscale.experiment import Experiment
from batchscale.modes import MODES
from batchscale.records.tables import digest
from report import build
from report.contents import contents, learning_rates, lower_targets

STUDY = synthetic.study()
SMALL = synthetic.study(seeds=(0, 1), small=(8, 32), large=(128, 1024))
ODD_NAMES = ("a_b*c#d@e", "$x$ <y> [z]", "`t` \\ //u", "_" + "very_long_" * 9)


def write(table: pd.DataFrame, folder: Path, columns=None) -> Path:
    """CSVs of some runs, without sidecars."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (run, rows) in enumerate(table.groupby(["experiment", "batch_size", "seed"])):
        stem = "{}_bs{}_seed{}".format(*run) if run[0] in MODES else f"run{number}"
        rows[columns or list(rows)].to_csv(folder / f"{stem}.csv", index=False, lineterminator="\n")
    return folder


def sidecar(status: str = "complete", torch: str = "2.9.0", device: str = "A100", **fields) -> dict:
    experiment = Experiment(epochs=30, **MODES.get(fields["name"], {}), **fields)
    facts = {"versions": {"torch": torch}, "device": {"type": "cuda", "name": device}, "parameters": 5_852_170}
    return {"format": 2, "status": status, "experiment": asdict(experiment), **facts}


def put(folder: Path, *sidecars: dict) -> None:
    for number, content in enumerate(sidecars):
        (folder / f"{number}.json").write_text(json.dumps(content))


def diverged(folder: Path) -> None:
    gone = (SMALL["experiment"] == "scaled_lr") & (SMALL["batch_size"] == 1024)
    write(SMALL[~gone | (gone & (SMALL["epoch"] == 1) & (SMALL["seed"] == 0))], folder)
    put(folder, *(sidecar("diverged", name="scaled_lr", batch_size=1024, seed=seed) for seed in (0, 1)))


def own_names(folder: Path) -> None:
    scaled = SMALL[SMALL["experiment"] == "scaled_lr"]
    write(pd.concat([SMALL, *(scaled.assign(experiment=name) for name in ODD_NAMES)]), folder)


# Records, and what the report has to say of them.
CASES = {
    "one seed": (lambda folder: write(SMALL[SMALL["seed"] == 0], folder), ["one seed, no interval", "A single seed"]),
    "one batch size": (
        lambda folder: write(SMALL[SMALL["batch_size"].isin([8, 128])], folder),
        ["critical batch size is not determined", "the largest recorded"],
    ),
    "a mode is missing": (
        lambda folder: write(SMALL[SMALL["experiment"] != "baseline_large"], folder),
        ["There are no records of baseline_large.", "What scaling adds", "is not known"],
    ),
    "no small minibatches": (
        lambda folder: write(SMALL[SMALL["experiment"] != "baseline_small"], folder),
        ["no accuracy that a larger one has to keep", "neither updates nor time to target can be given"],
    ),
    "small minibatches alone": (
        lambda folder: write(SMALL[SMALL["experiment"] == "baseline_small"], folder),
        ["No larger minibatches are recorded.", "no mode of which a breaking point could be told"],
    ),
    "diverged": (diverged, ["2 diverged", "at 1024 it diverges", "The run scaled_lr B=1024 seed 1 diverged"]),
    "all diverged": (
        lambda folder: (folder.mkdir(), put(folder, sidecar("diverged", name="scaled_lr", batch_size=128))),
        ["rests on 1 run", "1 diverged", "Every run of the linear rule without warm-up diverges."],
    ),
    "five columns": (
        lambda folder: write(SMALL, folder, list(STUDY_COLUMNS)),
        [
            "on a data set that is not recorded, with",
            "have no column updates",
            "are not recorded",
            "The gradient noise scale was not measured",
        ],
    ),
    "own names": (own_names, list(ODD_NAMES)),
}


def text(source: Path) -> str:
    """What a reader reads, without figures."""
    content, _ = typst.Compiler(str(source), ignore_system_fonts=True).compile_with_warnings(format="html")
    body = re.sub(r"<(style|svg|head).*?</\1>", " ", content.decode(), flags=re.DOTALL)
    words = re.sub(r"<[^>]*>", " ", body)
    return " ".join(html.unescape(words).replace("\u200b", "").split())


def pages(source: Path) -> int:
    """Number of pages; a warning of the compiler (a font, a layout that does not converge) is a failure."""
    images, warnings = typst.Compiler(str(source), ignore_system_fonts=True).compile_with_warnings(format="png", ppi=10)
    assert warnings == []
    return len(images)


def said_of(table: pd.DataFrame, sidecars=(), gone=()) -> dict:
    return contents(table, sidecars, findings.analyse(table, diverged=gone), gone)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The source of the report on a whole study, in a folder of its own."""
    folder = tmp_path_factory.mktemp("whole")
    data = write(STUDY, folder / "some records")
    put(data, *(sidecar(name=n, batch_size=b, seed=s) for n, b, s in set(STUDY[RUN].itertuples(index=False))))
    (folder / "source").mkdir()
    return build.prepare(data, folder / "source")


def test_a_whole_study_is_a_short_paper(whole):
    assert 4 <= pages(whole) <= 8
    words = text(whole)
    for section in ("Abstract", "Method", "Records", "Results", "Discussion", "Limits", "References"):
        assert section in words
    for paper in ("1706.02677", "1804.07612", "1812.06162", "1811.03600", "Tiny Images"):
        assert paper in words
    said = json.loads((whole.parent / "report.json").read_text(encoding="utf-8"))
    assert said["figures"] == [
        "accuracy",
        "effects",
        "updates",
        "time",
        "lower_target",
        "noise_scales",
        "breaking_points",
        "frontier",
    ]


def test_the_committed_report_is_a_short_paper(tmp_path):
    assert 4 <= pages(build.prepare(PROJECT / "data", tmp_path)) <= 8


def test_it_says_what_it_was_built_from(whole):
    words = text(whole)
    runs = len(STUDY[RUN].drop_duplicates())
    assert f"Built from the folder some records: {runs} runs of 4 modes of training, 2340 recorded epochs." in words
    assert f"rests on {runs} runs on the data set cifar10 at width 1, trained on A100 (cuda), with batch" in words
    assert str(whole.parent.parent) not in words
    for fact in ("2.9.0", "A100 (cuda)", "cifar10", "5\u202f852\u202f170", "0.002", "gradual warm-up of 2 epochs"):
        assert fact in words or fact.replace("\u202f", " ") in words, fact
    assert digest(whole.parent.parent / "some records") in words


@pytest.mark.parametrize("case", CASES)
def test_little_is_recorded(case, tmp_path):
    make, expected = CASES[case]
    make(tmp_path / "data")
    (tmp_path / "source").mkdir()
    source = build.prepare(tmp_path / "data", tmp_path / "source")
    assert pages(source) >= 4
    words = text(source)
    for phrase in expected:
        assert " ".join(phrase.split()) in words
    assert not re.search(r"\b(nan|None|inf)\b", words)


def test_the_same_records_give_the_same_bytes(tmp_path):
    table = SMALL[SMALL["experiment"].isin(["baseline_small", "scaled_lr"])]
    first, second = (write(table, tmp_path / name / "data") for name in ("a", "b"))
    build.build(first, tmp_path / "a.pdf")
    sources = [build.prepare(first, tmp_path / "a").parent]
    with mpl.rc_context({"axes.facecolor": "red", "svg.hashsalt": "another"}):
        build.build(second, tmp_path / "b.pdf")
        sources.append(build.prepare(second, tmp_path / "b").parent)
    ours, theirs = ({path.name: path.read_bytes() for path in folder.glob("*.*")} for folder in sources)
    assert len(ours) > 8
    assert ours == theirs  # figures too, which the compiler happens to strip of names and dates
    content = (tmp_path / "a.pdf").read_bytes()
    assert content == (tmp_path / "b.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"CreationDate" not in content
    assert not [name for name, figure in ours.items() if name.endswith("svg") and b"<dc:date>" in figure]
    assert f"sha256:{digest(first)}".encode() in content  # among the keywords, which are not compressed

    (csv,) = second.glob("scaled_lr_bs128_seed0.csv")
    csv.write_text(csv.read_text().replace("0.7", "0.6", 1))
    assert digest(second) != digest(first)
    build.build(second, tmp_path / "b.pdf")
    assert f"sha256:{digest(second)}".encode() in (tmp_path / "b.pdf").read_bytes()


def test_static_text_states_no_result():
    """In the parts on results there is no number but the confidence of the intervals."""
    source = (PROJECT / "report" / "report.typ").read_text(encoding="utf-8")
    abstract = source[source.index("*Abstract.*") : source.index("= Question")]
    results = source[source.index("\n= Results") : source.index("#bibliography")]
    for part in (abstract, results):
        prose = re.sub(r"\d+(\.\d+)?(pt|fr|em|cm|%\))|\* \d|(==|>|-) \d|@\w+", "", part)
        assert set(re.findall(r"\d+", prose)) <= {"95"}, prose
    assert set(re.findall(r"(\d+) %", source)) == {"95"}


def test_nothing_is_fetched():
    for path in (PROJECT / "report").glob("*.typ"):
        source = path.read_text(encoding="utf-8")
        assert "@preview" not in source
        assert "import" not in source


def test_every_number_of_the_verdicts_is_a_finding():
    result = findings.analyse(STUDY)
    said = contents(STUDY, [], result)
    for row, mode in zip(said["verdicts"], result["modes"].values(), strict=True):
        breaking, fit = mode["breaking_point"], mode["critical_batch_size"]
        shown = [float(value.replace("\u202f", "")) if value != "–" else None for value, _ in row[1:]]
        expected = [breaking["accuracy"], breaking["updates"], breaking["time"], fit["estimate"]]
        expected.append(mode["noise_scale"]["median"])
        assert shown == [None if value is None else pytest.approx(value, rel=0.005) for value in expected]
    best = STUDY[(STUDY["experiment"] == "baseline_small") & (STUDY["epoch"] == 30)].groupby("batch_size")["accuracy"]
    size, mean = best.mean().idxmax(), best.mean().max()
    first, second = said["threshold"]
    assert f"of {size} images, reaches a test accuracy of {100 * mean:.1f} ± {100 * best.std()[size]:.1f} %" in first
    assert f"loss of 1 point is allowed, a larger minibatch has to keep {100 * (mean - 0.01):.1f} %" in second
    (table,) = said["accuracies"]
    accuracy = STUDY[(STUDY["experiment"] == "scaled_lr") & (STUDY["epoch"] == 30) & (STUDY["batch_size"] == 512)]
    mean, deviation = 100 * accuracy["accuracy"].mean(), 100 * accuracy["accuracy"].std()
    assert dict(zip(table["head"], next(row for row in table["rows"] if row[0] == "512"), strict=True)) == {
        "batch size": "512",
        "small batches, base rate": "",
        "base rate": table["rows"][-5][2],
        "linearly scaled rate": f"{mean:.1f} ± {deviation:.1f} % (3)",
        "scaled rate, gradual warm-up": table["rows"][-5][4],
    }


def test_other_records_say_something_else():
    """The rules change places, small minibatches are worse: whatever is said of results follows."""
    names = {"baseline_large": "gradual_warmup_scaled_lr", "gradual_warmup_scaled_lr": "baseline_large"}
    swapped = SMALL.assign(experiment=SMALL["experiment"].replace(names))
    swapped.loc[swapped["experiment"] == "baseline_small", ["accuracy", "noise_scale"]] *= 0.9
    ours, theirs = said_of(SMALL), said_of(swapped)
    same = {key for key in ours if ours[key] == theirs[key]}
    assert same == {"built_from", "provenance", "settings", "modes", "missing", "study"}
    assert ours["effects"][0].startswith("Scaling raises the accuracy by")
    assert any(sentence.startswith("Gradual warm-up lowers the accuracy by") for sentence in theirs["effects"])
    assert "the linear rule with gradual warm-up keep" in ours["discussion"][0]


def test_effects_are_sorted_by_what_their_intervals_say():
    result = findings.analyse(SMALL)
    row = {"difference": 0.02, "low": 0.01, "high": 0.03, "pairs": 2, "reason": None}
    rows = [
        row | {"batch_size": 128},
        row | {"batch_size": 256, "difference": 0.04},
        row | {"batch_size": 512, "difference": -0.05, "low": -0.06, "high": -0.04},
        row | {"batch_size": 1024, "low": -0.01},
        row | {"batch_size": 2048, "difference": None, "low": None, "high": None},
    ]
    result["effects"] = [result["effects"][0] | {"batch_sizes": rows}]
    assert contents(SMALL, [], result)["effects"] == [
        "Scaling raises the accuracy by 2.0 to 4.0 points at 128 and 256.",
        "Scaling lowers the accuracy by 5.0 points at 512.",
        "At 1024 the 95 % interval of what scaling adds includes zero.",
        "At 2048 too few seeds are paired to tell what scaling adds.",
    ]


def test_sentences_on_known_verdicts():
    """Three rules: one loses the accuracy, one keeps it for a while, one to the end of its records."""
    result = findings.analyse(SMALL)
    base, scaled, warm = result["modes"].values()
    points = ((base, (None, 32, 64)), (scaled, (256, None, 128)), (warm, (1024, 512, 1024)))
    for mode, (accuracy, updates, time) in points:
        mode["breaking_point"] |= {"accuracy": accuracy, "updates": updates, "time": time}
        mode["noise_scale"] = {"median": 300.0, "low": 50.0, "high": 900.0, "runs": 4, "reason": None}
        mode["batch_sizes"][0]["running_time_to_target"], mode["batch_sizes"][1]["running_time_to_target"] = 60.0, 31.5
    base["batch_sizes"][0]["running_time_to_target"] = base["batch_sizes"][1]["running_time_to_target"] = None
    known = {"reason": None, "steps_min": 1000.0, "right_censored": 0}
    for mode, low, high in ((base, 310.0, 500.0), (scaled, 200.0, 290.0), (warm, 290.0, 310.0)):
        mode["critical_batch_size"] |= known | {"estimate": 295.0, "low": low, "high": high, "examples_min": 295_000.0}
    warm["critical_batch_size"] |= {"right_censored": 1, "runs": 4}
    said = contents(SMALL, [], result)
    rules = ("the base rate", "the linear rule without warm-up", "the linear rule with gradual warm-up")
    assert said["discussion"] == [
        f"Of the rules compared, {rules[2]} keeps the accuracy up to the largest minibatch, 1024 images; that is "
        "the largest recorded, and the end may lie beyond it.",
        "No batch size recorded for the base rate keeps it.",
        f"The smallest of the breaking points that are known is 128 for {rules[1]} (in time) and 512 for {rules[2]} "
        "(in updates).",
    ]
    assert [where.split()[-8] for where in said["noise_scales"]] == ["below", "above", "within"]
    scaled["noise_scale"] |= {"high": None, "reason": "not measurable in 3 of 40 epochs"}
    warm["noise_scale"] |= {"median": None, "high": None, "reason": "not measurable in 21 of 40 epochs"}
    assert contents(SMALL, [], result)["noise_scales"][1:] == [
        f"Under {rules[1]} the gradient noise scale has a median of 300 images and goes from 50 upwards over the "
        "epochs and runs; it was not measurable in 3 of 40 epochs; the median lies above the interval of the critical "
        "batch size.",
        f"Under {rules[2]} the gradient noise scale was not measurable in 21 of 40 epochs, where the noise hides the "
        "gradient, so that it has no median; the smallest measured is 50 images.",
    ]
    assert said["time"][0] == "Under the base rate not all runs reach the target at any batch size from 128 to 1024."
    assert said["time"][1].endswith("is reached soonest at 1024, in 31.5 s against 60 s at 128.")
    assert said["updates"][0] == (
        "Under the base rate the critical batch size is 295 (95 % interval 310 to 500); the target takes at least 1000 "
        "updates however large the minibatch, and 295\u202f000 images however small."
    )
    assert said["updates"][3:] == [
        "Of the 4 runs behind this, 1 never reached the target; what they made counts as a lower bound."
    ]
    assert said["breaking_points"][1] == (
        f"Under {rules[1]} larger minibatches keep the accuracy up to 256 and shorten the time to target up to 128; no "
        "breaking point in updates is found among the recorded batch sizes."
    )
    scaled["breaking_point"]["accuracy"] = 1024
    scaled["batch_sizes"].append(scaled["batch_sizes"][-1] | {"batch_size": 2048})
    first = contents(SMALL, [], result)["discussion"][0]
    assert f"{rules[1]} and {rules[2]} keep the accuracy up to" in first
    assert f"; for {rules[2]} that is the largest recorded" in first
    warm["breaking_point"]["accuracy"] = scaled["breaking_point"]["accuracy"] = None
    assert contents(SMALL, [], result)["discussion"] == [
        "No recorded rule keeps the accuracy of the small minibatches at any larger batch size."
    ]


def test_frontier_in_words():
    result = findings.analyse(SMALL)
    row = {"experiment": "mine", "seeds": 1, "dominated": False, "dominated_by": None}
    result["frontier"] = [
        row | {"batch_size": 64, "accuracy": 0.5, "running_time": 10.0},
        row | {"batch_size": 32, "accuracy": 0.4, "running_time": 11.0, "dominated": True},
        row | {"batch_size": 16, "accuracy": 0.7, "running_time": 1234.5},
    ]
    expected = (
        "Of 3 combinations of mode and batch size 2 are worth choosing: no other is at least as accurate in no more "
        "time. They go from mine at 64 (50.0 % in 10 s) to mine at 16 (70.0 % in 1230 s)."
    )
    assert contents(SMALL, [], result)["frontier"] == [expected]
    two = [sidecar(name="scaled_lr", batch_size=128, seed=seed, device=name) for seed, name in ((0, "A100"), (1, "T4"))]
    assert contents(SMALL, two, result)["frontier"] == [
        expected,
        "Not all seeds were trained on the same device, but each on one: means over the same seeds can be compared.",
    ]
    third = sidecar(name="scaled_lr", batch_size=1024, seed=0, device="T4")
    assert contents(SMALL, [*two, third], result)["frontier"] == [
        expected,
        "The times are of different devices and cannot be compared.",
    ]


def test_sidecars_agree_disagree_or_are_missing():
    table = SMALL[SMALL["experiment"] == "scaled_lr"]
    runs = [sidecar(name="scaled_lr", batch_size=size, seed=seed) for size in (128, 1024) for seed in (0, 1)]
    said = said_of(table, runs)
    assert said["provenance"] == ["The sidecars of all runs agree on these settings."]
    assert dict(said["settings"])["device"] == "A100 (cuda)"
    assert dict(said["settings"])["training images"] == "not recorded"
    assert said["modes"][0][1:] == ["scaled_lr", "linear", "128, 1024", "30", "0, 1", "4"]

    other = sidecar(name="scaled_lr", batch_size=1024, seed=1, base_lr=0.0123456, torch="2.4.1")
    foreign = sidecar(name="mine", batch_size=64, base_lr=9.0)  # of no run that is recorded
    said = said_of(table, [*runs[:2], other, foreign])
    assert dict(said["settings"])["base learning rate"] == "0.002 (2 runs); 0.0123456 (1 run)"
    assert said["provenance"] == [
        "Sidecars lie beside 3 of the 4 runs; how and where the others were trained is not recorded.",
        "The sidecars disagree on the base learning rate and torch: runs that are compared may differ in that too.",
    ]
    said = said_of(table, [{"experiment": runs[0]["experiment"], "status": "complete"}])
    assert dict(said["settings"])["torch"] == dict(said["settings"])["device"] == "not recorded"
    assert said_of(table)["settings"] == []
    assert "the data set, training images" in said_of(table)["provenance"][0]


def test_check_of_the_learning_rate(tmp_path):
    rows = [synthetic.run("lr_a", 8, seed, 1e9, final, 2, learning_rate=0.002) for seed, final in ((0, 0.4), (1, 0.5))]
    rows += [synthetic.run("lr_b", 8, 0, 1e9, 0.6, 3, learning_rate=0.01)]
    check = pd.concat(rows)
    a, b = (
        100 * check[(check["experiment"] == name) & (check["epoch"] == last)]["accuracy"]
        for name, last in (("lr_a", 2), ("lr_b", 3))
    )
    assert learning_rates(check, [("lr_c", 8, 0)]) == [
        ["lr_a", "8", "0.002", "2", "2", f"{a.mean():.1f} ± {a.std():.1f} %"],
        ["lr_b", "8", "0.01", "3", "1", f"{b.mean():.1f} %"],
        ["lr_c", "8", "–", "–", "1", "diverged"],
    ]
    data = write(SMALL[SMALL["experiment"] == "baseline_small"], tmp_path / "data")
    without, with_check = tmp_path / "without", tmp_path / "with"
    without.mkdir(), with_check.mkdir()
    before = build.prepare(data, without)
    assert "learning_rate_check" not in text(before)
    write(check, data / "learning_rate_check")
    after = build.prepare(data, with_check)
    words = text(after)
    assert "data/learning_rate_check" in words
    assert "lr_b" in words
    assert digest(data / "learning_rate_check") in words
    ours, theirs = (
        json.loads((folder / "report.json").read_text(encoding="utf-8")) for folder in (without, with_check)
    )
    assert {key for key in ours if ours[key] != theirs[key]} == {"check"}


def test_lower_targets_are_tabled_where_something_is_known(whole):
    known = {"estimate": 12345.6, "low": 400.0, "high": None}
    noise = {"median": 241.2, "low": 20.0, "high": 951.0}
    rows = [
        {"target": 0.5, "experiment": "scaled_lr", "critical_batch_size": known, "noise_scale": noise},
        {"target": 0.5, "experiment": "mine", "critical_batch_size": known, "noise_scale": None},
        {"target": 0.7, "experiment": "mine", "critical_batch_size": dict.fromkeys(known), "noise_scale": noise},
    ]
    assert lower_targets(rows) == [
        ["50.0 %", "linearly scaled rate", "12\u202f300", "≥ 400", "241", "20–951"],
        ["50.0 %", "mine", "12\u202f300", "≥ 400", "–", ""],
    ]
    said = json.loads((whole.parent / "report.json").read_text(encoding="utf-8"))
    assert {row[0] for row in said["targets"]} == {"50.0 %", "60.0 %", "70.0 %"}  # the threshold is 75 %
    assert "The critical batch size at lower targets" in text(whole)


def test_what_was_written_about_other_records_is_not_printed(whole):
    heading = re.search(r"^== (.*)$", (whole.parent / build.DISCUSSION).read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert heading not in text(whole)


def test_what_was_written_about_these_records_is_printed(tmp_path, monkeypatch):
    data, here = write(SMALL, tmp_path / "data"), tmp_path / "report"
    shutil.copytree(build.HERE, here)
    (here / build.DISCUSSION).write_text(f"// of {digest(data)}\n\n== Seen here\n", encoding="utf-8")
    monkeypatch.setattr(build, "HERE", here)
    assert "Seen here" in text(build.prepare(data, tmp_path))


def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch):
    data, empty, damaged = write(SMALL[SMALL["batch_size"] == 8], tmp_path / "data"), tmp_path / "empty", tmp_path / "x"
    empty.mkdir(), damaged.mkdir()
    (damaged / "a.csv").write_text("no,record\n")
    pdf = tmp_path / "report.pdf"
    wrong = {
        (tmp_path / "none", pdf): "there is no folder",
        (empty, pdf): "holds no records; run one of the training notebooks first",
        (damaged, pdf): "a.csv has no column batch_size",
        (data, tmp_path / "none" / "report.pdf"): "cannot be written (No such file or directory); name another place",
        (): "name the folder of the records and the PDF",
    }
    for arguments, message in wrong.items():
        assert build.main([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert not printed.out
    monkeypatch.setitem(sys.modules, "typst", None)
    assert build.main([str(data), str(pdf)]) == 2
    assert "pip install typst" in capsys.readouterr().err
    assert not pdf.exists()
    monkeypatch.undo()
    assert build.main([str(data), str(pdf)]) == 0
    assert pdf.exists()
