"""The modes of training as one table: the rule of each, its words, its notebook, and what it is compared with.

    MODES["scaled_lr"].label                       # "linearly scaled rate", in figures and tables
    own("mine", {"lr_scaling": "sqrt", "warmup": "none"}).phrase     # "the square-root rule (mine)"

A new mode of the study is one entry here. A mode of a user's own has no entry: `named` makes one from the settings that
its runs recorded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from batchscale.errors import UserError
from batchscale.schedules import LRScaling, Warmup

_LONGEST_NAME = 32  # of a mode in a label; the middle of a longer one is left out


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way to train, and how it is called. `lr_scaling` and `warmup` are None where the rule is not recorded."""

    name: str
    """name of its experiments: on the command line, in file names and in the column `experiment`"""
    lr_scaling: LRScaling | Literal["tuned"] | None
    warmup: Warmup | None
    label: str
    """in figures and tables"""
    phrase: str
    """in sentences"""
    role: Literal["reference", "compared"] = "compared"
    """whether its accuracy sets the threshold or is compared with it"""
    compared_with: str | None = None
    """the mode that lacks one thing which this one has"""
    effect: str | None = None
    """that thing, in sentences"""
    notebook: str | None = None
    """file name without its ending"""
    summary: str = ""
    """its learning rate, in README's table"""
    colour: str | None = None
    """in figures; None: the next free one of `plots`"""
    marker: str | None = None
    """in figures, as matplotlib calls it; no triangle, which means "beyond here"; None: the next free one"""

    @property
    def rule(self) -> dict[str, str]:
        """The fields of an `Experiment` that make this mode."""
        return {"lr_scaling": self.lr_scaling or "none", "warmup": self.warmup or "none"}

    @property
    def is_base_rate(self) -> bool:
        """Whether it trains at the base rate at every batch size, as the reference does."""
        return (self.lr_scaling, self.warmup) == ("none", "none")


# Colours: Paul Tol's high-contrast scheme (personal.sron.nl/~pault), which colour-blind readers tell apart. So does
# everybody in grey: its four shades are a fifth of the way from black to white apart, or more.
REFERENCE = Mode(
    name="baseline_small",
    lr_scaling="none",
    warmup="none",
    label="small batches, base rate",
    phrase="the small minibatches",
    role="reference",
    notebook="baseline_small_minibatch",
    summary="base rate η = {base_lr}",
    colour="#000000",
    marker="o",
)
_COMPARED = (
    Mode(
        name="baseline_large",
        lr_scaling="none",
        warmup="none",
        label="base rate",
        phrase="the base rate",
        notebook="baseline_large_minibatch",
        summary="base rate η",
        colour="#004488",
        marker="s",
    ),
    Mode(
        name="scaled_lr",
        lr_scaling="linear",
        warmup="none",
        label="linearly scaled rate",
        phrase="the linear rule without warm-up",
        compared_with="baseline_large",
        effect="scaling",
        notebook="scaled_lr_large_minibatch",
        summary="kη with k = B / {reference_batch_size}, the linear scaling rule",
        colour="#BB5566",
        marker="D",
    ),
    Mode(
        name="gradual_warmup_scaled_lr",
        lr_scaling="linear",
        warmup="gradual",
        label="scaled rate, gradual warm-up",
        phrase="the linear rule with gradual warm-up",
        compared_with="scaled_lr",
        effect="gradual warm-up",
        notebook="gradual_warmup_scaled_lr_large_minibatch",
        summary="from η to kη over the first {warmup_epochs:g} epochs, then kη",
        colour="#DDAA33",
        marker="P",
    ),
)
MODES = {mode.name: mode for mode in (REFERENCE, *_COMPARED)}
# Nobody trains this one, nor any of that name, which has a space: `analysis.landscape` makes it of the runs at the best
# of several rates.
TUNED = Mode(
    name="tuned rate",
    lr_scaling="tuned",
    warmup="none",
    label="best rate tried",
    phrase="the best rate tried",
    compared_with="gradual_warmup_scaled_lr",
    effect="tuning the rate",
)
_KNOWN = MODES | {TUNED.name: TUNED}

