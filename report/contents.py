"""What the report says: every sentence and table that depends on the records, as text for `report.typ` to lay out.

    said = contents(load("data"), sidecars("data"), result)     # result: of findings.analyse
    said["abstract"]                                            # a list of sentences

Pure functions: no files, no clock. A sentence that the records do not bear out is not written; what they cannot say is
said to be unknown, with the reason.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import pandas as pd

from batchscale.analysis import tables
from batchscale.analysis.breaking_point import accuracy_losses
from batchscale.analysis.findings import CURRENCIES, rule_of
from batchscale.analysis.plots import mode_label
from batchscale.analysis.tables import RUN, Run
from batchscale.experiment import LARGE_BATCH_SIZES, SMALL_BATCH_SIZES, Experiment
from batchscale.modes import MODES

NOT_RECORDED = "not recorded"
_MODES_ABREAST = 5  # in the table of accuracies; more go into a further one
_SETTINGS: dict[str, Callable[[dict], object]] = {
    "data set": lambda sidecar: sidecar["experiment"].get("dataset"),
    "training images": lambda sidecar: sidecar.get("train_images"),
    "test images": lambda sidecar: sidecar.get("test_images"),
    "network": lambda sidecar: sidecar["experiment"].get("model"),
    "width": lambda sidecar: sidecar["experiment"].get("width"),
    "parameters": lambda sidecar: sidecar.get("parameters"),
    "base learning rate": lambda sidecar: sidecar["experiment"].get("base_lr"),
    "reference batch size": lambda sidecar: sidecar["experiment"].get("reference_batch_size"),
    "momentum": lambda sidecar: sidecar["experiment"].get("momentum"),
    "weight decay": lambda sidecar: sidecar["experiment"].get("weight_decay"),
    "precision": lambda sidecar: sidecar["experiment"].get("precision"),
    "torch": lambda sidecar: sidecar["versions"]["torch"],
    "device": lambda sidecar: f"{sidecar['device']['name']} ({sidecar['device']['type']})",
}


def contents(
    records: pd.DataFrame, sidecars: Iterable[dict], result: dict, diverged: Collection[Run] = (), folder: str = "data"
) -> dict:
    """All text of the report that depends on the records.

    Args:
        records: tidy frame, see `records.load`.
        sidecars: contents, see `records.sidecars`; those of runs that are not among the records do not count.
        result: of `findings.analyse`, for these records.
        diverged: runs that diverged.
        folder: what the folder of the records is called.

    Returns:
        Text, sentences (lists of text), and tables (lists of rows of text); an empty list where there is nothing to
        say, None for the target where there is none.
    """
    runs = pd.concat([records[RUN], pd.DataFrame(list(diverged), columns=RUN)] if diverged else [records[RUN]])
    runs = runs.drop_duplicates().sort_values(RUN)
    names = tables.in_order(runs["experiment"])
    known = {_run(sidecar["experiment"]): sidecar for sidecar in sidecars}
    known = {run: known[run] for run in runs.itertuples(index=False, name=None) if run in known}
    settings = {name: _values(known.values(), of) for name, of in _SETTINGS.items()}
    finals = tables.final(tables.without(records, diverged))
    return {
        "built_from": (
            f"Built from the folder {folder}: {_count(len(runs), 'run')} of {_count(len(names), 'mode')} of training, "
            f"{_count(len(records), 'recorded epoch')}"
        ),
        "abstract": [
            _scope(runs, settings),
            *_threshold(result),
            *(_accuracy(result) if len(result["modes"]) <= 3 else []),
            *_critical_batch_sizes_in_short(result),
            *_discussion(result)[:1],
        ],
        "provenance": _provenance(settings, len(known), len(runs)),
        "settings": [[name, _shown(values)] for name, values in settings.items()] if known else [],
        "modes": [_mode(name, runs[runs["experiment"] == name], records, known) for name in names],
        "threshold": _threshold(result),
        "accuracy": _accuracy(result),
        "accuracies": _accuracies(finals, diverged, names),
        "effects": _effects(result),
        "updates": _updates(result),
        "noise_scales": _noise_scales(result),
        "breaking_points": _breaking_points(result),
        "verdicts": _verdicts(result),
        "open": _open(result),
        "time": _time(result),
        "frontier": _frontier(result, _devices(known)),
        "discussion": _discussion(result),
        "missing": _missing(result),
        "target": None if result["target"] is None else _percent(result["target"]),
        "study": _study(),
    }


def learning_rates(records: pd.DataFrame, diverged: Collection[Run] = ()) -> list[list[str]]:
    """The runs of a check of learning rates: name, batch size, learning rate, epochs, seeds and accuracy, as text.

    A row a name, batch size, rate of the last update, and number of epochs; a run that diverged has no accuracy.
    """
    last = tables.without(records, diverged).sort_values("epoch").groupby(RUN, as_index=False).tail(1)
    groups = last.groupby(["experiment", "batch_size", "learning_rate", "epoch"], dropna=False)["accuracy"]
    rows = [
        [name, str(size), "–" if pd.isna(rate) else f"{rate:.4g}", str(epoch), str(len(values)), _mean(values)]
        for (name, size, rate, epoch), values in groups
    ]
    return rows + [[name, str(size), "–", "–", "1", "diverged"] for name, size, _ in sorted(diverged)]


def lower_targets(rows: Iterable[dict]) -> list[list[str]]:
    """The rows of `findings.by_target` in which a critical batch size is known, as text: target, label, and value and
    interval of the critical batch size and of the noise scale."""
    shown = []
    for row in rows:
        fit, noise = row["critical_batch_size"], row["noise_scale"] or {}
        if fit["estimate"] is not None:
            cells = [fit["estimate"], fit["low"], fit["high"]], [noise.get(key) for key in ("median", "low", "high")]
            texts = [text for value, low, high in cells for text in (_number(value), _interval(low, high))]
            shown.append([_percent(row["target"]), _label(row["experiment"]), *texts])
    return shown


# What the records are


def _run(experiment: dict) -> Run:
    return experiment["name"], int(experiment["batch_size"]), int(experiment["seed"])


def _values(sidecars: Iterable[dict], of: Callable[[dict], object]) -> Counter:
    """The values of a setting, as text, with the number of runs that have it."""
    values = Counter()
    for sidecar in sidecars:
        try:
            value = of(sidecar)
        except (KeyError, TypeError):  # an older sidecar, or one that was written by hand
            continue
        if value is not None:
            exact = (
                f"{value:.12g}"
                if isinstance(value, float)
                else _number(value)
                if isinstance(value, int)
                else str(value)
            )
            values[exact] += 1
    return values


def _devices(known: dict[Run, dict]) -> dict[int, Counter]:
    """By seed, as `_values`."""
    return {
        seed: _values((sidecar for run, sidecar in known.items() if run[2] == seed), _SETTINGS["device"])
        for seed in {run[2] for run in known}
    }


def _shown(values: Counter) -> str:
    if len(values) > 1:
        return "; ".join(f"{value} ({_count(count, 'run')})" for value, count in values.items())
    return next(iter(values), NOT_RECORDED)


def _provenance(settings: dict[str, Counter], known: int, runs: int) -> list[str]:
    if not known:
        return [f"No sidecars lie beside these records: the {_listed(settings)} are {NOT_RECORDED}."]
    sentences = []
    if known < runs:
        sentences.append(
            f"Sidecars lie beside {known} of the {runs} runs; how and where the others were trained is not recorded."
        )
    differing = [name for name, values in settings.items() if len(values) > 1]
    if differing:
        sentences.append(
            f"The sidecars disagree on the {_listed(differing)}: runs that are compared may differ in that too."
        )
    return sentences or ["The sidecars of all runs agree on these settings."]


def _mode(name: str, runs: pd.DataFrame, records: pd.DataFrame, known: dict[Run, dict]) -> list[str]:
    """Label, name, rule, batch sizes, epochs, seeds and number of runs."""
    rules = _values((sidecar for run, sidecar in known.items() if run[0] == name), _rule)
    lengths = tables.planned_epochs(records).to_dict()
    sizes, seeds = (", ".join(map(str, sorted(set(runs[column])))) for column in ("batch_size", "seed"))
    return [_label(name), name, _shown(rules), sizes, str(lengths.get(name, "–")), seeds, str(len(runs))]


def _rule(sidecar: dict) -> str:
    experiment = sidecar["experiment"]
    scaling = {"none": "base rate", "linear": "linear", "sqrt": "square root"}[experiment["lr_scaling"]]
    if experiment["warmup"] == "none":
        return scaling
    return f"{scaling}, {experiment['warmup']} warm-up of {_count(experiment['warmup_epochs'], 'epoch')}"


def _scope(runs: pd.DataFrame, settings: dict[str, Counter]) -> str:
    sizes, seeds = runs["batch_size"], runs["seed"].nunique()
    of = f"of {sizes.min()}" if sizes.nunique() == 1 else f"from {sizes.min()} to {sizes.max()}"
    data_sets, widths, devices = (settings[name] for name in ("data set", "width", "device"))
    on = f"on the data set {_listed(data_sets)}" if data_sets else "on a data set that is not recorded"
    at = f" at width {_listed(widths)}" if widths else ""
    by = f", trained on {_listed(devices)}" if devices else ""
    return (
        f"This report rests on {_count(len(runs), 'run')} {on}{at}{by}, with batch sizes {of} and "
        f"{_count(seeds, 'seed')}."
    )


def _study() -> dict[str, str]:
    """The study's defaults, for the description of the method."""
    default = Experiment(batch_size=1)
    fields = ("base_lr", "reference_batch_size", "momentum", "epochs", "warmup_epochs")
    ranges = {"small": SMALL_BATCH_SIZES, "large": LARGE_BATCH_SIZES}
    return {field: _number(getattr(default, field)) for field in fields} | {
        name: f"{sizes[0]} to {sizes[-1]}" for name, sizes in ranges.items()
    }


