"""Findings as one JSON object: dicts, lists, numbers, text and None. Its form is a contract, see README."""

import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from batchscale.analysis import tables
from batchscale.analysis.advice import Advice, Prediction
from batchscale.analysis.breaking_point import CURRENCIES, BreakingPoint
from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.findings import Effect, Findings, ModeFindings, NoiseScale
from batchscale.analysis.landscape import Landscape
from batchscale.analysis.projection import Projection, Scaling
from batchscale.analysis.reasons import Reason, together
from batchscale.analysis.sentences import accuracy
from batchscale.analysis.threshold import Threshold
from batchscale.records.study import AGREEING


def json_object(found: Findings) -> dict:
    """All of it. Fractions are 0-1, times seconds, intervals 95 %; None is undetermined, with a `reason` beside it."""
    rows = found.frontier.to_dict("records")
    for row in rows:
        if row["dominated_by"] is not None:
            row["dominated_by"] = dict(zip(("experiment", "batch_size"), row["dominated_by"], strict=True))
    return plain(
        {
            "runs": len(found.trained.runs),
            "settings": {field: found.study.setting(field) for field in AGREEING},
            "threshold": None if found.threshold is None else _threshold(found.threshold),
            "target": found.target,
            "target_reason": found.to_target.reason,
            "final_epochs": found.final_epochs,
            "modes": {name: _mode(mode, found) for name, mode in found.modes.items()},
            "effects": [_effect(effect) for effect in found.effects],
            "landscape": None if found.landscape is None else _landscape(found.landscape),
            "frontier": rows,
            "missing": [str(remark) for remark in found.remarks],
        }
    )


def advice_object(found: Advice) -> dict:
    """Advice, with all that was measured. It is also what `advice.json` holds and `find` reads."""
    measured = found.measured
    return plain(
        {
            "experiment": asdict(measured.experiment),
            "train_images": measured.train_images,
            "device": measured.device,
            "throughput": list(measured.throughput),
            "largest_that_fits": {"batch_size": measured.largest, "limit": measured.limit},
            "full_from": found.full_from,
            "evaluation_seconds": measured.evaluation_seconds,
            "rule": found.rule,
            "rules": {rule: _prediction(each, measured.updates_per_epoch) for rule, each in found.predictions.items()},
            "noise_scale": [asdict(each) for each in measured.noise_scales],
            "batch_sizes": [asdict(row) for row in found.table],
            "recommended": None if found.recommended is None else asdict(found.recommended),
            "saving_up_to": found.saving_up_to,
            "schedule": None if found.schedule is None else asdict(found.schedule),
            "window": measured.window,
            "seconds": measured.seconds,
            "reason": together(found.reasons),
        }
    )


def _prediction(found: Prediction, updates_per_epoch: int) -> dict:
    values = {name: getattr(found, name) for name in ("estimate", "low", "high", "is_at_least", "destroyed_from")}
    names = ("updates", "estimate", "low", "high", "largest", "destroyed_from", "start", "half", "whole")
    checkpoints = [
        {"epoch": local.updates / updates_per_epoch}
        | {name: getattr(local, name) for name in names}
        | {"losses": [{"batch_size": size, "loss": loss} for size, loss in local.losses]}
        | {"reason": together(local.reasons)}
        for local in found.locals
    ]
    return values | {"reason": together(found.reasons), "checkpoints": checkpoints}


def projection_object(found: Projection) -> dict:
    """A projection, with the time for every batch size and number of workers."""
    return plain(
        {
            "target": found.target,
            "gradient_bytes": found.gradient_bytes,
            "interconnects": {label: asdict(link) for label, link in found.interconnects.items()},
            "seconds_per_update": [
                {"batch_size": size, "seconds": seconds} for size, seconds in found.seconds_per_update.items()
            ],
            "modes": {
                name: {
                    "batch_sizes": [{"batch_size": size, "updates": updates} for size, updates in mode.updates.items()],
                    "reason": mode.reason,
                    "interconnects": {label: _scaling(scaling) for label, scaling in mode.scalings.items()},
                }
                for name, mode in found.modes.items()
            },
            "missing": [str(remark) for remark in found.remarks],
        }
    )