# How the rules are called where a mode has no entry above: in labels, in sentences, and as what they add.
_SCALING = {
    "none": ("base rate", "the base rate", None),
    "linear": ("linearly scaled rate", "the linear rule", "linear scaling"),
    "sqrt": ("square-root scaled rate", "the square-root rule", "square-root scaling"),
}
_WARMUP = {"none": None, "constant": "constant warm-up", "gradual": "gradual warm-up"}


def rule_phrase(lr_scaling: LRScaling) -> str:
    """How a rule is called in sentences.

    >>> rule_phrase("sqrt")
    'the square-root rule'
    """
    return _SCALING[lr_scaling][1]


def own(name: str, settings: Mapping | None) -> Mode:
    """The entry of a mode of the user's own, from the settings of its runs; without any it is known by its name alone.

    Raises:
        UserError: (a ValueError) the rule is unknown, as one of a newer version is.
    """
    short = name if len(name) <= _LONGEST_NAME else f"{name[:15]}…{name[-16:]}"
    if settings is None:
        return Mode(name=name, lr_scaling=None, warmup=None, label=short, phrase=f"“{short}”")
    scaling, warmup = settings["lr_scaling"], settings["warmup"]
    if scaling not in _SCALING or warmup not in _WARMUP:
        raise UserError(
            f"mode {name} was trained with lr_scaling {scaling!r} and warmup {warmup!r}, which this batchscale does "
            f"not know; upgrade batchscale, or move these records away"
        )
    label, phrase, effect = _SCALING[scaling]
    if _WARMUP[warmup] is not None:
        label, phrase, effect = f"{label}, {_WARMUP[warmup]}", f"{phrase} with {_WARMUP[warmup]}", _WARMUP[warmup]
    return Mode(
        name=name,
        lr_scaling=scaling,
        warmup=warmup,
        label=f"{label} ({short})",
        phrase=f"{phrase} ({short})",
        effect=effect,
    )


def named(names: Iterable[str], settings: Mapping[str, Mapping] | None = None) -> dict[str, Mode]:
    """The modes of these names, in the study's order, then the user's own by name.

    Args:
        names: of modes, in any order.
        settings: by name, the recorded settings of its runs, with `lr_scaling` and `warmup`. A name of the study whose
            runs were trained by another rule than the study's is a mode of the user's own.
    """
    names, settings = set(names), settings or {}
    found = {}
    for name in [*(name for name in MODES if name in names), *sorted(names - set(MODES))]:
        known, recorded = _KNOWN.get(name), settings.get(name)
        # Of the reference no rule counts: its minibatches are no larger than B_ref.
        is_named_so = known in (None, REFERENCE) or not recorded or known.rule.items() <= recorded.items()
        found[name] = known if known and is_named_so else own(name, recorded)
    return found


def comparisons(modes: Mapping[str, Mode]) -> list[tuple[Mode, Mode]]:
    """Pairs of a mode and the one that lacks what it adds: those of the table, then one for each of the user's own.

    A mode of the user's own that warms up is compared with the mode of the same rule that does not; one that only
    scales the rate, with the base rate. Where there is no such mode it is in no pair.
    """
    known = {name: mode for name, mode in modes.items() if mode == _KNOWN.get(name)}
    pairs = [
        (mode, MODES[mode.compared_with])
        for mode in known.values()
        if mode.compared_with and (mode.compared_with in known or mode.compared_with not in modes)
    ]
    for mode in modes.values():
        if mode.name in known or mode.effect is None:
            continue
        lacking = ("none", "none") if mode.warmup == "none" else (mode.lr_scaling, "none")
        others = [
            each for each in modes.values() if each.role == "compared" and (each.lr_scaling, each.warmup) == lacking
        ]
        pairs += [(mode, other) for other in others[:1]]
    return pairs