# What they say


def _threshold(result: dict) -> list[str]:
    threshold = result["threshold"]
    if threshold is None:
        return ["No run with small minibatches is finished, so there is no accuracy that a larger one has to keep."]
    interval = "one seed, no interval"
    if threshold["low"] is not None:
        low, high = (f"{100 * threshold[bound]:.1f}" for bound in ("low", "high"))
        interval = f"{_count(threshold['seeds'], 'seed')}; 95 % interval of the mean {low} to {high} %"
    return [
        f"The best of the small minibatches, that of {_count(threshold['from_batch_size'], 'image')}, reaches a test "
        f"accuracy of {_percent(threshold['best'], threshold['standard_deviation'])} ({interval}).",
        f"If a loss of {_points(threshold['tolerance'])} is allowed, a larger minibatch has to keep "
        f"{_percent(threshold['accuracy'])}.",
    ]


def _accuracy(result: dict) -> list[str]:
    if not result["modes"]:
        return ["No larger minibatches are recorded."]
    return [mode["sentence"] for mode in result["modes"].values()]


def _accuracies(finals: pd.DataFrame, diverged: Collection[Run], names: Sequence[str]) -> list[dict]:
    """Tables of final accuracy, a row a batch size and a column a mode."""
    columns = {}
    for name in names:
        of_mode = accuracy_losses(
            finals[finals["experiment"] == name], None, [run for run in diverged if run[0] == name]
        )
        columns[name] = {row.batch_size: _cell(row) for row in of_mode.itertuples()}
    tables = []
    for first in range(0, len(names), _MODES_ABREAST):
        abreast = names[first : first + _MODES_ABREAST]
        sizes = sorted({size for name in abreast for size in columns[name]})
        rows = [[str(size), *(columns[name].get(size, "") for name in abreast)] for size in sizes]
        tables.append({"head": ["batch size", *map(_label, abreast)], "rows": rows})
    return [table for table in tables if table["rows"]]


