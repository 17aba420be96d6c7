"""Findings in sentences: the same ones in terminal, notebooks, README and report. Pure functions.

A sentence that the records do not bear out is not written. Rules whose intervals overlap are said to be level.
"""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from batchscale.analysis import tables
from batchscale.analysis.breaking_point import CURRENCIES, BreakingPoint
from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.findings import Effect, Findings, ModeFindings
from batchscale.analysis.landscape import CLOSE
from batchscale.analysis.reasons import together
from batchscale.analysis.statistics import at_least, first_best
from batchscale.analysis.threshold import Threshold
from batchscale.analysis.words import (
    any_of,
    count,
    decimal,
    exact,
    goal,
    images,
    interval,
    listed,
    minus,
    number,
    percent,
    points,
    sentence,
    sizes_at,
    upwards,
)
from batchscale.experiment import OPTIMIZERS, Experiment
from batchscale.modes import REFERENCE, TUNED, rule_phrase
from batchscale.records.study import Study

MOMENTUM = {"nesterov": "Nesterov momentum", "adamw": "β₁ ="}  # what it is to optimizers to which it is another
AUGMENTATIONS = {"flip": "random flips", "flip-crop": "random flips and crops"}
_INTERVAL = "(95 % interval "


def settings(study: Study) -> str:
    """The settings that the runs share, in one line without a full stop."""
    if not study.sidecars:
        return "settings not recorded: these CSVs have no sidecars"
    size, augment, decay = (study.setting(field) for field in ("train_size", "augment", "decay"))
    epochs = [of_run["epochs"] for of_run in study.settings.values()]
    parts = [
        f"{study.setting('dataset')}{'' if size is None else f' (first {number(size)} training images)'}"
        + ("" if augment in (None, "none") else f" with {AUGMENTATIONS.get(augment, augment)}"),
        f"{study.setting('model')} at width {exact(study.setting('width'))}",
        optimizer(*(study.setting(field) for field in ("optimizer", "momentum", "weight_decay"))),
        f"base rate {exact(study.setting('base_lr'))} at batch size {study.setting('reference_batch_size')}",
        *([] if decay in (None, "none") else [f"{decay} decay of the rate over {any_of(epochs, 'epoch')}"]),
        study.setting("precision"),
    ]
    if study.devices:
        (kind, name, threads, workers), _ = study.devices.most_common(1)[0]
        on = f"{name} ({kind}" + (f", {count(threads, 'thread')}" if kind == "cpu" and threads else "") + ")"
        parts.append(on if workers == 1 else f"{count(workers, 'worker')} on {on}")
    return ", ".join(parts)


def training(experiment: Experiment) -> list[str]:
    """How one run is trained, in two lines: everything but its network, data, batch size and seed.

    >>> for line in training(Experiment(batch_size=64, lr_scaling="linear", warmup="gradual", decay="cosine")):
    ...     print(line)
    10 epochs of SGD with momentum 0.9, no weight decay, images unchanged, fp32
    Learning rate: 0.002 at batch size 8, the linear rule with gradual warm-up over 2 epochs, cosine decay
    """
    each = experiment
    how = optimizer(each.optimizer, each.momentum, each.weight_decay) + (
        "" if each.weight_decay else ", no weight decay"
    )
    warmup = "" if each.warmup == "none" else f" with {each.warmup} warm-up over {count(each.warmup_epochs, 'epoch')}"
    rates = [
        f"{exact(each.base_lr)} at batch size {each.reference_batch_size}",
        ("the same at all batch sizes" if each.lr_scaling == "none" else rule_phrase(each.lr_scaling)) + warmup,
        "no decay" if each.decay == "none" else f"{each.decay} decay",
    ]
    images = AUGMENTATIONS.get(each.augment, "images unchanged")
    return [f"{count(each.epochs, 'epoch')} of {how}, {images}, {each.precision}", f"Learning rate: {', '.join(rates)}"]


def optimizer(name: str, momentum: float, weight_decay: float | None = None) -> str:
    """An optimizer with what it is given. Whether one of the user's own takes the default momentum is not known.

    >>> optimizer("nesterov", 0.9), optimizer("adamw", 0.9, 0.01), optimizer("timm.optim:Lamb", 0.9)
    ('SGD with Nesterov momentum 0.9', 'AdamW with β₁ = 0.9 and weight decay 0.01', 'timm.optim:Lamb')
    """
    called, what = OPTIMIZERS.get(name, str(name)), MOMENTUM.get(name, "momentum")
    decay = [f"weight decay {exact(weight_decay)}"] if weight_decay else []
    if name == "sgd" and not momentum:
        return " but with ".join([f"{called} without {what}", *decay])
    is_taken = name in OPTIMIZERS or momentum != Experiment.momentum
    given = ([f"{what} {exact(momentum)}"] if is_taken else []) + decay
    return f"{called} with {listed(given)}" if given else called


