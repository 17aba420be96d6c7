"""The report: built from whatever is recorded, true to it, the same bytes for the same records."""

import html
import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
import synthetic
import typst
from conftest import FIRST_EDITION, PROJECT

from batchscale.analysis import sentences, words
from batchscale.analysis.breaking_point import CURRENCIES, BreakingPoint
from batchscale.analysis.findings import Findings, NoiseScale, ToTarget, analyse
from batchscale.analysis.words import interval, verdict_size
from batchscale.epoch import STUDY_COLUMNS
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.modes import MODES
from batchscale.records import Study, advice, digest
from batchscale.records.study import RUN
from report import build, committed
from report.contents import contents, predicted, several_targets

EPOCHS = synthetic.study()
SMALL = synthetic.study(seeds=(0, 1), small=(8, 32), large=(128, 1024))
ODD_NAMES = ("a_b*c#d@e", "$x$ <y> [z]", "`t` \\ //u", "_" + "very_long_" * 9)
SHORT = "_very_long_very…_long_very_long_"  # of the last


def write(table: pd.DataFrame, folder: Path, columns=None) -> Path:
    """CSVs of some runs, without sidecars."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (run, rows) in enumerate(table.groupby(["experiment", "batch_size", "seed"])):
        stem = "{}_bs{}_seed{}".format(*run) if run[0] in MODES else f"run{number}"
        rows[columns or list(rows)].to_csv(folder / f"{stem}.csv", index=False, lineterminator="\n")
    return folder


def sidecar(status: str = "complete", torch: str = "2.9.0", device: str = "A100", **fields) -> dict:
    """As `synthetic.sidecar`, with all that the report shows of one."""
    rule = MODES[fields["name"]].rule if fields["name"] in MODES else {}
    experiment = Experiment(epochs=30, **rule | fields)
    facts = {"versions": {"torch": torch}, "device": {"type": "cuda", "name": device}, "parameters": 5_852_170}
    return {"format": 2, "status": status, "experiment": asdict(experiment), **facts}


def put(folder: Path, *sidecars: dict) -> None:
    for number, content in enumerate(sidecars):
        (folder / f"{number}.json").write_text(json.dumps(content))


def on_devices(table: pd.DataFrame, device) -> list[dict]:
    """A sidecar for every run, with the device that `device(name, batch_size, seed)` names."""
    runs = table[RUN].drop_duplicates().itertuples(index=False, name=None)
    return [sidecar(name=run[0], batch_size=run[1], seed=run[2], device=device(*run)) for run in runs]


def diverged(folder: Path) -> None:
    gone = (SMALL["experiment"] == "scaled_lr") & (SMALL["batch_size"] == 1024)
    write(SMALL[~gone | (gone & (SMALL["epoch"] == 1) & (SMALL["seed"] == 0))], folder)
    put(folder, *(sidecar("diverged", name="scaled_lr", batch_size=1024, seed=seed) for seed in (0, 1)))


def unfinished_reference(folder: Path) -> None:
    write(SMALL[SMALL["experiment"] != "baseline_small"], folder)
    put(folder, *(sidecar("diverged", name="baseline_small", batch_size=8, seed=seed) for seed in (0, 1)))


def own_names(folder: Path) -> None:
    scaled = SMALL[SMALL["experiment"] == "scaled_lr"]
    write(pd.concat([SMALL, *(scaled.assign(experiment=name) for name in ODD_NAMES)]), folder)


def another_device(folder: Path) -> None:
    """All runs of one mode are of another device than the others."""
    write(SMALL, folder)
    put(folder, *on_devices(SMALL, lambda name, size, seed: "T4" if name == "scaled_lr" else "A100"))


# Records, and what the report has to say of them.
CASES = {
    "one seed": (
        lambda folder: write(SMALL[SMALL["seed"] == 0], folder),
        [
            "(1 seed, no interval)",
            "A single seed at 8 of 8 combinations of mode and batch size.",
        ],
    ),
    "one batch size": (
        lambda folder: write(SMALL[SMALL["batch_size"].isin([8, 128])], folder),
        [
            "These records do not determine a critical batch size.",
            "batch size is undetermined: the target is reached at 2 batch sizes, where the fit needs three.",
            "The linear rule without warm-up keeps the accuracy up to 128, the largest recorded",
            "> 128",
        ],
    ),
    "a mode is missing": (
        lambda folder: write(SMALL[SMALL["experiment"] != "baseline_large"], folder),
        [
            "There are no records of baseline_large.",
            "What scaling adds (linearly scaled rate minus base rate) is undetermined: no batch size has finished runs "
            "of both scaled_lr and baseline_large.",
        ],
    ),
    "no small minibatches": (
        lambda folder: write(SMALL[SMALL["experiment"] != "baseline_small"], folder),
        [
            "There are no records of baseline_small.",
            "the reference is baseline_large, gradual_warmup_scaled_lr and scaled_lr, with the smallest batch size",
            "The best reference batch size, 1024 images, reaches a test accuracy of",
        ],
    ),
    "no finished small minibatches": (
        unfinished_reference,
        [
            "No run of the reference is finished, so there is no accuracy to keep.",
            "There is no threshold, and so no target: neither updates nor time to target can be given.",
            "; without a reference nothing says whether that is enough.",
        ],
    ),
    "small minibatches alone": (
        lambda folder: write(SMALL[SMALL["experiment"] == "baseline_small"], folder),
        ["No larger minibatches are recorded.", "No breaking point could be determined."],
    ),
    "diverged": (
        diverged,
        [
            "2 diverged",
            "and 1024 (2 of 2 runs diverge).",
            "The run scaled_lr B=1024 seed 1 diverged; it counts as a failure.",
        ],
    ),
    "all diverged": (
        lambda folder: (folder.mkdir(), put(folder, sidecar("diverged", name="scaled_lr", batch_size=128))),
        [
            "rests on 1 run",
            "1 diverged",
            "No run of the reference is finished, so there is no accuracy to keep.",
            "The run scaled_lr B=128 seed 0 diverged; it counts as a failure.",
        ],
    ),
    "five columns": (
        lambda folder: write(SMALL, folder, list(STUDY_COLUMNS)),
        [
            "on a data set that is not recorded, with",
            "by stochastic gradient descent with momentum 0.9 in the study, on the mean cross-entropy",
            "of which the study has 2. After that, the study keeps the rate constant.",
            "Some records have no column updates",
            "are not recorded",
            "undetermined or not measured",
        ],
    ),
    "own names": (own_names, [*ODD_NAMES, *(f"“{name}”" for name in ODD_NAMES[:-1]), f"“{SHORT}”"]),
    "another device": (
        another_device,
        [
            "The times of 4 runs are left out: another device trained them.",
            "trained on A100 (cuda) and T4 (cuda)",
            "Under the linear rule without warm-up the target is reached soonest at 8, in",  # by the reference's device
        ],
    ),
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


def found_in(table: pd.DataFrame, sidecars=(), gone=()) -> Findings:
    return analyse(Study.of(table, diverged=gone, sidecars=sidecars))


def said_of(table: pd.DataFrame, sidecars=(), gone=()) -> dict:
    return contents(found_in(table, sidecars, gone))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The source of the report on a whole study, in a folder of its own."""
    folder = tmp_path_factory.mktemp("whole")
    data = write(EPOCHS, folder / "some records")
    put(data, *(sidecar(name=n, batch_size=b, seed=s) for n, b, s in set(EPOCHS[RUN].itertuples(index=False))))
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
    assert said["figures"] == ["accuracy", "effects", "updates", "time"]