def _cell(row) -> str:
    parts = [_percent(row.accuracy, row.standard_deviation) + f" ({row.seeds})"] if row.seeds else []
    return "; ".join(parts + ([f"{row.diverged} diverged"] if row.diverged else []))


def _effects(result: dict) -> list[str]:
    sentences = []
    for effect in result["effects"]:
        what = f"what {effect['effect']} adds ({_label(effect['of'])} less {_label(effect['over'])})"
        rows = effect["batch_sizes"]
        known = [row for row in rows if row["difference"] is not None]
        if not known:
            reason = effect["reason"] or "there are too few pairs of equal seeds"
            sentences.append(_sentence(f"{what} is not known: {reason}"))
            continue
        kinds = {
            "raises": [row for row in known if row["low"] > 0],
            "lowers": [row for row in known if row["high"] < 0],
        }
        name = effect["effect"]
        for verb, of_kind in kinds.items():
            if of_kind:
                amounts = [100 * abs(row["difference"]) for row in of_kind]
                sentences.append(
                    _sentence(f"{name} {verb} the accuracy by {_range(amounts)} points {_at(of_kind, rows)}")
                )
        undecided = [row for row in known if row["low"] <= 0 <= row["high"]]
        if undecided:
            sentences.append(_sentence(f"{_at(undecided, rows)} the 95 % interval of what {name} adds includes zero"))
        unpaired = [row for row in rows if row["difference"] is None]
        if unpaired:
            sentences.append(_sentence(f"{_at(unpaired, rows)} too few seeds are paired to tell what {name} adds"))
    return sentences