def threshold(found: Threshold | None) -> list[str]:
    """What a larger minibatch has to keep."""
    if found is None:
        return ["No run of the reference is finished, so there is no accuracy to keep."]
    if found.is_given:
        return [f"A larger minibatch has to keep an accuracy of {percent(found.accuracy)}, as given."]
    low, high = found.interval
    seeds, best = count(found.seeds, "seed"), percent(found.best)
    between = "no interval" if math.isnan(low) else f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    if found.from_batch_size is None:
        kind = "small minibatches" if found.reference == (REFERENCE.name,) else "reference minibatches"
        said = [f"The {kind} reach a mean test accuracy of {best} ({seeds}, {between})."]
    else:
        kind = "small minibatch" if found.reference == (REFERENCE.name,) else "reference batch size"
        shown = percent(found.mean, found.standard_deviation)
        reached = f"The best {kind}, {count(found.from_batch_size, 'image')}, reaches a test accuracy of {shown}"
        if percent(found.mean) == best:
            said = [f"{reached} ({seeds}, {between})."]
        else:
            said = [
                f"{reached} ({seeds}).",
                f"The best of several means is too high by chance, here by about {points(found.optimism)}; {best} "
                f"count ({between}).",
            ]
    keep = f"With a tolerance of {points(found.tolerance)}, a larger minibatch has to keep {percent(found.accuracy)}."
    return [*said, keep]


def accuracy(mode: ModeFindings, found: Threshold | None) -> str:
    """A mode's verdict in accuracy; ± is the standard deviation over seeds."""
    phrase, table = mode.mode.phrase, mode.losses
    known = table.dropna(subset="accuracy")
    if table.empty:
        has_goals = [reason.kind for reason in mode.breaking_points["accuracy"].reasons] == ["no accuracies"]
        return f"No accuracy of {phrase} is recorded." if has_goals else f"No run of {phrase} is finished."
    if found is None and known.empty:
        return f"Every run of {phrase} diverges."
    if found is None:
        best = known.loc[first_best(known["accuracy"])]
        return sentence(
            f"{phrase} reaches {_accuracy(best)} at {best['batch_size']:.0f}; without a reference nothing says whether "
            f"that is enough"
        )
    rows, point = table.set_index("batch_size"), mode.breaking_points["accuracy"]
    kept, lost = point.between
    if point.estimate is None and lost is not None:
        against = f"against {percent(found.best)}"
        return f"Already at {lost}, the smallest recorded, {phrase} {_failure(rows.loc[lost], against)}."
    if point.estimate is None:
        least = "" if point.low is None else f"; the 95 % interval of its breaking point begins at {images(point.low)}"
        return sentence(
            f"{phrase} keeps the accuracy up to {kept}, the largest recorded ({_accuracy(rows.loc[kept])} against a "
            f"threshold of {percent(found.accuracy)}){least}"
        )
    beyond = rows.loc[lost]
    fails = f"{int(beyond['diverged'])} of {int(beyond['diverged'] + beyond['seeds'])} runs diverge"
    after = fails if beyond["diverged"] else _accuracy(beyond)
    return (
        f"Under {phrase} the accuracy falls below the threshold at {_estimate(point)}, between {kept} "
        f"({_accuracy(rows.loc[kept])}) and {lost} ({after})."
    )


def accuracies(found: Findings) -> list[str]:
    """The breaking points in accuracy that are known, in one sentence."""
    points = [(mode.breaking_points["accuracy"], mode.mode.phrase) for mode in found.modes.values()]
    known = [(point, phrase) for point, phrase in points if point.estimate is not None]
    return [f"The accuracy falls below that at {_each(known)}."] if known else []