def _scaling(found: Scaling) -> dict:
    return {
        "pays_up_to": found.pays_up_to and found.pays_up_to.workers,
        "half_efficient_up_to": found.half_efficient_up_to,
        "fastest": found.fastest and found.fastest.workers,
        "workers": [asdict(each) for each in found.workers],
        "times": found.times.to_dict("records"),
        "reason": together(found.reasons),
    }


def plain(value):
    """Only what JSON knows: no NumPy, tuples as lists, reasons as text, None for what is not a finite number."""
    if isinstance(value, Reason):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _threshold(found: Threshold) -> dict:
    names = ("accuracy", "best", "tolerance", "from_batch_size", "mean", "optimism", "standard_deviation", "seeds")
    low, high = found.interval
    reason = None if found.error >= 0 else Reason.of("one seed")
    one = found.reference[0] if len(found.reference) == 1 else list(found.reference) or None
    return {name: getattr(found, name) for name in names} | {
        "reference": one,
        "low": low,
        "high": high,
        "reason": reason,
        "records": found.records,
    }


def _mode(mode: ModeFindings, found: Findings) -> dict:
    name, at = mode.mode.name, found.to_threshold
    return {
        "breaking_point": {currency: _point(mode.breaking_points[currency]) for currency in CURRENCIES},
        "critical_batch_size": _critical(mode.critical),
        "at_threshold": None
        if at is None
        else {
            "updates": _point(at.in_updates[name]),
            "time": _point(at.in_time[name]),
            "critical_batch_size": _critical(at.critical[name]),
        },
        "batch_sizes": _batch_sizes(mode, found),
        "regimes": mode.regimes.to_dict("records"),
        "noise_scale": _noise_scale(mode.noise_scale),
        "sentence": accuracy(mode, found.threshold),
    }


def _point(point: BreakingPoint) -> dict:
    values = {name: getattr(point, name) for name in ("estimate", "low", "high", "between")}
    return values | {"reason": together(point.reasons), "records": point.records}


def _landscape(found: Landscape) -> dict:
    low, high = found.interval
    return {
        "exponent": found.exponent,
        "low": low,
        "high": high,
        "reason": together(found.reasons),
        "fitted": found.fitted,
        "best": found.best.to_dict("records"),
        "cells": found.cells.to_dict("records"),
    }


def _critical(fit: CriticalBatchSize) -> dict:
    """A fit, its reasons in one line."""
    values = {name: value for name, value in vars(fit).items() if name != "reasons"}
    return values | {"reason": together(fit.reasons)}


def _noise_scale(noise: NoiseScale | None) -> dict | None:
    """Median and range over the runs of a mode."""
    if noise is None:
        return None
    values = {name: getattr(noise, name) for name in ("median", "low", "high", "runs")}
    return values | {"reason": together(noise.reasons)}


def _batch_sizes(mode: ModeFindings, found: Findings) -> list[dict]:
    """One row per batch size of the mode's curve, the smaller ones included."""
    accuracies = pd.concat([mode.smaller, mode.losses]).drop(columns=["experiment", "freedom"])
    runs = tables.curve(found.to_target.runs, mode.mode, replace(mode.beginning, first=0))
    means = tables.means_to_target(runs.assign(experiment=mode.mode.name)).drop(columns="experiment")
    means = means.rename(columns={name: f"{name}_to_target" for name in tables.AMOUNTS})
    return accuracies.merge(means, on="batch_size", how="outer").sort_values("batch_size").to_dict("records")


def _effect(effect: Effect) -> dict:
    names = {"effect": effect.name, "of": effect.of.name, "over": effect.over.name}
    return names | {"batch_sizes": effect.differences.to_dict("records"), "reason": effect.reason}