def _updates(result: dict) -> list[str]:
    if result["target"] is None:
        return ["There is no threshold, and so no target: neither updates nor time to target can be given."]
    sentences = []
    for name, mode in result["modes"].items():
        fit = mode["critical_batch_size"]
        if fit["estimate"] is None:
            sentences.append(f"Under {_rule_of(name)} the critical batch size is {_unknown(fit['reason'])}.")
        else:
            least = ""
            if fit["steps_min"] is not None:
                least = (
                    f"; the target takes at least {_number(fit['steps_min'])} updates however large the minibatch, and "
                    f"{_number(fit['examples_min'])} images however small"
                )
            sentences.append(
                f"Under {_rule_of(name)} the critical batch size is {_estimate(fit)}{least}."
                + (f" It is {fit['reason']}." if fit["reason"] else "")
            )
        if fit["right_censored"]:
            sentences.append(
                f"Of the {_count(fit['runs'], 'run')} behind this, {fit['right_censored']} never reached the target; "
                f"what they made counts as a lower bound."
            )
    return sentences


def _critical_batch_sizes_in_short(result: dict) -> list[str]:
    fits = {name: mode["critical_batch_size"] for name, mode in result["modes"].items()}
    known = [f"{_estimate(fit)} under {_rule_of(name)}" for name, fit in fits.items() if fit["estimate"] is not None]
    if known:
        sentence = f"The critical batch size for the updates to {_percent(result['target'])} is {_listed(known)}"
        extrapolated = any(fit["reason"] for fit in fits.values() if fit["estimate"] is not None)
        return [f"{sentence}{', in part extrapolated' if extrapolated else ''}."]
    return ["A critical batch size cannot be told from these records."] if fits else []


def _noise_scales(result: dict) -> list[str]:
    sentences = []
    for name, mode in result["modes"].items():
        noise, fit = mode["noise_scale"], mode["critical_batch_size"]
        if noise is None:
            continue
        if noise["median"] is None:
            sentences.append(
                f"Under {_rule_of(name)} the gradient noise scale was {noise['reason']}, where the noise hides the "
                f"gradient, so that it has no median; the smallest measured is {_number(noise['low'])} images."
            )
            continue
        beside = f"; it was {noise['reason']}" if noise["reason"] else ""
        if fit["estimate"] is not None:
            low, high = fit["low"] or 0, fit["high"] or math.inf
            where = "below" if noise["median"] < low else "above" if noise["median"] > high else "within"
            beside += f"; the median lies {where} the interval of the critical batch size"
        upwards = "upwards" if noise["high"] is None else f"to {_number(noise['high'])}"
        sentences.append(
            f"Under {_rule_of(name)} the gradient noise scale has a median of {_number(noise['median'])} images and "
            f"goes from {_number(noise['low'])} {upwards} over the epochs and runs{beside}."
        )
    missing = [_rule_of(name) for name, mode in result["modes"].items() if mode["noise_scale"] is None]
    if missing:
        whom = f" under {_listed(missing)}" if sentences else ""
        sentences.append(f"The gradient noise scale was not measured{whom}.")
    return sentences


def _breaking_points(result: dict) -> list[str]:
    """A sentence a mode with the three verdicts side by side."""
    says = {
        "accuracy": "keep the accuracy",
        "updates": "save updates in proportion to their size",
        "time": "shorten the time to target",
    }
    sentences = []
    for name, mode in result["modes"].items():
        breaking = mode["breaking_point"]
        known = [f"{says[currency]} up to {breaking[currency]}" for currency in CURRENCIES if breaking[currency]]
        unknown = [currency for currency in CURRENCIES if breaking[currency] is None]
        without = f"no breaking point in {_listed(unknown, 'or')} is found among the recorded batch sizes"
        if known:
            rest = f"; {without}" if unknown else ""
            sentences.append(f"Under {_rule_of(name)} larger minibatches {_listed(known)}{rest}.")
        else:
            sentences.append(f"Under {_rule_of(name)} {without}.")
    return sentences