def comparison(found: Findings) -> list[str]:
    """Which rule keeps the accuracy furthest, as far as the intervals tell them apart; nothing to compare: nothing."""
    points = {name: mode.breaking_points["accuracy"] for name, mode in found.modes.items()}
    known = {name: point for name, point in points.items() if point.estimate is not None or point.between[0]}
    phrase = {name: mode.mode.phrase for name, mode in found.modes.items()}
    if found.threshold is None or not any(len(mode.losses) for mode in found.modes.values()):
        return []
    if not known:
        return ["No recorded rule keeps the accuracy at any larger batch size."]
    # A rule that none surely surpasses; such rules overlap pairwise.
    level = [name for name in known if not any(_surely_further(other, known[name]) for other in known.values())]
    sentences = []
    if len(level) > 1:
        rules, intervals = listed([phrase[name] for name in level]), [_has_interval(known[name]) for name in level]
        why = "overlap" if all(intervals) else "are unknown" if not any(intervals) else "are in part unknown"
        sentences.append(f"The intervals of {rules} {why}: the records do not tell which goes further.")
        paired = [effect for effect in found.effects if {effect.of.name, effect.over.name} <= set(level)]
        for effect in paired:
            sentences += [f"Compared at equal batch sizes and seeds, {said}." for said in _decided(effect)]
    elif len(known) == 1:
        sentences.append(sentence(f"{phrase[level[0]]} keeps the accuracy {_kept(known[level[0]])}"))
    behind: dict[str, list[str]] = {}
    for name in set(known) - set(level):
        beyond = [other for other in level if _surely_further(known[other], known[name])]
        behind.setdefault(max(beyond, key=lambda other: known[other].low), []).append(name)
    for name, others in behind.items():
        listed_others = listed([phrase[other] for other in known if other in others])
        sentences.append(sentence(f"{phrase[name]} goes further than {listed_others}"))
    lost = [name for name, mode in found.modes.items() if name not in known and len(mode.losses)]
    if lost:
        sentences.append(f"No batch size recorded for {listed([phrase[name] for name in lost])} keeps it.")
    return sentences


def effects(found: Findings) -> list[str]:
    """What scaling and warm-up add, by the intervals of the paired differences."""
    return [said for effect in found.effects for said in _effect(effect)]


def updates(found: Findings) -> list[str]:
    """The critical batch sizes, and the runs behind them."""
    if found.target is None and found.to_target.reason is None:
        return ["There is no threshold, and so no target: neither updates nor time to target can be given."]
    sentences = []
    for mode in found.modes.values():
        fit, phrase = mode.critical, mode.mode.phrase
        if fit.estimate is None:
            sentences.append(f"Under {phrase} the critical batch size is undetermined: {together(fit.reasons)}.")
        else:
            least = ""
            if fit.steps_min is not None:
                least = (
                    f"; the target takes at least {number(fit.steps_min)} updates however large the minibatch, and "
                    f"{number(fit.examples_min)} images however small"
                )
            extrapolated = f" It is {together(fit.reasons)}." if fit.reasons else ""
            sentences.append(f"Under {phrase} the critical batch size is {_estimate(fit)}{least}.{extrapolated}")
    bounds = [
        f"{mode.critical.right_censored} of {mode.critical.runs} under {mode.mode.phrase}"
        for mode in found.modes.values()
        if mode.critical.right_censored
    ]
    if bounds:
        sentences.append(f"Runs that never reached the target count as lower bounds: {listed(bounds)}.")
    return sentences


def critical_batch_sizes(found: Findings) -> list[str]:
    """All of them in one sentence."""
    fits = [mode for mode in found.modes.values() if mode.critical.estimate is not None]
    if fits:
        known = _each((mode.critical, mode.mode.phrase) for mode in fits)
        extrapolated = ", in part extrapolated" if any(mode.critical.reasons for mode in fits) else ""
        to = "the goal of each mode" if found.target is None else goal(found.target)
        return [f"The critical batch size for the updates to {to} is {known}{extrapolated}."]
    return ["These records do not determine a critical batch size."] if found.modes else []


def at_threshold(found: Findings) -> list[str]:
    """The critical batch sizes on the way to the threshold, where the target is another; nothing where it is not."""
    at = found.to_threshold
    if at is None or at is found.to_target:
        return []
    phrase = {name: mode.mode.phrase for name, mode in found.modes.items()}
    known = [(fit, phrase[name]) for name, fit in at.critical.items() if fit.estimate is not None]
    unknown = [phrase[name] for name, fit in at.critical.items() if fit.estimate is None]
    way = f"On the way to the threshold itself, {goal(at.target)}, the critical batch size is"
    if not known:
        return [f"{way} undetermined for every mode."]
    return [f"{way} {_each(known)}{f', and undetermined under {listed(unknown)}' if unknown else ''}."]


