"""Why something is undetermined, or what an estimate does not cover: values, worded in this file alone.

reason = Reason.of("too few pairs", pairs=1)
str(reason)                                  # "1 pair of equal seeds, where two are needed"
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from batchscale.analysis.words import count, listed, number, points


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
    "no reference": lambda: "no small minibatches are recorded (baseline_small), so there is no accuracy to keep",
    "no finished run": lambda: "no run is finished",
    "smallest diverges": lambda size: f"the smallest recorded, {size}, diverges already",
    "smallest loses": lambda size, loss: f"the smallest recorded, {size}, already loses {points(loss)}",
    # every scan over batch sizes
    "largest still pays": lambda: "the largest recorded still pays",
    "single seeds": lambda sizes: f"no interval: one seed at {listed(sizes)} or at what it is compared with",
    "may lie below": lambda size: f"the 95 % interval extends below {size}",
    # updates
    "no target": lambda: "no target: there is no threshold, and none was given",
    "ends below": lambda size: f"perfect scaling ends below the smallest recorded, {size}",
    "probably ends below": lambda size: f"perfect scaling probably ends below the smallest recorded, {size}",
    "perfect throughout": lambda: "perfect scaling up to the largest batch size at which the target is reached",
    # time
    "no times": lambda: "no running times are recorded",
    "never reached": lambda: "at no batch size does every run reach the target",
    "nothing to compare": lambda size: f"there is no batch size to compare {size} with",
    "ends before target": lambda size: (
        f"at {size} runs end before the target, so that it is unknown whether the time still falls"
    ),
    "within first epoch": lambda sizes: (
        f"at {listed(sizes)} the target is reached within the first epoch: times are upper bounds there"
    ),
    # critical batch size
    "too few sizes": lambda sizes, left_censored: (
        f"the target is reached{' after the first epoch' if left_censored else ''} at {count(sizes, 'batch size')}, "
        f"where the fit needs three"
    ),
    "varies too much": lambda first, last: (
        f"from {first} to {last} the updates to target vary too much to tell perfect scaling from none"
    ),
    "may always fall": lambda first, last, low: (
        f"from {first} to {last} the updates may fall as 1/B throughout; B_crit is at least {number(low)}"
    ),
    "may never fall": lambda first, last, high: (
        f"from {first} to {last} the updates need not fall with B at all; B_crit is at most {number(high)}"
    ),
    "extrapolated": lambda first, last: (
        f"extrapolated: the target is reached at batch sizes from {first} to {last} only"
    ),
    # noise scale
    "not always measurable": lambda epochs, of: f"not measurable in {epochs} of {count(of, 'epoch')}",
    # effects
    "too few pairs": lambda pairs: f"{count(pairs, 'pair')} of equal seeds, where two are needed",
    "no common size": lambda ours, theirs: f"no batch size has finished runs of both {ours} and {theirs}",
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
    "no threshold": lambda: "no run of baseline_small is finished, so there is no threshold",
    "target needed": lambda: "without a threshold, updates and time to target need a target",
    "run diverged": lambda run: f"the run {run} diverged; it counts as a failure",
    "runs diverged": lambda named: f"{len(named)} runs diverged and count as failures: {listed(named)}",
    "run ended": lambda run, epoch: f"the run {run} ended after epoch {epoch}; its accuracy does not count",
    "runs ended": lambda named: f"{len(named)} runs ended early and their accuracies do not count: {listed(named)}",
    "lengths differ": lambda lengths: (
        "the modes were trained for different numbers of epochs ("
        + ", ".join(f"{name} {epochs}" for name, epochs in lengths)
        + "); compare with care"
    ),
    "seeds missing": lambda single, sizes: (
        f"a single seed, and so no interval, at {single} of {count(sizes, 'combination')} of mode and batch size"
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
