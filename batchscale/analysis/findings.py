"""Everything that the records say, as one plain value, and in words.

    result = analyse(records.load("data"))       # dicts, lists, numbers, text and None: json.dumps takes it
    result["modes"]["scaled_lr"]["breaking_point"]["accuracy"]
    print(text(result, width=80))                # a table, a sentence a mode, and what is missing

Pure functions: no files, no clock.
"""

import itertools
import math
import textwrap
from collections.abc import Collection, Iterable
from dataclasses import asdict

import numpy as np
import pandas as pd

from batchscale.analysis import tables
from batchscale.analysis.breaking_point import accuracy_losses, in_accuracy, in_time, in_updates
from batchscale.analysis.critical_batch_size import critical_batch_size
from batchscale.analysis.tables import COMPARISONS, RUN, Run, Threshold
from batchscale.modes import MODES

CURRENCIES = ("accuracy", "updates", "time")
_RULES = {
    "baseline_large": "the base rate",
    "scaled_lr": "the linear rule without warm-up",
    "gradual_warmup_scaled_lr": "the linear rule with gradual warm-up",
}


def analyse(
    records: pd.DataFrame,
    *,
    tolerance: float = 0.01,
    target: float | None = None,
    of: str = "best",
    diverged: Collection[Run] = (),
) -> dict:
    """Threshold, breaking points, critical batch sizes, effects and frontier of all records.

    The curves of baseline_large, updates and time to target, begin with the runs of baseline_small: it is one rule, the
    base rate, at smaller batch sizes (where both have a batch size and seed, the former's run counts). Its accuracy is
    judged without them, since they set the threshold. The scaled modes stay by themselves: which of the small batch
    sizes are below their reference batch size, a CSV does not say.

    Args:
        records: tidy frame, see `records.load`; possibly empty.
        tolerance, of: of the threshold, see `tables.threshold`.
        target: accuracy, 0-1, of updates and time to target; None: the threshold's.
        diverged: runs that diverged, see `records.diverged`.

    Returns:
        `threshold`, `target`, `modes` (by name: `breaking_point`, `critical_batch_size`, `batch_sizes`, `regimes`,
        `noise_scale`, `sentence`, ...), `effects`, `frontier`, `missing` (sentences: what was left out, and why).
        Fractions are 0-1, times seconds, intervals 95 %. None is what the records cannot say; a `reason` lies beside
        it.
    """
    finals = tables.final(tables.without(records, diverged))
    found = tables.threshold(records, tolerance, of=of, diverged=diverged)
    target = found.accuracy if target is None and found is not None else target
    runs = tables.to_target(records, math.inf if target is None else target, diverged)
    names = {*records["experiment"], *(name for name, _, _ in diverged)}
    noise = tables.noise_scales(records)
    result = {
        "runs": len(runs),
        "threshold": None if found is None else _threshold(found, finals),
        "target": target,
        "modes": {
            name: _mode(name, finals, runs, noise, found, target, diverged)
            for name in tables.in_order(names)
            if name != "baseline_small"
        },
        "effects": _effects(finals),
        "frontier": _frontier(finals),
        "missing": _missing(records, finals, found, target, names, diverged),
    }
    return plain(result)