def noise_scales(found: Findings) -> list[str]:
    """The gradient noise scales on the way to the target, and how they compare with the critical batch sizes."""
    sentences, missing, way = [], [], epochs_before(found.target)
    for mode in found.modes.values():
        noise, fit, phrase = mode.noise_scale, mode.critical, mode.mode.phrase
        if noise is None:
            missing.append(phrase)
            continue
        beside = f"; it was {together(noise.reasons)}" if noise.reasons else ""
        if noise.median is None:
            sentences.append(
                f"Under {phrase} the gradient noise scale has no median{beside}, where the noise hides the gradient; "
                f"the smallest measured is {count(noise.low, 'image')}."
            )
            continue
        if fit.estimate is not None:
            low, high = fit.low or 0, fit.high or math.inf
            where = "below" if noise.median < low else "above" if noise.median > high else "within"
            beside += f"; the median lies {where} the interval of the critical batch size"
        sentences.append(
            f"Under {phrase} the gradient noise scale has a median of {count(noise.median, 'image')} and ranges from "
            f"{upwards(noise.low, noise.high)} over {way}{beside}."
        )
    if missing:
        whom = f" under {listed(missing)}" if sentences else ""
        sentences.append(f"The gradient noise scale was not measured in {way}{whom}.")
    return sentences


def epochs_before(target: float | None) -> str:
    """The epochs on the way to a target, whose noise scales count: `the epochs that end below 72.0 %`."""
    return "the epochs" if target is None else f"the epochs that end below {goal(target)}"


def breaking_points(found: Findings) -> list[str]:
    """A sentence per mode with the three verdicts side by side."""
    says = {
        "accuracy": "keep the accuracy",
        "updates": "save updates in proportion to their size",
        "time": "shorten the time to target by a tenth or more",
    }
    sentences = []
    for mode in found.modes.values():
        points = mode.breaking_points
        known = [
            "save no tenth of the time to target"
            if any(reason.kind == "none saves" for reason in points[currency].reasons)
            else f"{says[currency]} {_kept(points[currency])}"
            for currency in CURRENCIES
            if _is_known(points[currency])
        ]
        unknown = [currency for currency in CURRENCIES if not _is_known(points[currency])]
        without = f"the records determine no breaking point in {listed(unknown, 'or')}"
        if known:
            rest = f"; {without}" if unknown else ""
            sentences.append(f"Under {mode.mode.phrase} larger minibatches {listed(known)}{rest}.")
        else:
            sentences.append(f"Under {mode.mode.phrase} {without}.")
    return sentences


def smallest(found: Findings) -> list[str]:
    """The smallest known breaking point of every mode that has one: what whoever has to choose would take."""
    said = []
    for mode in found.modes.values():
        sizes = {currency: mode.breaking_points[currency].estimate for currency in CURRENCIES}
        known = {currency: size for currency, size in sizes.items() if size is not None}
        if known and sizes["accuracy"] is not None:
            least = min(known.values())
            currencies = listed([currency for currency, size in known.items() if size == least])
            said.append(f"{images(least)} for {mode.mode.phrase} (in {currencies})")
    return [f"The smallest known breaking point of each rule is {listed(said)}."] if said else []


def landscape(found: Findings) -> list[str]:
    """How the best learning rate grows with the batch size; and which breaks, the linear rule or the batch size."""
    return [*best_rates(found), *rule_or_size(found)]


def best_rates(found: Findings) -> list[str]:
    """How the best learning rate grows with the batch size."""
    rates = found.landscape
    if rates is None:
        return []
    if rates.exponent is None:
        return [f"How the best learning rate grows with the batch size is undetermined: {together(rates.reasons)}."]
    exponent, low, high = map(minus, (rates.exponent, *rates.interval))
    return [
        f"From {rates.fitted[0]} to {rates.fitted[-1]} images the best learning rate grows as B^{exponent} "
        f"{_INTERVAL}{low} to {high}); the exponent of the linear rule is 1, that of the square-root rule 0.5.",
        *(sentence(f"{reason}; the exponent rests on the other batch sizes") for reason in rates.reasons),
    ]