@pytest.fixture(scope="module")
def committed_source(tmp_path_factory) -> Path:
    """The source of the report on the committed records."""
    return build.prepare(PROJECT / "data", tmp_path_factory.mktemp("committed"))


def test_the_committed_report_is_a_short_paper(committed_source):
    assert 4 <= pages(committed_source) <= 8


def test_the_committed_report_has_no_list_by_accident(committed_source):
    """To Typst, a source line that begins with a number and a full stop, or with -, + or /, is an item of a list."""
    sources = list(committed_source.parent.glob("*.typ"))
    assert {source.name for source in sources} == {"report.typ", build.DISCUSSION}
    for source in sources:
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            assert not re.match(r"\s*(\d+\.|[-+/])(\s|$)", line), f"{source.name}, line {number}: {line}"
    content, _ = typst.Compiler(str(committed_source), ignore_system_fonts=True).compile_with_warnings(format="html")
    assert re.findall(r"<(ol|ul|dl)\b", content.decode()) == ["ul"]  # the references


def test_it_says_what_it_was_built_from(whole):
    words = text(whole)
    runs = len(EPOCHS[RUN].drop_duplicates())
    assert f"Built from the folder some records: {runs} runs of 4 modes of training, 2340 epochs." in words
    assert f"rests on {runs} runs on the data set cifar10 at width 0.25, trained on A100 (cuda), with batch" in words
    assert str(whole.parent.parent) not in words
    for fact in ("2.9.0", "A100 (cuda)", "cifar10", "5\u202f852\u202f170", "0.002", "gradual warm-up of 2 epochs"):
        assert fact in words or fact.replace("\u202f", " ") in words, fact
    assert digest(whole.parent.parent / "some records") in words


PLAIN = [
    *("data set", "training images", "test images", "network", "width", "parameters", "base learning rate"),
    *("reference batch size", "momentum", "weight decay", "precision", "PyTorch", "device"),
]


def test_the_usual_settings_need_no_words(whole):
    """Nor do sidecars from before there was another optimizer, a decay or an augmentation."""
    said = json.loads((whole.parent / "report.json").read_text(encoding="utf-8"))
    assert [name for name, _ in said["settings"]] == PLAIN
    assert dict(said["settings"])["momentum"] == "0.9"
    words = text(whole)
    assert "data set of that shape, by stochastic gradient descent with momentum 0.9, on the mean cross-" in words
    assert "of which the study has 2. After that, the rate is constant. 2.3" in words
    table = SMALL[SMALL["experiment"] == "scaled_lr"]
    older = [sidecar(name="scaled_lr", batch_size=size, seed=seed) for size in (128, 1024) for seed in (0, 1)]
    newer = said_of(table, older)
    for content in older:
        for field in ("optimizer", "decay", "augment"):
            del content["experiment"][field]
    assert said_of(table, older) == newer
    assert newer["settings"] == [[name, dict(newer["settings"])[name]] for name in PLAIN]
    assert newer["provenance"] == ["The sidecars of all runs agree on these settings."]


