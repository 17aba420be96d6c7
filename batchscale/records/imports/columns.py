"""Which column of a log is which of ours: by the words in its name.

A name is a set of words: `val/Acc`, `valAcc` and `val_acc_epoch` all say accuracy and validation. Accuracy and loss are
told from each other, and by the part of the data that they were measured on; the rest is known by whole names.
"""

import re
from collections.abc import Mapping

from batchscale.errors import UserError
from batchscale.records.imports.formats import Log

_MEASURES = {"accuracy": {"acc", "accuracy"}, "loss": {"loss", "nll"}}
_PARTS = {
    "test": {"test", "testing"},
    "validation": {"val", "valid", "validation", "dev", "eval", "evaluation"},
    "training": {"train", "training"},
}
# Words that say nothing else: torchmetrics' MulticlassAccuracy, Keras's sparse_categorical_accuracy, acc@1, epoch_loss.
_PADDING = {"epoch", "mean", "avg", "average", "top", "1", "multiclass", "categorical", "sparse", "binary", "metrics"}

# By column of ours, the names that it has elsewhere, the best first.
NAMES = {
    "epoch": ("epoch", "epochs", "trainer_epoch", "train_epoch"),
    "updates": (
        *("updates", "update", "global_step", "trainer_global_step", "train_global_step", "step", "steps"),
        *("iteration", "iterations", "iter"),
    ),
    "running_time": ("running_time", "elapsed", "elapsed_time", "time_elapsed", "runtime", "wall_time"),
    "learning_rate": ("learning_rate", "lr"),
    "batch_size": (
        *("batch_size", "batchsize", "bs", "minibatch_size", "global_batch_size", "total_batch_size"),
        *("effective_batch_size", "train_batch_size", "per_device_train_batch_size"),
    ),
    "seed": ("seed", "random_seed", "manual_seed"),
    "target": ("target", "goal"),
    "updates_to_target": (
        "updates_to_target",
        "steps_to_target",
        "updates_to_goal",
        "steps_to_goal",
        "steps_to_result",
    ),
    "epochs_to_target": ("epochs_to_target", "epochs_to_goal"),
    "running_time_to_target": ("running_time_to_target", "time_to_target", "seconds_to_target"),
    **{name: (name,) for name in ("generalization_error", "epoch_time", "images_per_second", "noise_scale")},
}


def guessed(log: Log, given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The columns of a log by the name of ours; those that are given take precedence, and "" leaves one out.

    Returns:
        The columns, and what the user should know of the choice.

    Raises:
        UserError: two columns may be the accuracy, or the log has no column that was given.
    """
    for ours, theirs in given.items():
        if theirs and theirs not in log.columns and not _is_number(theirs):
            raise UserError(
                f"{log} has no column {theirs} for {ours}, it has {', '.join(log.columns)}; correct --columns"
            )
    found, notes = {}, []
    for ours, names in NAMES.items():
        for name in names:
            same = [column for column in log.columns if _plain(column) == name and any(log.columns[column])]
            if len({tuple(log.columns[column]) for column in same}) > 1 and ours not in given:
                raise _ambiguous(log, ours, same)
            if same:
                found.setdefault(ours, same[0])
    measured = _measured(log)
    if not {"accuracy", "error"} & given.keys():
        found |= _accuracies(log, measured, notes, is_needed="updates_to_target" not in {*found, *given})
    found |= _losses(log, measured)
    if not log.has_one_clock:
        found = {ours: theirs for ours, theirs in found.items() if not ours.startswith("train_")}
    found = {ours: theirs for ours, theirs in found.items() if theirs not in given.values()} | given
    return {ours: theirs for ours, theirs in found.items() if theirs}, notes


def _measured(log: Log) -> dict[tuple[str, str], list[str]]:
    """The columns with an accuracy or a loss, by which of the two and part of the data ("" where none is named)."""
    found: dict[tuple[str, str], list[str]] = {}
    for column, fields in log.columns.items():
        words = set(_words(column))
        measures = [measure for measure, of in _MEASURES.items() if words & of]
        parts = [part for part, of in _PARTS.items() if words & of]
        known = _PADDING.union(*_MEASURES.values(), *_PARTS.values())
        if len(measures) == 1 and len(parts) < 2 and words <= known and any(fields):
            found.setdefault((measures[0], parts[0] if parts else ""), []).append(column)
    return found


def _accuracies(log: Log, measured: dict, notes: list[str], is_needed: bool) -> dict[str, str]:
    """The column of the accuracy, that of the test set before the validation set's, and that of the training set."""
    candidates = {part: measured[("accuracy", part)] for part in (*_PARTS, "") if measured.get(("accuracy", part))}
    training = candidates.pop("training", [])
    # After training, Lightning tests once; a curve has as many accuracies as there are.
    counts = {part: max(sum(map(bool, log.columns[each])) for each in of) for part, of in candidates.items() if part}
    part = max(counts, key=counts.get, default="")
    if not candidates:
        if is_needed:
            names = ", ".join(log.columns)
            raise UserError(f"{log} has no accuracy among its columns {names}; name it: --columns accuracy=COLUMN")
        return {}
    if len(candidates[part]) > 1:
        raise _ambiguous(log, "accuracy", candidates[part])
    others = {other: of for other, of in candidates.items() if other and other != part}
    if others:
        notes.append(f"accuracy is that of the {part} set, not {', '.join(*others.values())}")
    elif part == "validation":
        notes.append("accuracy is that of the validation set: no other is logged as often")
    if part and "" in candidates:  # Keras: a running mean over the training batches
        training = training or candidates[""]
    return {"accuracy": candidates[part][0]} | ({"train_accuracy": training[0]} if len(training) == 1 else {})


def _losses(log: Log, measured: dict) -> dict[str, str]:
    """The columns of the losses; a loss without the name of a part is the training set's, where the other has one."""
    losses = {part: of[0] for (measure, part), of in measured.items() if measure == "loss" and len(of) == 1}
    found = {"test_loss": losses.get("test") or losses.get("validation")}
    training = [losses[part] for part in ("training", "") if part in losses and (part or found["test_loss"])]
    # In the end Hugging Face notes the mean of all, as train_loss.
    found["train_loss"] = max(training, key=lambda each: sum(map(bool, log.columns[each])), default=None)
    return {ours: theirs for ours, theirs in found.items() if theirs}


def _ambiguous(log: Log, ours: str, columns: list[str]) -> UserError:
    flag = f"--batch-size {columns[0]!r}" if ours == "batch_size" else f"--columns {ours}={columns[0]!r}"
    return UserError(f"{log} has two columns that may be {ours}, {' and '.join(columns[:2])}; choose one, as in {flag}")


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def _plain(name: str) -> str:
    """`_step`, `Step` and `config/step` are `step`."""
    name = "_".join(re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    return re.sub(r"^(config|hparams|params|args)_", "", name)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?\d+(\.\d+)?", text))


OURS = ("accuracy", "error", "train_accuracy", "train_loss", "test_loss", "experiment", *NAMES)