def _verdicts(result: dict) -> list[list]:
    """Label, and value and interval of the three breaking points, the critical batch size and the noise scale."""
    rows = []
    for name, mode in result["modes"].items():
        breaking, fit, noise = mode["breaking_point"], mode["critical_batch_size"], mode["noise_scale"] or {}
        cells = [[breaking[currency], *breaking["intervals"][currency]] for currency in CURRENCIES]
        cells += [[fit["estimate"], fit["low"], fit["high"]], [noise.get(key) for key in ("median", "low", "high")]]
        rows.append([_label(name), *([_number(value), _interval(low, high)] for value, low, high in cells)])
    said = any(cell != [_number(None), ""] for _, *cells in rows for cell in cells)
    return rows if said else []


def _open(result: dict) -> list[list[str]]:
    """Label of each mode with the reasons behind what the table of verdicts leaves open or qualifies."""
    rows = []
    for name, mode in result["modes"].items():
        reasons = {}
        for currency in CURRENCIES:
            reasons.setdefault(mode["breaking_point"]["reasons"][currency], []).append(currency)
        reasons.setdefault(mode["critical_batch_size"]["reason"], []).append("critical batch size")
        reasons.pop(None, None)
        listed = [f"{_listed(columns)}: {_bare(reason)}" for reason, columns in reasons.items()]
        if listed:
            rows.append([_label(name), f"{'; '.join(listed)}."])
    return rows


def _time(result: dict) -> list[str]:
    sentences = []
    for name, mode in result["modes"].items() if result["target"] is not None else ():
        times = {row["batch_size"]: row["running_time_to_target"] for row in mode["batch_sizes"]}
        times = {size: seconds for size, seconds in times.items() if seconds is not None}
        if not times:
            sizes = [row["batch_size"] for row in mode["batch_sizes"]]
            of = f"at {sizes[0]}" if len(sizes) == 1 else f"at any batch size from {sizes[0]} to {sizes[-1]}"
            sentences.append(f"Under {_rule_of(name)} not all runs reach the target {of}.")
            continue
        best, first = min(times, key=times.get), min(times)
        sentence = f"Under {_rule_of(name)} the target is reached soonest at {best}, in {_number(times[best])} s"
        if best != first:
            sentence += f" against {_number(times[first])} s at {first}"
        sentences.append(f"{sentence}.")
    return sentences


def _frontier(result: dict, devices: dict[int, Counter]) -> list[str]:
    rows = result["frontier"]
    best = [row for row in rows if not row["dominated"]]
    if not best:
        return ["No run is finished, so accuracy cannot be set against time."]

    def named(row: dict) -> str:
        return (
            f"{_label(row['experiment'])} at {row['batch_size']} ({_percent(row['accuracy'])} in "
            f"{_number(row['running_time'])} s)"
        )

    of = f"Of {_count(len(rows), 'combination')} of mode and batch size"
    if len(best) == 1:
        sentences = [f"{of} one is at once the fastest and the most accurate: {named(best[0])}."]
    else:
        sentences = [
            f"{of} {len(best)} are worth choosing: no other is at least as accurate in no more time. They go from "
            f"{named(best[0])} to {named(best[-1])}."
        ]
    if any(len(of_seed) > 1 for of_seed in devices.values()):
        sentences.append("The times are of different devices and cannot be compared.")
    elif len({name for of_seed in devices.values() for name in of_seed}) > 1:
        sentences.append(
            "Not all seeds were trained on the same device, but each on one: means over the same seeds can be compared."
        )
    return sentences


