"""What the report says: every sentence and table that depends on the records, as text for `report.typ` to lay out.

    said = contents(analyse(Study.load("data")))
    said["abstract"]                                            # a list of sentences

Pure functions: no files, no clock. Sentences about results are those of `analysis.sentences`; here they are put in the
report's order, and the tables are made.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from batchscale.analysis import sentences, summary, tables
from batchscale.analysis.breaking_point import CURRENCIES, BreakingPoint
from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.findings import Findings, NoiseScale, ToTarget
from batchscale.analysis.words import (
    UNDETERMINED,
    count,
    exact,
    goal,
    images,
    interval,
    listed,
    number,
    sentence,
    verdict_size,
)
from batchscale.experiment import LARGE_BATCH_SIZES, SMALL_BATCH_SIZES, WIDTH, Experiment
from batchscale.modes import Mode
from batchscale.records.study import RUN, Study

NOT_RECORDED = "not recorded"
_MODES_ABREAST = 5  # in the table of accuracies; more go into a further one
# What the table of settings shows, from the content of a sidecar. A KeyError there is a sidecar of an older version.
# None is a setting that this run does not have.
_FACTS: dict[str, Callable[[dict], object]] = {
    "data set": lambda sidecar: sidecar["experiment"]["dataset"],
    "training images": lambda sidecar: sidecar["train_images"],
    "test images": lambda sidecar: sidecar["test_images"],
    "augmentation": lambda sidecar: sentences.AUGMENTATIONS.get(_setting(sidecar, "augment")),
    "network": lambda sidecar: sidecar["experiment"]["model"],
    "width": lambda sidecar: sidecar["experiment"]["width"],
    "parameters": lambda sidecar: sidecar["parameters"],
    "base learning rate": lambda sidecar: sidecar["experiment"]["base_lr"],
    "reference batch size": lambda sidecar: sidecar["experiment"]["reference_batch_size"],
    "decay of the rate": lambda sidecar: None if (decay := _setting(sidecar, "decay")) == "none" else decay,
    "optimizer": lambda sidecar: None if _setting(sidecar, "optimizer") == "sgd" else _optimizer(sidecar),
    "momentum": lambda sidecar: sidecar["experiment"]["momentum"] if _setting(sidecar, "optimizer") == "sgd" else None,
    "weight decay": lambda sidecar: sidecar["experiment"]["weight_decay"],
    "precision": lambda sidecar: sidecar["experiment"]["precision"],
    "PyTorch": lambda sidecar: sidecar["versions"]["torch"],
    "device": lambda sidecar: f"{sidecar['device']['name']} ({sidecar['device']['type']})",
}
_ONLY_WHERE_ANY = ("augmentation", "decay of the rate", "optimizer", "momentum")  # of these runs has one


def contents(found: Findings) -> dict:
    """All text of the report that depends on the records.

    Returns:
        Text, sentences (lists of text), and tables (lists of rows of text); an empty list where there is nothing to
        say, None for the target where there is none.
    """
    study = found.trained
    facts = {name: _values(study, of) for name, of in _FACTS.items()}
    accuracies = [sentences.accuracy(mode, found.threshold) for mode in found.modes.values()]
    return {
        "built_from": built_from(study),
        "abstract": [
            _scope(study, facts),
            *sentences.threshold(found.threshold),
            *(accuracies if len(accuracies) <= 3 else sentences.accuracies(found)),
            *sentences.comparison(found),
            *sentences.best_rates(found)[:1],
            *sentences.critical_batch_sizes(found),
        ],
        "provenance": _provenance(study, facts),
        "settings": _settings(facts) if study.sidecars else [],
        "modes": [_mode(mode, study) for mode in study.modes.values()],
        "threshold": sentences.threshold(found.threshold),
        "accuracy": accuracies or ["No larger minibatches are recorded."],
        "accuracies": _accuracies(found),
        "effects": sentences.effects(found),
        "landscape": sentences.landscape(found),
        "updates": sentences.updates(found),
        "breaking_points": sentences.breaking_points(found),
        "verdicts": verdicts(found),
        "open": list(map(list, summary.reasons(found))),
        "time": sentences.time(found),
        "frontier": sentences.frontier(found),
        "discussion": [*sentences.comparison(found), *sentences.smallest(found)],
        "missing": [sentence(str(remark)) for remark in found.remarks],
        "target": None if found.target is None else goal(found.target),
        "target_reason": None if found.to_target.reason is None else sentence(str(found.to_target.reason)),
        "study": _study(),
        "optimizer": _trained_by(study),
        "decay": study.setting("decay"),
    }


def built_from(study: Study) -> str:
    """Which records: their folder and number, without a full stop."""
    runs, modes = count(len(study.runs), "run"), count(len(study.modes), "mode")
    return f"Built from the folder {study.folder}: {runs} of {modes} of training, {count(len(study.epochs), 'epoch')}"


def verdicts(found: Findings) -> list[list]:
    """Label, and value and interval of the three breaking points, the critical batch size and the noise scale."""
    rows = []
    for mode in found.modes.values():
        points = [mode.breaking_points[currency] for currency in CURRENCIES]
        rows.append([mode.mode.label, *map(_estimate, (*points, mode.critical)), _median(mode.noise_scale)])
    said = any(cell != [UNDETERMINED, ""] for _, *cells in rows for cell in cells)
    return rows if said else []


def _estimate(found: BreakingPoint | CriticalBatchSize) -> list[str]:
    return [verdict_size(found), interval(*found.interval)]


def _median(noise: NoiseScale | None) -> list[str]:
    return [UNDETERMINED, ""] if noise is None else [number(noise.median), interval(noise.low, noise.high)]


def beside(others: Mapping[str, Findings]) -> list[dict]:
    """The verdicts of other studies, by their folders; nothing of one that decides nothing: none has an interval."""
    sections = []
    for folder, found in others.items():
        rows, digest = verdicts(found), found.study.digest
        if any(interval for _, *cells in rows for _, interval in cells[:-1]):  # the noise scale's is a range
            head = f"{folder}: {sentences.settings(found.study)}; SHA-256 {digest[:12]}…"
            sections.append({"folder": folder, "digest": digest, "verdicts": rows, "head": head})
    return sections


def predicted(found: Findings, advice: dict | None, folder: str = "") -> list[list]:
    """What `advise` predicted beside what was measured: label, value and interval of the breaking point in accuracy of
    both, and the cost of the prediction as a share of the training time of the runs that measured it.

    Args:
        found: of the records.
        advice: of `records.advice.read`.
        folder: of the records, to be named with the label; empty: the label stands alone.
    """
    rows = []
    for name, mode in found.modes.items() if advice is not None else ():
        rule = advice["rules"].get(mode.mode.lr_scaling)
        if rule is None:
            continue
        least = "≥ " if rule["is_at_least"] else ""
        guess = [
            f"{least}{images(rule['estimate'])}" if rule["estimate"] is not None else UNDETERMINED,
            interval(rule["low"], rule["high"]),
        ]
        seconds = found.epochs_of(name).groupby(RUN)["running_time"].max().sum()
        cost = f"{100 * advice['seconds'] / seconds:.1f} %" if seconds > 0 else UNDETERMINED
        label = f"{folder}: {mode.mode.label}" if folder else mode.mode.label
        rows.append([label, guess, _estimate(mode.breaking_points["accuracy"]), cost])
    return rows


def several_targets(at: Iterable[ToTarget], study: Study) -> list[list[str]]:
    """What is known at several targets, as text: target, label, and value and interval of the critical batch size and
    of the noise scale on the way there; only where a critical batch size is determined."""
    rows = []
    for each in at:
        for name, fit in each.critical.items():
            if fit.estimate is None:
                continue
            critical = [number(fit.estimate), interval(*fit.interval)]
            rows.append([goal(each.target), study.modes[name].label, *critical, *_median(each.noise_scales[name])])
    return rows


def _setting(sidecar: dict, field: str):
    """A field of the experiment, with the default that stands for what was done before there was such a field."""
    return sidecar["experiment"].get(field, getattr(Experiment, field))


def _optimizer(sidecar: dict) -> str:
    return sentences.optimizer(*(_setting(sidecar, field) for field in ("optimizer", "momentum")))


def _values(study: Study, of: Callable[[dict], object]) -> Counter:
    """The values of a fact, as text, with the number of runs that have it."""
    values = Counter()
    for sidecar in study.sidecars.values():
        try:
            value = of(sidecar)
        except (KeyError, TypeError):  # an older sidecar, or one that was written by hand
            continue
        if value is not None:
            values[exact(value)] += 1
    return values


def _settings(facts: dict[str, Counter]) -> list[list[str]]:
    return [[name, _shown(values)] for name, values in facts.items() if values or name not in _ONLY_WHERE_ANY]


def _shown(values: Counter) -> str:
    if len(values) > 1:
        return "; ".join(f"{value} ({count(runs, 'run')})" for value, runs in values.items())
    return next(iter(values), NOT_RECORDED)


def _scope(study: Study, facts: dict[str, Counter]) -> str:
    sizes, seeds = study.runs["batch_size"], study.runs["seed"].nunique()
    of = f"of {sizes.min()}" if sizes.nunique() == 1 else f"from {sizes.min()} to {sizes.max()}"
    data_sets, widths, devices = (facts[name] for name in ("data set", "width", "device"))
    on = f"on the data set {listed(data_sets)}" if data_sets else "on a data set that is not recorded"
    at = f" at width {listed(widths)}" if widths else ""
    by = f", trained on {listed(devices)}" if devices else ""
    runs = count(len(study.runs), "run")
    return f"This report rests on {runs} {on}{at}{by}, with batch sizes {of} and {count(seeds, 'seed')}."


def _provenance(study: Study, facts: dict[str, Counter]) -> list[str]:
    known, runs = len(study.sidecars), len(study.runs)
    if not known:
        return [f"No sidecars lie beside these records: the {listed(facts)} are {NOT_RECORDED}."]
    said = []
    if known < runs:
        said.append(f"Sidecars lie beside {known} of the {runs} runs; how the others were trained is not recorded.")
    differing = [name for name, values in facts.items() if len(values) > 1]
    if differing:
        said.append(f"The sidecars disagree on the {listed(differing)}: runs that are compared may differ in that too.")
    return said or ["The sidecars of all runs agree on these settings."]


def _mode(mode: Mode, study: Study) -> list[str]:
    """Label, name, rule, batch sizes, epochs, seeds and number of runs."""
    runs = study.runs[study.runs["experiment"] == mode.name]
    lengths = tables.planned_epochs(study)
    lengths = sorted({int(length) for (name, _), length in lengths.dropna().items() if name == mode.name})
    settings = next((settings for run, settings in study.settings.items() if run[0] == mode.name), None)
    sizes, seeds = (sorted(set(runs[column])) for column in ("batch_size", "seed"))
    sizes, epochs, shown = (", ".join(map(str, each)) for each in (sizes, lengths, seeds))
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        shown = f"{seeds[0]} to {seeds[-1]}"
    return [mode.label, mode.name, _rule(mode, settings), sizes, epochs or UNDETERMINED, shown, str(len(runs))]


def _rule(mode: Mode, settings: dict | None) -> str:
    if settings is None:
        return NOT_RECORDED
    scaling = {"none": "base rate", "linear": "linear", "sqrt": "square root"}[mode.lr_scaling]
    if mode.warmup == "none":
        return scaling
    return f"{scaling}, {mode.warmup} warm-up of {count(settings['warmup_epochs'], 'epoch')}"


def _accuracies(found: Findings) -> list[dict]:
    """Tables of final accuracy, one row per batch size and one column per mode."""
    table, shown = summary.accuracies(found), []
    for first in range(0, table.shape[1], _MODES_ABREAST):
        abreast = table.iloc[:, first : first + _MODES_ABREAST]
        abreast = abreast[(abreast != "").any(axis=1)]
        rows = [[str(size), *row] for size, *row in abreast.itertuples(name=None)]
        shown.append({"head": ["batch size", *abreast.columns], "rows": rows})
    return shown


def _trained_by(study: Study) -> str:
    """The optimizer in the description of the method; where the records do not say, that of the study's defaults."""
    name, momentum, whose = study.setting("optimizer"), study.setting("momentum"), ""
    if name is None:
        name, momentum, whose = Experiment.optimizer, Experiment.momentum, " in the study"
    return re.sub("^SGD ", "stochastic gradient descent ", sentences.optimizer(name, momentum)) + whose


def _study() -> dict[str, str]:
    """The study's defaults, for the description of the method."""
    default = Experiment(batch_size=1)
    fields = ("base_lr", "reference_batch_size", "epochs", "warmup_epochs")
    ranges = {"small": SMALL_BATCH_SIZES, "large": LARGE_BATCH_SIZES}
    return (
        {field: number(getattr(default, field)) for field in fields}
        | {name: f"{sizes[0]} to {sizes[-1]}" for name, sizes in ranges.items()}
        | {"width": number(WIDTH)}
    )
