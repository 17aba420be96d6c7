"""Which experiments of a sweep are one run under several names.

Scaling and warm-up act only at B > B_ref. Up to there every rule trains alike, and the study's base rate trains as the
reference does at every batch size. Such a run is trained once. Above B_ref a name of the user's own is kept.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from batchscale.experiment import Experiment
from batchscale.modes import MODES, REFERENCE


def stripped(experiment: Experiment) -> Experiment:
    """The experiment under the reference's name, without the fields of its rule that do nothing.

    Two experiments train the same if this is equal: at B <= B_ref whatever their rule, at B > B_ref if they share it.

    >>> warm = Experiment(name="mine", batch_size=8, lr_scaling="sqrt", warmup="gradual", warmup_epochs=1)
    >>> stripped(warm) == Experiment(batch_size=8)
    True
    >>> stripped(replace(warm, batch_size=16)) == Experiment(batch_size=16)
    False
    """
    idle = {"name": REFERENCE.name}
    if not experiment.exceeds_reference:
        idle |= REFERENCE.rule
    if not experiment.exceeds_reference or experiment.warmup == "none":
        idle["warmup_epochs"] = Experiment.warmup_epochs  # the default
    return replace(experiment, **idle)


def may_be_the_references(experiment: Experiment) -> bool:
    """Whether its run is the reference's, if this trains the same."""
    return not experiment.exceeds_reference or experiment.name in MODES


def joined(experiments: Iterable[Experiment]) -> list[list[Experiment]]:
    """The experiments in lists that are each one run: those that train the same at B <= B_ref, or as one of the
    reference's that is among them, see `may_be_the_references`. Any other experiment is a list of its own. Without
    repetition, in order."""
    asked = dict.fromkeys(experiments)
    of_reference = {stripped(each) for each in asked if each.name == REFERENCE.name}
    found: dict[Experiment, list[Experiment]] = {}
    for each in asked:
        run = stripped(each)
        is_one = not each.exceeds_reference or (may_be_the_references(each) and run in of_reference)
        found.setdefault(run if is_one else each, []).append(each)
    return list(found.values())


def sentences(trained: Mapping[Experiment, Experiment]) -> list[str]:
    """What to say about the experiments that are trained under another name, a line per name.

    Args:
        trained: by experiment that was asked for, the one that is trained, see `pending.trained`.
    """
    others = [(asked, once) for asked, once in trained.items() if asked != once]
    lines, of = [], f"{len(trained)} run{'s' * (len(trained) > 1)}"
    for name, count in Counter(once.name for _, once in others).items():
        sizes = {
            asked.reference_batch_size for asked, once in others if once.name == name and not asked.exceeds_reference
        }
        why = f" (at B <= {', '.join(map(str, sorted(sizes)))} every rule does)" if sizes else ""
        train, are = ("trains", "is") if count == 1 else ("train", "are")
        lines.append(f"{count} of {of} {train} as {name} does{why} and {are} trained once, under that name")
    return lines