def rule_or_size(found: Findings) -> list[str]:
    """Where the accuracy is lost, whether it is the linear rule that breaks or the batch size."""
    rates = found.landscape
    if rates is None:
        return []
    best = rates.best[rates.best["batch_size"] > rates.reference_batch_size].set_index("batch_size")
    at_rule = {size: cell for size in best.index if (cell := rates.at_rule(size, "linear")) is not None}
    said = _rule_beside_best(at_rule, best)
    if found.threshold is None or TUNED.name not in found.modes:
        return said
    return said + _kept_at_best(at_rule, list(best.index), found)


def _rule_beside_best(at_rule: dict[int, pd.Series], best: pd.DataFrame) -> list[str]:
    """What the rate of the linear rule loses to the best rate tried, by batch size."""
    close = [size for size, cell in at_rule.items() if _reaches(cell, best["accuracy"][size] - CLOSE)]
    said = []
    if close:
        said.append(f"At {listed(close)} the rate of the linear rule is within {points(CLOSE)} of the best rate tried.")
    for size in (each for each in at_rule if each not in close):
        cell = at_rule[size]
        lost = "diverges" if cell["diverged"] else f"reaches {percent(cell['accuracy'])}"
        ratio = best["learning_rate"][size] / cell["learning_rate"]
        part = f"{number(ratio)} times" if ratio >= 1 else f"1/{number(1 / ratio)} of"
        accuracy = percent(best["accuracy"][size])
        said.append(f"At {size} the linear rule {lost}, and {part} its rate, the best tried, {accuracy}.")
    return said


def _kept_at_best(at_rule: dict[int, pd.Series], sizes: list[int], found: Findings) -> list[str]:
    """Whether the best rate tried keeps the accuracy, and whether the linear rule does there."""
    point = found.modes[TUNED.name].breaking_points["accuracy"]
    # Without a second seed there is no interval, and the means decide.
    low, high = point.between if found.cells["error"].isna().all() else point.interval
    kept = [size for size in sizes if low is not None and size <= low]
    lost = [size for size in sizes if high is not None and size >= high]
    rule = [size for size in kept if size in at_rule and not _reaches(at_rule[size], found.threshold.accuracy)]
    said = []
    if rule:
        said.append(
            f"At {listed(rule)} the best rate keeps the accuracy and the linear rule loses it: there the rule "
            f"breaks, and not the batch size."
        )
    if unknown := [size for size in sizes if size not in (*kept, *lost)]:
        said.append(f"At {listed(unknown)} the records do not tell whether the best rate tried keeps the accuracy.")
    if lost:
        said.append(
            f"At {listed(lost)} no rate tried keeps the accuracy: there the batch size itself is too large for this "
            f"optimizer."
        )
    return said


def _reaches(cell: pd.Series, accuracy: float) -> bool:
    return not cell["diverged"] and bool(at_least(cell["accuracy"], accuracy))


def time(found: Findings) -> list[str]:
    """At which batch size the target is reached soonest."""
    sentences = []
    for mode in found.modes.values() if found.target is not None else ():
        means = tables.means_to_target(mode.curve.assign(experiment=mode.mode.name))
        times = means.dropna(subset="running_time").set_index("batch_size")["running_time"]
        phrase = mode.mode.phrase
        bounds = means.loc[means["bounds"] > 0, "batch_size"].tolist()
        if times.empty and (means["reached"] == means["runs"]).any():
            sentences.append(f"Under {phrase} no comparable time to the target is recorded.")
            continue
        if times.empty:
            sizes = means["batch_size"].tolist()
            at = f"at {sizes[0]}" if len(sizes) == 1 else f"at any batch size from {sizes[0]} to {sizes[-1]}"
            sentences.append(f"Under {phrase} not all runs reach the target {at}.")
            continue
        best, first = first_best(-np.log(times)), times.index.min()
        against = "" if best == first else f", compared with {number(times[first])} s at {first}"
        known = f"; at {listed(bounds)} it is reached within the first epoch, too soon to be compared" if bounds else ""
        sentences.append(
            f"Under {phrase} the target is reached soonest at {best}, in {number(times[best])} s{against}{known}."
        )
    return sentences


def frontier(found: Findings) -> list[str]:
    """The Pareto frontier of accuracy and time."""
    rows = found.frontier
    best = found.pareto
    if best.empty:
        what = "is finished" if found.finals.empty else "that does better than guessing has a recorded time"
        return [f"No run {what}, so accuracy cannot be compared with time."]

    def named(row: pd.Series) -> str:
        label = found.study.modes[row["experiment"]].label
        return f"{label} at {row['batch_size']} ({percent(row['accuracy'])} in {number(row['running_time'])} s)"

    of = f"Of {count(len(rows), 'combination')} of mode and batch size that do better than guessing"
    if len(best) == 1:
        return [f"{of}, one is both the fastest and the most accurate: {named(best.iloc[0])}."]
    return [
        f"{of}, {len(best)} lie on the Pareto frontier: no other is at least as accurate and no slower. It runs from "
        f"{named(best.iloc[0])} to {named(best.iloc[-1])}."
    ]


