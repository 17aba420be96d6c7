"""Advice in sentences: what to take, why, and what is uncertain about it. Pure functions."""

import math

from batchscale.analysis.advice import Advice, Prediction
from batchscale.analysis.local_critical_batch_size import Local
from batchscale.analysis.reasons import together
from batchscale.analysis.words import count, duration, images, interval, listed, number, percent
from batchscale.modes import rule_phrase


def recommendation(advice: Advice) -> str:
    """What to take, and what it saves."""
    row, experiment = advice.recommended, advice.measured.experiment
    if row is None:
        return f"No batch size can be recommended: {together(advice.reasons)}."
    reference = experiment.reference_batch_size
    if row.batch_size == reference:
        return f"Stay at batch size {reference}: within the prediction no larger one saves time on this device."
    warmup = f" and {count(experiment.warmup_epochs, 'epoch')} of warm-up" if experiment.warmup != "none" else ""
    return (
        f"Take batch size {row.batch_size} with learning rate {row.learning_rate:.3g}{warmup}: "
        f"{row.speedup:.2g} times faster than {reference} on this device, to the same loss."
    )


def limits(advice: Advice) -> list[str]:
    """Up to where the rule that was asked for holds, where time stops improving, and where the rate is too high."""
    main, lines = advice.main, []
    if main is not None:
        lines.append(f"{rule_phrase(advice.rule)} {_kept(main)}")
        last = max((local.largest for local in main.locals), default=0)
        if main.destroyed_from is not None:
            lines.append(f"from {main.destroyed_from} on, its rate destroys the network")
        if advice.saving_up_to is not None and advice.saving_up_to < last:
            lines.append(f"beyond {advice.saving_up_to}, no batch size that was tried saves a tenth of the time")
    lines.append(f"the device is full from batch size {advice.full_from} on")
    lines += [
        f"{rule_phrase(rule)} {_kept(found)}" for rule, found in advice.predictions.items() if rule != advice.rule
    ]
    return lines


def _kept(found: Prediction) -> str:
    if found.estimate is None and not found.is_at_least:
        return f"cannot be judged: {together(found.reasons) or 'no branch was trained'}"
    if found.estimate is None:
        return f"keeps the loss up to {images(found.low)}, the largest that was tried, at least"
    within, least = interval(found.low, found.high), " at least" if found.is_at_least else ""
    return f"needs twice the images{least} at {images(found.estimate)}{f' (95 % interval {within})' if within else ''}"


def _local(found: Local) -> str:
    if found.reasons:
        return "undetermined"
    return f"> {found.largest}" if found.estimate is None else images(found.estimate)


def uncertainty(advice: Advice) -> list[str]:
    """What the prediction rests on, and what it does not know."""
    measured, main = advice.measured, advice.main
    lines = []
    if main is not None:
        epochs = [local.updates / measured.updates_per_epoch for local in main.locals]
        each = [_local(local) for local in main.locals]
        lines.append(
            f"the prediction rests on branches after {listed(f'{epoch:.2g}' for epoch in epochs)} "
            f"{'epoch' if epochs == [1] else 'epochs'} ({listed(each)}), each over {number(measured.window)} images at "
            f"most in {count(measured.orders, 'order')}, and took {duration(measured.seconds)}"
        )
    found = [each for each in measured.noise_scales if not math.isnan(each.noise_scale)]
    if found:
        each = listed(f"{images(one.noise_scale)} ± {images(one.standard_error)}" for one in found)
        lines.append(f"the gradient noise scale at the same checkpoints is {each} images")
    elif measured.noise_scales:
        lines.append("the gradient noise scale is not measurable: the noise hides the gradient")
    lines.append("it compares training losses early in training; `find` measures the accuracy at its end")
    return lines


def schedule(advice: Advice) -> list[str]:
    """Batch sizes that grow with the critical one, where it grows."""
    found = advice.schedule
    if found is None:
        return []
    first, *others = found.stages
    then = listed(f"{stage.batch_size} after epoch {stage.epoch:.2g}" for stage in others)
    return [
        f"the critical batch size grows during training: a schedule that begins with {first.batch_size} and takes "
        f"{then} saves {percent(found.saved)} of the time against {advice.recommended.batch_size} throughout"
    ]