@pytest.mark.parametrize(
    ("settings", "rows", "method"),
    [
        (
            {"optimizer": "adamw", "decay": "cosine", "augment": "flip-crop", "weight_decay": 0.01},
            {
                "optimizer": "AdamW with β₁ = 0.9",
                "weight decay": "0.01",
                "decay of the rate": "cosine",
                "augmentation": "random flips and crops",
            },
            ["by AdamW with β₁ = 0.9, on the mean", "After that, the rate decays. Under every rule,", "updates in all"],
        ),
        (
            {"optimizer": "timm.optim:Lamb", "decay": "step"},
            {"optimizer": "timm.optim:Lamb", "decay of the rate": "step"},
            ["by timm.optim:Lamb, on the mean cross-entropy", "of all epochs are over, as in"],
        ),
        (
            {"optimizer": "nesterov", "momentum": 0.95, "augment": "flip"},
            {"optimizer": "SGD with Nesterov momentum 0.95", "augmentation": "random flips"},
            ["by stochastic gradient descent with Nesterov momentum 0.95, on the mean", "the rate is constant."],
        ),
        (
            {"momentum": 0.0, "decay": "linear"},
            {"momentum": "0", "decay of the rate": "linear"},
            ["by stochastic gradient descent without momentum, on the mean", "the rate decays.", "updates in all."],
        ),
    ],
    ids=["adamw", "own", "nesterov", "decay"],
)
def test_other_settings_are_in_the_method_and_the_table(settings, rows, method, tmp_path):
    data, source = write(SMALL, tmp_path / "data"), tmp_path / "source"
    source.mkdir()
    put(
        data,
        *(sidecar(name=n, batch_size=b, seed=s, **settings) for n, b, s in set(SMALL[RUN].itertuples(index=False))),
    )
    source = build.prepare(data, source)
    shown = dict(json.loads((source.parent / "report.json").read_text(encoding="utf-8"))["settings"])
    new = ("optimizer", "decay of the rate", "augmentation")
    assert {name: value for name, value in shown.items() if name in new or name in rows} == rows
    assert ("momentum" in shown) == ("optimizer" not in settings)
    assert pages(source) <= 8
    words = text(source)
    for phrase in method:
        assert phrase in words
    assert words.count("the rate is constant") == ("decay" not in settings)
    assert not re.search(r"\b(nan|None|inf)\b", words)


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


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(tmp_path):
    table = SMALL[SMALL["experiment"].isin(["baseline_small", "scaled_lr"])]
    first, second = (write(table, tmp_path / name / "data") for name in ("a", "b"))
    build.build(first, tmp_path / "a.pdf")
    sources = [build.prepare(first, tmp_path / "a").parent]
    with mpl.rc_context({"axes.facecolor": "red", "svg.hashsalt": "another"}):
        build.build(second, tmp_path / "b.pdf")
        sources.append(build.prepare(second, tmp_path / "b").parent)
    ours, theirs = ({path.name: path.read_bytes() for path in folder.glob("*.*")} for folder in sources)
    assert len(ours) >= 7
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
        prose = re.sub(r"\d+(\.\d+)?(pt|fr|em|cm|%\))|\* \d|(==|>|-) \d|@\w+|SHA-256|slice\(0, 12\)", "", part)
        assert set(re.findall(r"\d+", prose)) <= {"95"}, prose
    assert set(re.findall(r"(\d+) %", source)) == {"95"}


def test_nothing_is_fetched():
    for path in (PROJECT / "report").glob("*.typ"):
        source = path.read_text(encoding="utf-8")
        assert "@preview" not in source
        assert "import" not in source


def test_every_number_of_the_verdicts_is_a_finding():
    found = found_in(EPOCHS)
    said = contents(found)
    for row, mode in zip(said["verdicts"], found.modes.values(), strict=True):
        assert row[0] == mode.mode.label
        points = [mode.breaking_points[currency] for currency in CURRENCIES]
        expected = [point.estimate for point in points] + [mode.critical.estimate, mode.noise_scale.median]
        assert None not in expected
        shown = [float(value.replace("\u202f", "")) for value, _ in row[1:]]
        assert shown == [pytest.approx(value, rel=0.05) for value in expected]  # two digits or three
        ends = [each.interval for each in (*points, mode.critical)] + [(mode.noise_scale.low, mode.noise_scale.high)]
        assert [between for _, between in row[1:]] == [words.interval(*each) for each in ends]
    best = EPOCHS[(EPOCHS["experiment"] == "baseline_small") & (EPOCHS["epoch"] == 30)].groupby("batch_size")[
        "accuracy"
    ]
    size, mean = best.mean().idxmax(), best.mean().max()
    first, *chance, keep = said["threshold"]
    assert first.startswith(
        f"The best small minibatch, {size} images, reaches a test accuracy of {100 * mean:.1f} ± "
        f"{100 * best.std()[size]:.1f} % (3 seeds"
    )
    corrected = 100 * found.threshold.best  # by chance the best of several means is too high
    assert corrected <= 100 * mean
    low, high = (100 * end for end in found.threshold.interval)
    assert f"95 % interval {low:.1f} to {high:.1f} %" in (chance or [first])[0]
    assert bool(chance) == (f"{corrected:.1f}" != f"{100 * mean:.1f}")
    assert keep == f"With a tolerance of 1 point, a larger minibatch has to keep {corrected - 1:.1f} %."
    (table,) = said["accuracies"]
    accuracy = EPOCHS[(EPOCHS["experiment"] == "scaled_lr") & (EPOCHS["epoch"] == 30) & (EPOCHS["batch_size"] == 512)]
    mean, deviation = 100 * accuracy["accuracy"].mean(), 100 * accuracy["accuracy"].std()
    assert dict(zip(table["head"], next(row for row in table["rows"] if row[0] == "512"), strict=True)) == {
        "batch size": "512",
        "small batches, base rate": "",
        "base rate": table["rows"][-5][2],
        "linearly scaled rate": f"{mean:.1f} ± {deviation:.1f} % (3)",
        "scaled rate, gradual warm-up": table["rows"][-5][4],
    }