def _discussion(result: dict) -> list[str]:
    """Which rule goes furthest, and whether that is an end or only the end of the records."""
    modes, threshold = result["modes"], result["threshold"]
    if threshold is None or not modes:
        return []
    kept = {name: mode["breaking_point"]["accuracy"] for name, mode in modes.items()}
    known = {name: size for name, size in kept.items() if size is not None}
    if not known:
        return ["No recorded rule keeps the accuracy of the small minibatches at any larger batch size."]
    furthest = max(known.values())
    names = [name for name, size in known.items() if size == furthest]
    which = f"{_listed(map(_rule_of, names))} keep{'s' if len(names) == 1 else ''} the accuracy up to"
    sentence = f"Of the rules compared, {which} the largest minibatch, {furthest} images"
    if len(modes) == 1:
        sentence = f"{which[0].upper()}{which[1:]} {furthest} images"
    ends = [name for name in names if furthest == modes[name]["batch_sizes"][-1]["batch_size"]]
    if ends:
        whom = "" if ends == names else f"for {_listed(map(_rule_of, ends))} "
        sentence += f"; {whom}that is the largest recorded, and the end may lie beyond it"
    sentences = [f"{sentence}."]
    lost = [name for name in modes if name not in known and modes[name]["batch_sizes"]]
    if lost:
        sentences.append(f"No batch size recorded for {_listed(map(_rule_of, lost))} keeps it.")
    smallest = [_smallest(name, modes[name]["breaking_point"]) for name in known]
    sentences.append(f"The smallest of the breaking points that are known is {_listed(smallest)}.")
    return sentences


def _smallest(name: str, breaking: dict) -> str:
    known = {currency: breaking[currency] for currency in CURRENCIES if breaking[currency] is not None}
    least = min(known.values())
    currencies = [currency for currency, size in known.items() if size == least]
    return f"{least} for {_rule_of(name)} (in {_listed(currencies)})"


def _missing(result: dict) -> list[str]:
    openings = {r"no records": "there are ", r"no finished": "there is ", r".+ B=\d+ seed \d+ ": "the run "}
    sentences = []
    for remark in result["missing"]:
        opening = next((words for start, words in openings.items() if re.match(start, remark)), "")
        sentences.append(_sentence(opening + remark))
    return sentences


# Words


def _label(name: str) -> str:
    return mode_label(name) if name in MODES else name


def _rule_of(name: str) -> str:
    return rule_of(name) if name in MODES else f"“{name}”"


def _estimate(fit: dict) -> str:
    return f"{_number(fit['estimate'])} (95 % interval {_number(fit['low'])} to {_number(fit['high'])})"


def _unknown(reason: str) -> str:
    bare = _bare(reason)
    return f"not determined by these data: {bare}" if bare != reason else f"not known ({reason})"


def _bare(reason: str) -> str:
    return reason.removeprefix("not determined by these data: ")


def _at(rows: Sequence[dict], among: Sequence[dict]) -> str:
    """At which batch sizes, the shortest way to say it."""
    sizes, all_sizes = ([row["batch_size"] for row in some] for some in (rows, among))
    start = all_sizes.index(sizes[0])
    if len(sizes) > 2 and sizes == all_sizes[start : start + len(sizes)]:
        return f"at batch sizes from {sizes[0]} to {sizes[-1]}"
    return f"at {_listed(map(str, sizes))}"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if low is None:
        return f"≤ {_number(high)}"
    return f"≥ {_number(low)}" if high is None else f"{_number(low)}–{_number(high)}"


def _number(value: float | None) -> str:
    """Whole numbers in full, others with three digits; thousands parted by a thin space from 10 000 on."""
    if value is None:
        return "–"
    if isinstance(value, float):
        value = float(f"{value:.3g}")
        if not value.is_integer():
            return f"{value:g}"
    return f"{int(value):,}".replace(",", "\u202f" if abs(value) >= 10_000 else "")


def _percent(value: float, deviation: float | None = None) -> str:
    spread = "" if deviation is None or pd.isna(deviation) else f" ± {100 * deviation:.1f}"
    return f"{100 * value:.1f}{spread} %"


def _mean(values: pd.Series) -> str:
    return _percent(values.mean(), values.std())


def _points(value: float) -> str:
    return f"{100 * value:g} point{'' if round(100 * value, 9) == 1 else 's'}"


def _count(number: float, what: str) -> str:
    return f"{_number(number)} {what}{'' if number == 1 else 's'}"


def _listed(items: Iterable[str], last: str = "and") -> str:
    *first, end = [*items] or [""]
    return f"{', '.join(first)} {last} {end}" if first else end


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
