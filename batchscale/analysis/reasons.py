"""Why something is undetermined, or what an estimate does not cover: values, worded in this file alone.

reason = Reason.of("too few pairs", pairs=1)
str(reason)                                  # "1 pair of equal seeds, where two are needed"
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from batchscale.analysis.words import count, goal, images, listed, minus, number, percent, points


@dataclass(frozen=True)
class Reason:
    """One reason, by its `kind`, a key of `WORDING`, and the values that its words need."""

    kind: str
    values: tuple[tuple[str, object], ...] = ()

    @classmethod
    def of(cls, kind: str, **values) -> "Reason":
        """A reason of this kind; lists become tuples, so that equal reasons are equal.

        Raises:
            KeyError: the kind has no words.
        """
        WORDING[kind]
        return cls(
            kind, tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in values.items())
        )

    def __str__(self) -> str:
        return WORDING[self.kind](**dict(self.values))


def _instead(differing: tuple[tuple, ...]) -> str:
    """Settings as triples of a name, the value there and the one here."""

    def shown(value) -> str:
        return "not set" if value is None else str(value)

    return ", ".join(f"{field} is {shown(there)} instead of {shown(here)}" for field, there, here in differing)


def together(reasons: tuple[Reason, ...]) -> str | None:
    """Reasons in one line; None for none."""
    return "; ".join(map(str, reasons)) or None


def grouped(reasons: Mapping[str, tuple[Reason, ...]]) -> list[str]:
    """`what: reasons`, by what they are the reasons of; things with the same reasons share a line."""
    alike: dict[tuple[Reason, ...], list[str]] = {}
    for what, why in reasons.items():
        alike.setdefault(why, []).append(what)
    return [f"{listed(whats)}: {together(why)}" for why, whats in alike.items() if why]


WORDING: dict[str, Callable[..., str]] = {
    # accuracy
    "no reference": lambda: "no run of the reference is finished, so there is no accuracy to keep",
    "no accuracies": lambda: "no accuracies are recorded",
    "no finished run": lambda: "no run is finished",
    "smallest diverges": lambda size: f"the smallest recorded, {size}, diverges already",
    "smallest loses": lambda size, loss: f"the smallest recorded, {size}, already loses {points(loss)}",
    # intervals
    "largest still pays": lambda: "the largest recorded batch size still keeps the accuracy",
    "one seed throughout": lambda: "no interval: no mode has two seeds at any batch size",
    "may lie above": lambda size: f"the 95 % interval extends beyond {size}, the largest recorded",
    "may lie below": lambda size: f"the 95 % interval extends below {size}",
    # branches
    "no branches": lambda: "no checkpoint was reached in the time",
    "no progress": lambda half, whole: (
        f"the reference hardly improves within the window, from a loss of {number(half)} after half of it to "
        f"{number(whole)}; measure later or longer, or lower base_lr"
    ),
    "all kept": lambda size: f"even {size}, the largest that was tried, keeps the loss of the reference",
    # updates
    "no target": lambda: "no target: there is no threshold, and none was given",
    "ends below": lambda size: f"perfect scaling ends below the smallest recorded, {size}",
    # time
    "no times": lambda: "no running times are recorded",
    "nothing to compare": lambda size: f"there is no batch size to compare {size} with",
    "largest still saves": lambda size: f"{size}, the largest recorded, still saves a tenth of the time or more",
    "none saves": lambda size: f"no batch size above {size}, where the curve begins, saves a tenth of the time",
    "quantised": lambda: (
        "most runs reach the target in the epoch after a step of the learning rate, so that its schedule decides the "
        "updates and time to target more than the batch size does"
    ),
    # critical batch size
    "too few sizes": lambda sizes, left_censored: (
        f"the target is reached{' after the first epoch' if left_censored else ''} at {count(sizes, 'batch size')}, "
        f"where the fit needs three"
    ),
    "varies too much": lambda first, last, slope, sizes: (
        f"from {first} to {last} the updates go as B^{minus(slope)}, with too much scatter about any curve for "
        f"{count(sizes, 'batch size')} to tell perfect scaling (−1) from none (0)"
    ),
    "may always fall": lambda first, last, slope, sizes, low: (
        f"from {first} to {last} the updates go as B^{minus(slope)}, and may fall as 1/B throughout; "
        f"B_crit is at least {images(low)}"
    ),
    "may never fall": lambda first, last, slope, sizes, high: (
        f"from {first} to {last} the updates go as B^{minus(slope)}, too flat or, for {count(sizes, 'batch size')}, "
        f"too scattered to give B_crit a lower bound; it is at most {images(high)}"
    ),
    "extrapolated": lambda first, last: (
        f"extrapolated: the target is reached at batch sizes from {first} to {last} only"
    ),
    # noise scale
    "not always measurable": lambda epochs, of: f"not measurable in {epochs} of {count(of, 'epoch')}",
    # effects
    "too few pairs": lambda pairs: f"{count(pairs, 'pair')} of equal seeds" + (": no interval" if pairs else ""),
    "no common size": lambda ours, theirs: f"no batch size has finished runs of both {ours} and {theirs}",
    # landscapes
    "best at the edge": lambda sizes: f"at {listed(sizes)} the rates tried do not enclose the best one",
    "every rate fails": lambda sizes, loss: f"at {listed(sizes)} the best rate tried loses more than {points(loss)}",
    "too few peaks": lambda sizes: f"the best rate is enclosed at {count(sizes, 'batch size')}; three are needed",
    # thresholds
    "one seed": lambda: "one seed: no interval",
    # projection
    "no large records": lambda: "there are no records of large minibatches",
    "too few step times": lambda sizes: (
        f"the time of an update is recorded at {count(sizes, 'batch size')}; two are needed"
    ),
    "no updates at target": lambda: "at no batch size with recorded updates does every run reach the target",
    "parameters unknown": lambda: "the number of parameters is not recorded; give --parameters",
    "most still pay": lambda workers: f"{workers} workers, the most that the batch sizes allow, still pay",
    "few images per worker": lambda size: (
        f"extrapolated: workers have fewer images than the smallest recorded minibatch, {size}"
    ),
    "networks differ": lambda parameters: (
        f"the runs are of networks with {listed(parameters)} parameters; put each network in a folder of its own"
    ),
    "devices differ": lambda: (
        "the runs were trained on different devices or numbers of threads; the commonest one counts"
    ),
    # whole studies
    "no records": lambda: "there are no records",
    "no records of": lambda names: f"there are no records of {listed(names)}",
    "no threshold": lambda: (
        "no run of the reference is finished, so there is no threshold; name the modes whose accuracy is to be kept "
        "(--reference), or the accuracy itself (--threshold)"
    ),
    "reference chosen": lambda names, size: (
        f"no mode is called baseline_small; the reference is {listed(names)}, with the smallest batch size, {size} "
        f"(--reference names another)"
    ),
    "answerable": lambda target, sizes, span: (
        f"updates and time count to {goal(target)}, "
        + (
            f"the highest accuracy that every mode reaches over a factor of {images(span)} in batch size"
            if sizes >= 3
            else f"which one mode reaches at {count(sizes, 'batch size')}; the fit needs three"
        )
    ),
    "goal": lambda target, others: (
        f"updates count to {goal(target)}"
        + (f"; --target gives the others, {listed(map(goal, others))}" if others else "")
    ),
    "own goals": lambda goals: (
        "updates count to the goal of each mode: " + listed([f"{goal(target)} for {name}" for name, target in goals])
    ),
    "smaller is worse": lambda sizes, best: (
        f"smaller than the best reference batch size, {best}, {listed(sizes)} lose{'s' if len(sizes) == 1 else ''} "
        f"more than the tolerance; no curve begins there"
    ),
    "column missing": lambda column, runs, of: f"{runs} of {count(of, 'run')} have no {column}",
    "elsewhere": lambda folders: (
        "not read: "
        + listed([f"{count(number, 'CSV')} in the subfolder {folder}" for folder, number in folders])
        + "; name a subfolder to analyse it"
    ),
    "target needed": lambda: "without a threshold, updates and time to target need a target",
    "run lost": lambda run, epoch, most: (
        f"the run {run} was given up after epoch {epoch}; it counts with {percent(most)}, the most that it could reach"
    ),
    "run diverged": lambda run: f"the run {run} diverged; it counts as a failure",
    "runs diverged": lambda named: f"{len(named)} runs diverged and count as failures: {listed(named)}",
    "run ended": lambda run, epoch: f"the run {run} ended after epoch {number(epoch)}; its accuracy does not count",
    "runs ended": lambda named: f"{len(named)} runs ended early and their accuracies do not count: {listed(named)}",
    "lengths differ": lambda lengths: (
        "the modes were trained for different numbers of epochs ("
        + ", ".join(f"{name} {epochs}" for name, epochs in lengths)
        + "); compare with care"
    ),
    "lengths differ within": lambda name, lengths: (
        f"{name} was trained for different numbers of epochs: "
        + listed([f"{number(epochs)} at {listed(sizes)}" for epochs, sizes in lengths])
        + "; each batch size is judged at its own end"
    ),
    "seeds missing": lambda single, sizes: (
        f"a single seed at {single} of {count(sizes, 'combination')} of mode and batch size"
        + ("; errors there are those of batch sizes that lose about as much" if single < sizes else "")
    ),
    "updates missing": lambda: (
        "some records have no column updates: epochs/B stand in for them, so that critical batch sizes are known but "
        "S_min and E_min are not"
    ),
    "settings unknown": lambda runs, of: (
        f"no sidecars beside {runs} of {count(of, 'run')}; the settings of the others are assumed for them"
    ),
    "other settings": lambda runs, differing: (
        f"{count(runs, 'run')} left out, because settings differ: {_instead(differing)}"
    ),
    "other rule": lambda runs, of, differing: (
        f"{count(runs, 'run')} of {of} left out, because the rule differs: {_instead(differing)}"
    ),
    "times of others": lambda runs: f"the times of {count(runs, 'run')} are left out: another device trained them",
}