def numbers_of(found: Findings) -> set[str]:
    """Every number that a sentence on breaking points may contain."""
    known = {"95", words.number(found.threshold.from_batch_size), words.number(found.threshold.seeds)}
    for mode in found.modes.values():
        for each in (*mode.breaking_points.values(), mode.critical):
            known |= set(re.findall(r"[\d.]+", f"{words.images(each.estimate)} {words.interval(*each.interval)}"))
        known |= {str(size) for point in mode.breaking_points.values() for size in point.between}
        for row in mode.losses.itertuples():
            known |= set(words.percent(row.accuracy, row.standard_deviation).split()) | {str(row.batch_size)}
            known |= {str(row.diverged), str(row.diverged + row.seeds)}
            known |= {f"{100 * value:.1f}" for value in (row.loss, row.loss_low, row.loss_high)}
    for effect in found.effects:
        known |= {f"{100 * abs(value):.1f}" for value in effect.differences["difference"].dropna()}
    of_threshold = (found.threshold.accuracy, found.threshold.best, *found.threshold.interval, found.target)
    return known | {f"{100 * value:.1f}" for value in of_threshold}


@pytest.mark.parametrize(
    "table", [EPOCHS, SMALL, SMALL[SMALL["batch_size"].isin([8, 128])], EPOCHS[EPOCHS["seed"] == 0]]
)
def test_every_number_of_the_sentences_is_a_finding(table):
    found = found_in(table)
    said = contents(found)
    known, parts = numbers_of(found), ("accuracy", "breaking_points", "discussion")
    for sentence in (each for part in parts for each in said[part]):
        shown = {each.rstrip(".") for each in re.findall(r"\d[\d.\u202f]*", sentence)}
        assert shown <= known, sentence
        assert not re.search(r"up to (?!\d)|\b(nan|None|inf)\b", sentence), sentence


def test_other_records_say_something_else():
    """The rules change places, small minibatches are worse: whatever is said of results follows."""
    names = {"baseline_large": "gradual_warmup_scaled_lr", "gradual_warmup_scaled_lr": "baseline_large"}
    swapped = SMALL.assign(experiment=SMALL["experiment"].replace(names))
    swapped.loc[swapped["experiment"] == "baseline_small", ["accuracy", "noise_scale"]] *= 0.9
    ours, theirs = said_of(SMALL), said_of(swapped)
    same = {key for key in ours if ours[key] == theirs[key]}
    assert same >= {"built_from", "provenance", "settings", "modes", "study"}
    results = {"abstract", "threshold", "accuracy", "accuracies", "effects", "updates", "verdicts"}
    assert not same & (results | {"breaking_points", "time", "frontier", "discussion"})
    assert ours["effects"][0].startswith("Scaling raises the accuracy by")
    assert any(sentence.startswith("Gradual warm-up lowers the accuracy by") for sentence in theirs["effects"])
    # At B = 128 the base rate loses 3 points to the small minibatches, and keeps all that these have in the other.
    assert ours["accuracy"][0].startswith("Under the base rate the accuracy falls below the threshold at ")
    assert ours["accuracy"][0].split(", between ")[1].startswith("32 (")
    assert theirs["accuracy"][0].startswith("The base rate keeps the accuracy up to 1024, the largest recorded")
    assert theirs["verdicts"][0][1][0] == "> 1024"


def test_effects_are_sorted_by_what_their_intervals_say():
    found = found_in(SMALL)
    row = {"difference": 0.02, "low": 0.01, "high": 0.03, "pairs": 2, "reason": None}
    rows = [
        row | {"batch_size": 128},
        row | {"batch_size": 256, "difference": 0.04},
        row | {"batch_size": 512, "difference": -0.05, "low": -0.06, "high": -0.04},
        row | {"batch_size": 1024, "low": -0.01},
        row | {"batch_size": 2048, "difference": None, "low": None, "high": None},
    ]
    found = replace(found, effects=(replace(found.effects[0], differences=pd.DataFrame(rows)),))
    assert contents(found)["effects"] == [
        "Scaling raises the accuracy by 2.0 to 4.0 points at 128 and 256.",
        "Scaling lowers the accuracy by 5.0 points at 512.",
        "At 1024 the 95 % interval of what scaling adds includes zero.",
        "At 2048 no equal seeds tell what scaling adds.",
    ]
    single = [row | {"batch_size": 4096, "low": float("nan"), "high": float("nan")}]
    found = replace(found, effects=(replace(found.effects[0], differences=pd.DataFrame(single)),))
    (said,) = contents(found)["effects"]
    assert said == "Without an interval, scaling adds 2 points at 4096."


RULES = {name: MODES[name].phrase for name in ("baseline_large", "scaled_lr", "gradual_warmup_scaled_lr")}
BASE, SCALED, WARM = RULES


def but(found: Findings, name: str, **changed) -> Findings:
    """The same findings with something else about one mode."""
    return replace(found, modes=found.modes | {name: replace(found.modes[name], **changed)})


FAILS = (None, None, 128.0, (None, 128))


def broken_at(found: Findings, name: str, **points: tuple) -> Findings:
    """The same findings with other breaking points of one mode: by currency, estimate, interval and what is around."""
    new = {currency: BreakingPoint(*point) for currency, point in points.items()}
    return but(found, name, breaking_points=found.modes[name].breaking_points | new)