def curve(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of `tables.to_target` that make up a mode's curve: baseline_large's begins with baseline_small's."""
    own = runs[runs["experiment"] == name]
    if name != "baseline_large":
        return own
    small = runs[runs["experiment"] == "baseline_small"]
    twice = pd.MultiIndex.from_frame(small[RUN[1:]]).isin(pd.MultiIndex.from_frame(own[RUN[1:]]))
    return pd.concat([small[~twice], own]).sort_values(["batch_size", "seed"], ignore_index=True)


def curves(runs: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The curves of some modes together, every row under its curve's name; for no modes, `runs` as they are."""
    return pd.concat([curve(runs, name).assign(experiment=name) for name in names] or [runs])


def by_target(records: pd.DataFrame, targets: Iterable[float], diverged: Collection[Run] = ()) -> list[dict]:
    """How a mode's critical batch size depends on the accuracy asked for, beside the noise scale on the way there.

    The critical batch size is a property of the way to a target, and McCandlish et al. 2018 predict it to be near the
    gradient noise scale on that way, which grows as the loss falls.

    Args:
        records, diverged: as for `analyse`.
        targets: accuracies, 0-1.

    Returns:
        A row a target and mode: `target`, `experiment`, `critical_batch_size` as in `analyse`, and `noise_scale`: over
        the epochs of the mode's curve after which the accuracy is below the target, None where none was measured.
    """
    rows = []
    for target in targets:
        runs = tables.to_target(records, target, diverged)
        noise = tables.noise_scales(records[records["accuracy"] < target])
        for name in tables.in_order(set(runs["experiment"]) - {"baseline_small"}):
            fit, on_the_way = critical_batch_size(curve(runs, name)), _noise_scale(curve(noise, name))
            row = {"target": target, "experiment": name}
            rows.append(row | {"critical_batch_size": asdict(fit), "noise_scale": on_the_way})
    return plain(rows)


def rule_of(name: str) -> str:
    """How a mode's rule of learning rate is called in sentences; a name of the user's own stays as it is."""
    return _RULES.get(name, name)


def sentence(name: str, table: pd.DataFrame, threshold: Threshold | None, breaking: int | None) -> str:
    """A mode's accuracy verdict in one sentence; ± is the standard deviation over seeds.

    Args:
        name: of the mode.
        table: of `breaking_point.accuracy_losses`.
        threshold, breaking: what is kept, and up to which batch size.
    """
    rule = rule_of(name)
    known = table.dropna(subset="accuracy")
    if table.empty:
        return f"No run of {rule} is finished."
    if threshold is None and known.empty:
        return f"Every run of {rule} diverges."
    if threshold is None:
        best = known.loc[known["accuracy"].idxmax()]
        return (
            f"{_capital(rule)} reaches {_percent(best)} at {best['batch_size']:.0f}; without small minibatches nothing "
            f"says whether that is enough."
        )
    against = f"against {100 * threshold.best:.1f} %"
    rows = table.set_index("batch_size")
    sizes = rows.index.tolist()
    if breaking is None:
        first = rows.loc[sizes[0]]
        return f"Already at {sizes[0]}, the smallest recorded, {rule} {_failure(first, against)}."
    kept = f"keeps the small-batch accuracy ({_percent(rows.loc[breaking])} {against})"
    if breaking == sizes[-1]:
        return f"Up to {breaking}, the largest recorded, {rule} {kept}."
    following = sizes[sizes.index(breaking) + 1]
    return f"Up to {breaking} {rule} {kept}; at {following} it {_failure(rows.loc[following])}."


def text(result: dict, width: int = 80) -> str:
    """The result of `analyse` for a terminal: the same numbers, in lines of at most `width` characters."""
    parts = [_heading(result)]
    if result["modes"]:
        parts += [_table(result["modes"]), "Intervals (95 %) below the batch sizes; – is what the records cannot say."]
    for name, mode in result["modes"].items():
        breaking, critical = mode["breaking_point"], mode["critical_batch_size"]
        parts.append(f"{name}: {mode['sentence']}")
        said = breaking["accuracy"] is None and mode["batch_sizes"] and result["threshold"]  # in the sentence
        reasons = {
            **{f"breaking point in {currency}": breaking["reasons"][currency] for currency in CURRENCIES},
            "critical batch size": critical["reason"],
        }
        together = {}  # one reason may stand for several
        for what, reason in reasons.items():
            if reason and not (said and what == "breaking point in accuracy"):
                together.setdefault(reason, []).append(what)
        parts += [f"  - {', '.join(whats)}: {reason}" for reason, whats in together.items()]
        if mode["noise_scale"]:
            noise = mode["noise_scale"]
            middle = noise["reason"] if noise["median"] is None else f"{_number(noise['median'])} images"
            upwards = "upwards" if noise["high"] is None else f"to {_number(noise['high'])}"
            also = f"; {noise['reason']}" if noise["reason"] and noise["median"] is not None else ""
            parts.append(
                f"  - noise scale: {middle} (from {_number(noise['low'])} {upwards} over epochs and runs{also})"
            )
    for effect in result["effects"] if result["modes"] else []:
        shown = [
            f"{', '.join(str(row['batch_size']) for row in rows)}: {difference}"
            for difference, rows in itertools.groupby(effect["batch_sizes"], _difference)
        ]
        listed = "; ".join(shown) or effect["reason"]
        parts.append(f"Effect of {effect['effect']}, points of accuracy by batch size: {listed}")
    best = [row for row in result["frontier"] if not row["dominated"]]
    if best:
        listed = "; ".join(
            f"{row['experiment']} {row['batch_size']} ({100 * row['accuracy']:.1f} %, {row['running_time']:.3g} s)"
            for row in best
        )
        parts.append(f"Worth choosing, from fast to accurate ({len(best)} of {len(result['frontier'])}): {listed}")
    parts += [f"Missing: {remark}" for remark in result["missing"]]
    return "\n".join(
        part
        if "\n" in part
        else textwrap.fill(
            part,
            width,
            subsequent_indent="    " if part.startswith("  ") else "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for part in parts
    )


def _difference(row: dict) -> str:
    if row["difference"] is None:
        return f"– ({row['reason']})"
    return f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def _mode(
    name: str,
    finals: pd.DataFrame,
    runs: pd.DataFrame,
    noise: pd.DataFrame,
    threshold: Threshold | None,
    target: float | None,
    diverged: Collection[Run],
) -> dict:
    own, failed = finals[finals["experiment"] == name], [run for run in diverged if run[0] == name]
    table = accuracy_losses(own, threshold, failed)
    behind = pd.concat([own[RUN], pd.DataFrame(failed, columns=RUN)] if failed else [own[RUN]])
    accuracy = in_accuracy(table, threshold, _threshold_records(threshold, finals) + tables.stems(behind))
    of_mode = curve(runs, name)
    critical = critical_batch_size(of_mode)
    verdicts = dict(zip(CURRENCIES, (accuracy, in_updates(of_mode, critical), in_time(of_mode)), strict=True))
    verdicts = {currency: asdict(verdict) for currency, verdict in verdicts.items()}
    fit = asdict(critical) | {"records": tables.stems(of_mode)}
    if target is None:  # nothing was looked for, so nothing was found
        for of_curve in (verdicts["updates"], verdicts["time"], fit):
            of_curve["reason"] = "no target: there is no threshold, and none was given"
    return {
        "breaking_point": {currency: verdict["batch_size"] for currency, verdict in verdicts.items()}
        | {
            "intervals": {currency: [verdict["low"], verdict["high"]] for currency, verdict in verdicts.items()},
            "reasons": {currency: verdict["reason"] for currency, verdict in verdicts.items()},
            "records": {currency: verdict["records"] for currency, verdict in verdicts.items()},
        },
        "critical_batch_size": fit,
        "batch_sizes": _by_batch_size(table, runs[runs["experiment"] == name]),
        "regimes": tables.local_slopes(of_mode).to_dict("records"),
        "noise_scale": _noise_scale(noise[noise["experiment"] == name]),
        "sentence": sentence(name, table, threshold, accuracy.batch_size),
    }


def _by_batch_size(table: pd.DataFrame, runs: pd.DataFrame) -> list[dict]:
    rows = []
    losses = table.set_index("batch_size").to_dict("index")
    empty = dict.fromkeys(table.columns[1:]) | {"seeds": 0, "diverged": 0}
    for means in tables.means_to_target(runs).to_dict("records"):
        size = means["batch_size"]
        to_target = {f"{name}_to_target": means[name] for name in ("epochs", "updates", "running_time")}
        counts = {name: means[name] for name in ("runs", "reached")}
        rows.append({"batch_size": size, **losses.get(size, empty), **counts, **to_target})
    return rows


def _noise_scale(runs: pd.DataFrame) -> dict | None:
    """Over the runs of a mode, which are rows of `tables.noise_scales`; None where it has none."""
    if runs.empty:
        return None
    epochs, unknown = runs["epochs"].sum(), (runs["epochs"] - runs["measured"]).sum()
    return {
        "median": tables.censored_median(runs["median"]),
        "low": runs["low"].min(),
        "high": runs["high"].max(skipna=False),
        "runs": len(runs),
        "reason": f"not measurable in {unknown} of {epochs} epochs" if unknown else None,
    }


def _threshold(threshold: Threshold, finals: pd.DataFrame) -> dict:
    low, high = tables.mean_interval(threshold.by_seed)
    values = asdict(threshold) | {"standard_deviation": threshold.standard_deviation, "low": low, "high": high}
    del values["by_seed"]
    reason = None if threshold.seeds > 1 else "one seed: no interval"
    return values | {"reason": reason, "records": _threshold_records(threshold, finals)}


def _threshold_records(threshold: Threshold | None, finals: pd.DataFrame) -> list[str]:
    if threshold is None:
        return []
    small = finals[finals["experiment"] == "baseline_small"]
    if threshold.from_batch_size is not None:
        small = small[small["batch_size"] == threshold.from_batch_size]
    return tables.stems(small)


def _effects(finals: pd.DataFrame) -> list[dict]:
    effects = []
    for effect, ours, theirs in COMPARISONS:
        table = tables.paired_differences(finals, ours, theirs)
        reason = None if len(table) else f"no batch size with finished runs of both {ours} and {theirs}"
        rows = table.to_dict("records")
        effects.append({"effect": effect, "of": ours, "over": theirs, "batch_sizes": rows, "reason": reason})
    return effects


def _frontier(finals: pd.DataFrame) -> list[dict]:
    rows = tables.frontier(finals).to_dict("records")
    for row in rows:
        if row["dominated_by"] is not None:
            row["dominated_by"] = dict(zip(("experiment", "batch_size"), row["dominated_by"], strict=True))
    return rows


def _missing(
    records: pd.DataFrame,
    finals: pd.DataFrame,
    threshold: Threshold | None,
    target: float | None,
    names: set[str],
    diverged: Collection[Run],
) -> list[str]:
    if not names:
        return ["there are no records"]
    remarks = []
    absent = [name for name in MODES if name not in names]
    if absent:
        remarks.append(f"no records of {', '.join(absent)}")
    if threshold is None:
        remarks.append("no finished run of baseline_small, so there is no threshold")
        if target is None:
            remarks.append("without a threshold a target must be given for updates and time to target")
    remarks += [
        f"{name} B={size} seed {seed} diverged; it counts as a failure" for name, size, seed in sorted(diverged)
    ]
    remarks += [
        f"{run.experiment} B={run.batch_size} seed {run.seed} ended after epoch {run.epoch}; it is in no accuracy"
        for run in tables.unfinished(tables.without(records, diverged)).itertuples()
    ]
    lengths = {name: int(epoch) for name, epoch in finals.groupby("experiment")["epoch"].first().items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {epochs}" for name, epochs in lengths.items())
        remarks.append(f"the modes were trained for different numbers of epochs ({listed}); compare with care")
    alone = finals.groupby(["experiment", "batch_size"])["seed"].count() == 1
    if alone.any():
        remarks.append(f"a single seed for {alone.sum()} of {len(alone)} batch sizes: there no interval can be given")
    if records["updates"].isna().any():
        remarks.append(
            "some records have no column updates: epochs/B stand in for them, so that critical batch sizes are known "
            "but S_min and E_min are not"
        )
    return remarks


def _heading(result: dict) -> str:
    threshold, target = result["threshold"], result["target"]
    if threshold is None:
        words = f"{result['runs']} runs; no threshold"
    else:
        size = threshold["from_batch_size"]
        source = "the mean of the small batch sizes" if size is None else f"B = {size}"
        spread = threshold["standard_deviation"]
        words = (
            f"{result['runs']} runs; threshold {100 * threshold['accuracy']:.1f} %: "
            f"{source} with {100 * threshold['best']:.1f}{'' if spread is None else f' ± {100 * spread:.1f}'} % "
            f"({_seeds(threshold['seeds'])}) less {100 * threshold['tolerance']:g} points"
        )
    return words + (f"; target {100 * target:.1f} %" if target is not None else "")


def _table(modes: dict) -> str:
    column = 13
    lines = ["".join(f"{head:>{column}}" for head in ("accuracy", "updates", "time", "critical B"))]
    for name, mode in modes.items():
        breaking, critical = mode["breaking_point"], mode["critical_batch_size"]
        values = [*(breaking[currency] for currency in CURRENCIES), critical["estimate"]]
        intervals = [
            *(breaking["intervals"][currency] for currency in CURRENCIES),
            (critical["low"], critical["high"]),
        ]
        lines.append(name)
        lines.append("".join(f"{_number(value):>{column}}" for value in values))
        if any(bound is not None for interval in intervals for bound in interval):
            lines.append("".join(f"{_interval(*interval):>{column}}" for interval in intervals))
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"≤ {high:.0f}" if low is None else f"≥ {low:.0f}" if high is None else f"{low:.0f}–{high:.0f}"


def _percent(row: pd.Series) -> str:
    spread = row["standard_deviation"]
    return f"{100 * row['accuracy']:.1f}{'' if np.isnan(spread) else f' ± {100 * spread:.1f}'} %"


def _failure(row: pd.Series, against: str = "") -> str:
    if row["diverged"]:
        count, total = int(row["diverged"]), int(row["diverged"] + row["seeds"])
        return "diverges" if count == total else f"diverges in {count} of {total} runs"
    return f"loses {100 * row['loss']:.1f} points" + (f" ({_percent(row)} {against})" if against else "")


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _capital(words: str) -> str:
    return words[0].upper() + words[1:] if words in _RULES.values() else words


def plain(value):
    """Only what JSON knows: no NumPy, tuples as lists, None for what is not a finite number."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