def _effect(effect: Effect) -> list[str]:
    table, name = effect.differences, effect.name
    known = table.dropna(subset="difference")
    all_sizes = table["batch_size"].tolist()
    if known.empty:
        what = f"what {name} adds ({effect.of.label} minus {effect.over.label}) is undetermined"
        reason = effect.reason or table["reason"].iloc[0]
        return [sentence(f"{what}: {reason}")]
    sentences = [sentence(said) for said in _decided(effect)]
    plain = known[known["low"].isna()]
    if len(plain):
        shown = listed([f"{points(row.difference)} at {row.batch_size}" for row in plain.itertuples()])
        sentences.append(sentence(f"without an interval, {name} adds {shown}"))
    undecided = known[(known["low"] <= 0) & (known["high"] >= 0)]
    if len(undecided):
        at = sizes_at(undecided["batch_size"], all_sizes)
        sentences.append(sentence(f"{at} the 95 % interval of what {name} adds includes zero"))
    unpaired = table[table["difference"].isna()]
    if len(unpaired):
        at = sizes_at(unpaired["batch_size"], all_sizes)
        sentences.append(sentence(f"{at} no equal seeds tell what {name} adds"))
    return sentences


def _decided(effect: Effect) -> list[str]:
    """Where the interval of the paired difference excludes zero."""
    table = effect.differences
    phrases = []
    for verb, rows in {"raises": table[table["low"] > 0], "lowers": table[table["high"] < 0]}.items():
        if len(rows):
            amounts = (100 * rows["difference"]).abs()
            least, most = f"{amounts.min():.1f}", f"{amounts.max():.1f}"
            by = least if least == most else f"{least} to {most}"
            where = sizes_at(rows["batch_size"], table["batch_size"].tolist())
            phrases.append(f"{effect.name} {verb} the accuracy by {by} points {where}")
    return phrases


def _accuracy(row: pd.Series) -> str:
    return percent(row["accuracy"], row["standard_deviation"])


def _failure(row: pd.Series, against: str = "") -> str:
    if row["diverged"]:
        failed, of = int(row["diverged"]), int(row["diverged"] + row["seeds"])
        return "diverges" if failed == of else f"diverges in {failed} of {of} runs"
    between = ""
    if not math.isnan(row["loss_low"]):
        between = f"95 % interval {decimal(row['loss_low'])} to {decimal(row['loss_high'])}"
    shown = "; ".join(filter(None, (f"{_accuracy(row)} {against}" if against else "", between)))
    return f"loses {points(row['loss'])}" + (f" ({shown})" if shown else "")


def _each(known: Iterable[tuple[BreakingPoint | CriticalBatchSize, str]]) -> str:
    """`21 (95 % interval 15–26) under the base rate and 269 (171–432) under the linear rule`."""
    known = list(known)
    first = next((place for place, (found, _) in enumerate(known) if _has_interval(found)), None)
    return listed(
        f"{_estimate(found, _INTERVAL if place == first else '(')} under {phrase}"
        for place, (found, phrase) in enumerate(known)
    )


def _estimate(found: BreakingPoint | CriticalBatchSize, opening: str = _INTERVAL) -> str:
    return images(found.estimate) + (f" {opening}{interval(*found.interval)})" if _has_interval(found) else "")


def _has_interval(found: BreakingPoint | CriticalBatchSize) -> bool:
    return found.low is not None or found.high is not None


def _is_known(point: BreakingPoint) -> bool:
    """Whether there is an estimate, or everything recorded pays."""
    return point.estimate is not None or point.between[0] is not None


def _kept(point: BreakingPoint) -> str:
    """`up to 240 (95 % interval 34–876)`, `up to 8192, the largest recorded`."""
    if point.estimate is None:
        return f"up to {point.between[0]}, the largest recorded"
    return f"up to {_estimate(point)}"


def _surely_further(ours: BreakingPoint, theirs: BreakingPoint) -> bool:
    return ours.low is not None and theirs.high is not None and ours.low > theirs.high