@pytest.fixture(scope="module")
def three_rules() -> Findings:
    """One rule loses the accuracy, one keeps it for a while, one almost to the end of its records."""
    found = found_in(synthetic.study(seeds=(0, 1), small=(8, 32), large=(128, 256, 512, 1024)))
    points = {
        BASE: {"accuracy": FAILS, "updates": (32.4,), "time": (64.0,)},
        SCALED: {"accuracy": (256.4, 128.2, 512.0, (256, 512)), "updates": (None,), "time": (128.0,)},
        WARM: {"accuracy": (900.0, 480.5, None, (512, 1024)), "updates": (512.0,), "time": (1000.0,)},
    }
    intervals = {BASE: (310.0, 500.0), SCALED: (200.0, 290.0), WARM: (290.0, 310.0)}
    known = {"reasons": (), "estimate": 295.0, "steps_min": 1000.0, "examples_min": 295_000.0, "right_censored": 0}
    for name in RULES:
        low, high = intervals[name]
        critical = replace(found.modes[name].critical, **known, low=low, high=high)
        noise = NoiseScale(median=300.0, low=50.0, high=900.0, runs=4, epochs=40, measured=40)
        found = broken_at(but(found, name, critical=critical, noise_scale=noise), name, **points[name])
    found = but(found, WARM, critical=replace(found.modes[WARM].critical, right_censored=1, runs=4))
    seconds = {128: 60.0, 256: 45.0, 512: 40.0, 1024: 31.5}
    for name in RULES:
        curve = found.modes[name].curve
        if name == BASE:
            curve = curve.assign(censored="right", running_time=float("nan"))
        else:
            curve = curve.assign(censored="no", running_time=curve["batch_size"].map(seconds))
        found = but(found, name, curve=curve)
    return replace(found, to_threshold=found.to_target)


def test_sentences_on_known_verdicts(three_rules):
    said = contents(three_rules)
    assert said["discussion"] == [
        f"The intervals of {RULES[SCALED]} and {RULES[WARM]} overlap: the records do not tell which goes further.",
        "Compared at equal batch sizes and seeds, gradual warm-up raises the accuracy by 2.1 to 5.4 points at 512 and "
        "1024.",
        "No batch size recorded for the base rate keeps it.",
        f"The smallest known breaking point of each rule is 128 for {RULES[SCALED]} (in time) and 512 for "
        f"{RULES[WARM]} (in updates).",
    ]
    assert set(said["discussion"][:3]) < set(said["abstract"])
    assert set(said["accuracy"]) < set(said["abstract"])
    assert said["accuracy"][0].startswith("Already at 128, the smallest recorded, the base rate loses ")
    assert said["accuracy"][1].startswith(
        f"Under {RULES[SCALED]} the accuracy falls below the threshold at 256 (95 % interval 128–512), between 256 ("
    )
    assert [where.split()[-8] for where in sentences.noise_scales(three_rules)] == ["below", "above", "within"]
    assert said["time"][0] == "Under the base rate not all runs reach the target at any batch size from 8 to 1024."
    assert said["time"][1].endswith("is reached soonest at 1024, in 31.5 s, compared with 60 s at 128.")
    assert said["updates"][0] == (
        "Under the base rate the critical batch size is 295 (95 % interval 310–500); the target takes at least 1000 "
        "updates however large the minibatch, and 295\u202f000 images however small."
    )
    assert said["updates"][3:] == [
        f"Runs that never reached the target count as lower bounds: 1 of 4 under {RULES[WARM]}."
    ]
    assert said["breaking_points"][1] == (
        f"Under {RULES[SCALED]} larger minibatches keep the accuracy up to 256 (95 % interval 128–512) and shorten the "
        "time to target by a tenth or more up to 128; the records determine no breaking point in updates."
    )
    assert said["verdicts"][1] == [
        "linearly scaled rate",
        ["256", "128–512"],
        ["–", ""],
        ["128", ""],
        ["295", "200–290"],
        ["300", "50–900"],
    ]
    assert said["verdicts"][0][1] == ["< 128", "≤ 128"]
    assert said["verdicts"][2][1] == ["900", "≥ 480"]


def test_noise_scales_that_were_not_always_measurable(three_rules):
    noise = three_rules.modes[SCALED].noise_scale
    found = but(three_rules, SCALED, noise_scale=replace(noise, high=None, measured=37))
    found = but(found, WARM, noise_scale=replace(noise, median=None, high=None, measured=19))
    assert sentences.noise_scales(found)[1:] == [
        f"Under {RULES[SCALED]} the gradient noise scale has a median of 300 images and ranges from 50 upwards over "
        "the epochs that end below 66.0 %; it was not measurable in 3 of 40 epochs; the median lies above the interval "
        "of the critical batch size.",
        f"Under {RULES[WARM]} the gradient noise scale has no median; it was not measurable in 21 of 40 epochs, where "
        "the noise hides the gradient; the smallest measured is 50 images.",
    ]


def test_rules_are_ranked_by_intervals_alone(three_rules):
    level = "the records do not tell which goes further."
    ranked = f"The linear rule with gradual warm-up goes further than {RULES[SCALED]}."
    for ours in ((1024, None, 1024), (1024, 256, 1024), (1024, 512, 1024), (512, 512, 512)):
        for theirs in ((128, None, 256), (256, 128, 256), (256, 256, 512), (256, None, None)):
            found = broken_at(three_rules, WARM, accuracy=(*ours, (512, 1024)))
            found = broken_at(found, SCALED, accuracy=(*theirs, (128, 256)))
            is_sure = None not in (ours[1], theirs[2]) and ours[1] > theirs[2]
            said = contents(found)
            for part in (said["discussion"], said["abstract"]):
                assert (ranked in part) == is_sure
                assert any(sentence.endswith(level) for sentence in part) != is_sure
    alone = contents(broken_at(three_rules, SCALED, accuracy=FAILS))["discussion"]
    assert alone[0] == "The linear rule with gradual warm-up keeps the accuracy up to 900 (95 % interval ≥ 480)."
    assert alone[1] == f"No batch size recorded for the base rate and {RULES[SCALED]} keeps it."
    none = broken_at(broken_at(three_rules, SCALED, accuracy=FAILS), WARM, accuracy=FAILS)
    assert contents(none)["discussion"] == ["No recorded rule keeps the accuracy at any larger batch size."]


def test_the_abstract_of_many_modes_has_the_known_breaking_points_in_one_sentence(three_rules):
    again = {"a": three_rules.modes[SCALED]}
    scaled = f"256 (95 % interval 128–512) under {RULES[SCALED]}"
    others = f"900 (≥ 480) under {RULES[WARM]} and 256 (128–512) under {RULES[SCALED]}"
    said = contents(replace(three_rules, modes=three_rules.modes | again))["abstract"]
    assert f"The accuracy falls below that at {scaled}, {others}." in said


def test_the_first_edition_ranks_no_rules_whose_intervals_overlap():
    found = analyse(Study.load(FIRST_EDITION))
    points = {name: found.modes[name].breaking_points["accuracy"] for name in (SCALED, WARM)}
    assert all(point.estimate is not None and point.high is not None for point in points.values())
    assert (points[WARM].low or 0) <= points[SCALED].high
    assert (points[SCALED].low or 0) <= points[WARM].high
    headline, said = committed.sections(found)["study"], contents(found)
    parts = [re.split(r"(?<=\.)\s", headline.replace("- ", ""))]
    parts += [said[key] for key in ("abstract", "accuracy", "effects", "breaking_points", "discussion")]
    about_both = []
    for part in parts:
        for sentence in part:
            ranking = r"go(es)? further than|furthest|outperform|surpass|(better|larger|longer) than (the|scal|grad)"
            assert not re.search(ranking, sentence), sentence
            is_other = re.search("smallest known|critical batch size", sentence)
            if RULES[SCALED] in sentence and RULES[WARM] in sentence and not is_other:
                about_both.append(sentence)
    assert len(about_both) >= 3  # in README, in the abstract and in the discussion
    assert len(set(about_both)) == 1
    assert about_both[0].endswith("overlap: the records do not tell which goes further.")


def test_frontier_in_words():
    mine = SMALL[SMALL["experiment"] == "scaled_lr"].assign(experiment="mine")
    found = found_in(pd.concat([SMALL, mine]))
    row = {"experiment": "mine", "seeds": 1, "dominated": False, "dominated_by": None}
    rows = [
        row | {"batch_size": 64, "accuracy": 0.5, "running_time": 10.0},
        row | {"batch_size": 32, "accuracy": 0.4, "running_time": 11.0, "dominated": True},
        row | {"batch_size": 16, "accuracy": 0.7, "running_time": 1234.5},
    ]
    assert contents(replace(found, frontier=pd.DataFrame(rows)))["frontier"] == [
        "Of 3 combinations of mode and batch size that do better than guessing, 2 lie on the Pareto frontier: no other "
        "is at least as accurate and no slower. It runs from mine at 64 (50.0 % in 10 s) to mine at 16 (70.0 % in "
        "1230 s)."
    ]
    assert contents(replace(found, frontier=pd.DataFrame(rows[1:])))["frontier"] == [
        "Of 2 combinations of mode and batch size that do better than guessing, one is both the fastest and the most "
        "accurate: mine at 16 (70.0 % in 1230 s)."
    ]


def test_times_of_another_device_are_left_out():
    """They are said to be, and what is said of accuracies and updates stays."""
    is_other = synthetic.is_run(SMALL, ("scaled_lr", 1024, 0))
    table = SMALL.assign(running_time=SMALL["running_time"].where(~is_other, SMALL["running_time"] / 1000))
    one = on_devices(table, lambda *_: "A100")
    two = on_devices(table, lambda *run: "T4" if run == ("scaled_lr", 1024, 0) else "A100")
    mixed, found = said_of(table, one), found_in(table, two)
    said = contents(found)
    assert mixed["missing"] == []
    assert said["missing"] == ["The times of 1 run are left out: another device trained them."]
    assert said["provenance"] == ["The sidecars disagree on the device: runs that are compared may differ in that too."]
    assert dict(said["settings"])["device"] == "A100 (cuda) (15 runs); T4 (cuda) (1 run)"
    assert said["abstract"][0].startswith(
        "This report rests on 16 runs on the data set cifar10 at width 0.25, trained on A100 (cuda) and T4 (cuda), with"
    )
    runs = found.to_target.runs.set_index(RUN)["running_time"]
    assert pd.isna(runs["scaled_lr", 1024, 0])
    seconds = runs["scaled_lr", 1024, 1]
    assert said["time"][1].startswith(
        f"Under the linear rule without warm-up the target is reached soonest at 1024, in {seconds:.3g} s, compared"
    )
    assert said["time"][0] == mixed["time"][0]
    assert said["time"][2] == mixed["time"][2]
    at = found.frontier.set_index(["experiment", "batch_size"]).loc[("scaled_lr", 1024)]
    assert at["seeds"] == 1
    assert at["running_time"] > 1
    for part in ("threshold", "accuracy", "accuracies", "effects", "updates"):
        assert said[part] == mixed[part]


def test_own_modes_are_called_by_their_names_or_rules():
    scaled = SMALL[SMALL["experiment"] == "scaled_lr"]
    long = "a" * 20 + "b" * 20
    table = pd.concat([SMALL, *(scaled.assign(experiment=name) for name in ("mine", long, "root"))])
    said = said_of(table)
    short = "a" * 15 + "…" + "b" * 16
    assert [row[:3] for row in said["modes"][4:]] == [
        [short, long, "not recorded"],
        ["mine", "mine", "not recorded"],
        ["root", "root", "not recorded"],
    ]
    assert [row[0] for row in said["verdicts"][3:]] == [short, "mine", "root"]
    assert said["accuracy"][3].startswith(f"Under “{short}” the accuracy falls below the threshold at")
    assert said["accuracy"][4].startswith("Under “mine” the accuracy falls below the threshold at")
    rule = {"lr_scaling": "sqrt", "warmup": "constant", "warmup_epochs": 1}
    of_root = [sidecar(name="root", batch_size=size, seed=seed, **rule) for size in (128, 1024) for seed in (0, 1)]
    said = said_of(table, of_root)
    label = "square-root scaled rate, constant warm-up (root)"
    assert said["modes"][-1][:3] == [label, "root", "square root, constant warm-up of 1 epoch"]
    assert said["accuracy"][-1].startswith("Under the square-root rule with constant warm-up (root) the accuracy falls")


@pytest.mark.parametrize("name", ["scaled_lr", "mine"])
@pytest.mark.parametrize(("setting", "value"), [("lr_scaling", "cubic"), ("warmup", "cosine")])
def test_a_rule_without_words_is_no_unrecorded_rule(name, setting, value, tmp_path, capsys):
    table = pd.concat([SMALL, SMALL[SMALL["experiment"] == "scaled_lr"].assign(experiment="mine")])
    unknown = sidecar(name=name, batch_size=128)
    unknown["experiment"][setting] = value
    words = rf"mode {name} was trained with .*{setting} '{value}'.*, which this batchscale does not know"
    with pytest.raises(UserError, match=words):
        said_of(table, [unknown])
    data = write(table, tmp_path / "data")
    put(data, unknown)
    assert build.main([str(data), str(tmp_path / "report.pdf")]) == 2
    printed = capsys.readouterr()
    assert re.match(f"error: {words}", printed.err)
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "report.pdf").exists()


@pytest.mark.parametrize(("seeds", "shown"), [((0, 1, 2), "0 to 2"), ((0, 1, 3), "0, 1, 3"), ((4,), "4")])
def test_seeds_that_follow_one_another_are_a_range(seeds, shown):
    of_one = SMALL[(SMALL["experiment"] == "scaled_lr") & (SMALL["seed"] == 0)]
    (mode,) = said_of(pd.concat([of_one.assign(seed=seed) for seed in seeds]))["modes"]
    assert mode[-2:] == [shown, str(2 * len(seeds))]


def test_sidecars_agree_disagree_or_are_missing():
    table = SMALL[SMALL["experiment"] == "scaled_lr"]
    runs = [sidecar(name="scaled_lr", batch_size=size, seed=seed) for size in (128, 1024) for seed in (0, 1)]
    said = said_of(table, runs)
    assert said["provenance"] == ["The sidecars of all runs agree on these settings."]
    assert dict(said["settings"])["device"] == "A100 (cuda)"
    assert dict(said["settings"])["training images"] == "not recorded"
    assert said["modes"][0][1:] == ["scaled_lr", "linear", "128, 1024", "30", "0, 1", "4"]

    other = sidecar(name="scaled_lr", batch_size=1024, seed=1, torch="2.4.1")
    other["parameters"] = 5_852_171
    foreign = sidecar(name="mine", batch_size=64, base_lr=9.0)  # of no run that is recorded
    said = said_of(table, [*runs[:2], other, foreign])
    assert dict(said["settings"])["PyTorch"] == "2.9.0 (2 runs); 2.4.1 (1 run)"
    assert dict(said["settings"])["parameters"] == "5\u202f852\u202f170 (2 runs); 5\u202f852\u202f171 (1 run)"
    assert said["provenance"] == [
        "Sidecars lie beside 3 of the 4 runs; how the others were trained is not recorded.",
        "The sidecars disagree on the parameters and PyTorch: runs that are compared may differ in that too.",
    ]
    for little in ({}, {"versions": None, "device": None}):  # an older one, or one that was written by hand
        said = said_of(table, [{"experiment": runs[0]["experiment"], "status": "complete"} | little])
        assert dict(said["settings"])["PyTorch"] == dict(said["settings"])["device"] == "not recorded"
    assert said_of(table)["settings"] == []
    assert "the data set, training images" in said_of(table)["provenance"][0]


def test_runs_with_other_settings_are_named_and_not_analysed():
    table = SMALL[SMALL["experiment"] == "scaled_lr"]
    runs = [sidecar(name="scaled_lr", batch_size=128, seed=seed) for seed in (0, 1)]
    other = sidecar(name="scaled_lr", batch_size=1024, seed=1, base_lr=0.0123456, torch="2.4.1")
    said = said_of(table, [*runs, other])
    assert dict(said["settings"])["base learning rate"] == "0.002"
    assert dict(said["settings"])["PyTorch"] == "2.9.0"
    assert said["provenance"] == ["Sidecars lie beside 2 of the 3 runs; how the others were trained is not recorded."]
    assert said["built_from"].endswith(": 3 runs of 1 mode of training, 90 epochs")
    assert said["accuracies"][0]["rows"][1][1].endswith("% (1)")  # 1024, of which seed 1 is left out
    assert "1 run left out, because settings differ: base_lr is 0.0123456 instead of 0.002." in said["missing"]
    assert (
        "No sidecars beside 1 of 3 runs; the settings of the others are assumed for them." in said["missing"]
    )  # 1024, seed 0
    # Settings are shown to the last digit, not rounded as results are.
    exact = [sidecar(name="scaled_lr", batch_size=128, seed=0, base_lr=0.0123456, momentum=0.9995)]
    assert dict(said_of(table, exact)["settings"])["base learning rate"] == "0.0123456"
    assert dict(said_of(table, exact)["settings"])["momentum"] == "0.9995"


def test_other_studies_in_subfolders(tmp_path):
    """With their own verdicts; not the landscape, a folder below a folder, or too few runs to decide anything."""
    data = write(SMALL, tmp_path / "data")
    write(SMALL[(SMALL["seed"] == 0) & SMALL["batch_size"].isin([8, 1024])], data / "few")
    for name in ("adamw", "adamw/old", "landscape"):
        write(SMALL[SMALL["experiment"] != "scaled_lr"], data / name)
    (tmp_path / "of").mkdir()
    source = build.prepare(data, tmp_path / "of")
    said = json.loads((source.parent / "report.json").read_text(encoding="utf-8"))
    (other,), missing = said["beside"], " ".join(said["missing"])
    assert "in the subfolder adamw/old" in missing  # and not what stands beside
    assert (other["folder"], other["digest"]) == ("data/adamw", digest(data / "adamw"))
    assert [label for label, *_ in other["verdicts"]] == ["base rate", "scaled rate, gradual warm-up"]
    words = text(source)
    assert f"SHA-256 {other['digest'][:12]}" in words
    assert "data/adamw" in words


@pytest.mark.slow
def test_predicted_beside_measured(tmp_path):
    """By hand; a rule that was not predicted has no row, and one that has no end is said to be at least so large."""
    found = analyse(Study.of(SMALL))
    rule = {"estimate": 200.4, "low": 100.0, "high": None, "is_at_least": False}
    noted = {"seconds": 60.0, "rules": {"linear": rule, "none": rule | {"estimate": 30.0, "is_at_least": True}}}
    rows = {row[0]: row[1:] for row in predicted(found, noted)}
    point = found.modes["scaled_lr"].breaking_points["accuracy"]
    seconds = found.epochs_of("scaled_lr").groupby(["batch_size", "experiment", "seed"])["running_time"].max().sum()
    assert rows["linearly scaled rate"] == [
        ["200", "≥ 100"],
        [verdict_size(point), interval(*point.interval)],
        f"{100 * 60 / seconds:.1f} %",
    ]
    assert rows["base rate"][0] == ["≥ 30", "≥ 100"]
    assert predicted(found, {"seconds": 60.0, "rules": {"sqrt": rule}}) == []
    nothing = rule | dict.fromkeys(("estimate", "low", "high"))
    assert predicted(found, noted | {"rules": {"linear": nothing}})[0][1] == ["–", ""]
    data = write(SMALL, tmp_path / "data")
    (tmp_path / "of").mkdir()
    assert "Prediction" not in text(build.prepare(data, tmp_path / "of"))
    advice.write(data, noted)
    words = text(build.prepare(data, tmp_path / "of"))
    assert "as advise predicted it" in words.replace("\n", " ")
    advice.write(write(SMALL, data / "adamw"), noted)
    words = text(build.prepare(data, tmp_path / "of"))
    assert "adamw: linearly scaled rate" in words.replace("\n", " ")


def test_several_targets_are_tabled_where_something_is_known(whole):
    mine = SMALL[SMALL["experiment"] == "scaled_lr"].assign(experiment="mine")
    study = Study.of(pd.concat([SMALL, mine]))
    fit = analyse(study).modes["mine"].critical
    known = replace(fit, estimate=12345.6, low=400.0, high=None)
    unknown = replace(fit, estimate=None, low=None, high=None)
    noise = NoiseScale(median=241.2, low=20.0, high=951.0, runs=4, epochs=40, measured=40)

    def at(target: float, critical: dict, noise_scales: dict) -> ToTarget:
        return ToTarget(target, study.epochs.iloc[:0], {}, critical, {}, {}, noise_scales)

    several = [
        at(0.5, {"scaled_lr": known, "mine": known}, {"scaled_lr": noise, "mine": None}),
        at(0.7, {"scaled_lr": unknown, "mine": unknown}, {"scaled_lr": noise, "mine": noise}),
    ]
    assert several_targets(several, study) == [
        ["50.0 %", "linearly scaled rate", "12300", "≥ 400", "241", "20–951"],
        ["50.0 %", "mine", "12300", "≥ 400", "–", ""],
    ]
    said = json.loads((whole.parent / "report.json").read_text(encoding="utf-8"))
    found = found_in(EPOCHS)
    tabled = list(dict.fromkeys(row[0] for row in said["targets"]))
    # Two tenths below the target, the target, and the threshold itself.
    assert found.target < found.threshold.accuracy
    tenths = [tenth / 10 for tenth in range(10) if tenth / 10 < found.target][-2:]
    expected = [words.percent(each) for each in (*tenths, found.target, found.threshold.accuracy)]
    assert tabled == [each for each in expected if each in tabled]
    assert words.percent(found.target) in tabled
    assert len(tabled) >= 3
    for row in said["targets"]:
        assert row[2] != "–"
    assert "The critical batch size at several targets" in text(whole)


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
