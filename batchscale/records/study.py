"""The records of a folder as one value: its epochs, its runs with their status, and the settings of each run.

study = Study.load("data")
study.epochs                        # a frame, one row per epoch, columns as in `Epoch`
study.runs                          # a frame, one row per run: experiment, batch_size, seed, status
study.goals                         # a frame, what runs needed to reach a target, where that is all that is known
study.groups()                      # parts whose settings agree, the largest first
study.where(width=0.25)             # the runs with that setting
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property

import numpy as np
import pandas as pd

from batchscale import modes
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.modes import Mode
from batchscale.paths import typed
from batchscale.records.csvs import RUN, no_results
from batchscale.records.tables import contents, digest_of, elsewhere, frames_of, sidecars

Run = tuple[str, int, int]

# Settings in which runs must agree before they can be compared; modes differ in nothing but their rule.
AGREEING = (
    *("dataset", "train_size", "augment", "model", "width", "optimizer", "momentum", "weight_decay"),
    *("base_lr", "reference_batch_size", "decay", "precision"),
)
MADE_OF = ("data", "network")  # in which they must agree where their sidecars note them
RULE = ("lr_scaling", "warmup", "warmup_epochs")  # in which the runs of one mode must agree
LANDSCAPE = "landscape"  # subfolder of a study with runs at other learning rates
TIMES = ["running_time", "epoch_time", "images_per_second"]

_DEFAULTS = {field.name: field.default for field in fields(Experiment) if field.default is not MISSING}


@dataclass(frozen=True, eq=False)
class Study:
    """Runs that are analysed together. Make one with `load` or `of`.

    Attributes:
        epochs: one row per epoch, columns as in `Epoch`, sorted by run and epoch. In somebody else's log `epoch` may be
            NaN, skip some, or have fractions; in a table of final accuracies a run has one row, without `epoch` and
            `updates`.
        runs: one row per run: `experiment`, `batch_size`, `seed`, and `status`, which is "complete", "running" or
            "diverged", or "unknown" for a run without a sidecar. A run that diverged in its first epoch has no epochs.
        sidecars: contents of the sidecars by run.
        folder: name of the folder, for sentences.
        digest: SHA-256 of the CSVs, see `tables.digest`; of the whole folder, also for a part of it.
        goals: one row per run and target of the tables that say what a run needed to reach it: the run, `target`,
            `updates`, `epochs` and `running_time` (NaN: never reached, or unknown), and `updates_trained`.
        elsewhere: subfolders whose CSVs were not read, with their number, see `tables.elsewhere`.
    """

    epochs: pd.DataFrame
    runs: pd.DataFrame
    sidecars: Mapping[Run, dict]
    folder: str = ""
    digest: str = ""
    goals: pd.DataFrame = dataclasses.field(default_factory=no_results)
    elsewhere: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, data_dir: str | os.PathLike) -> "Study":
        """All records of a folder. Needs the CSVs alone; a missing or empty folder gives a study without runs.

        Raises:
            UserError: the folder or a file in it cannot be read, or two hold the same run, see `tables.frames_of`.
        """
        folder = typed(data_dir, "data_dir")
        csvs, beside = contents(folder, ".csv"), sidecars(folder)
        epochs, goals = frames_of(csvs, beside)
        study = cls.of(epochs, sidecars=beside, goals=goals)
        return replace(study, folder=folder.resolve().name, digest=digest_of(csvs), elsewhere=elsewhere(folder))

    @classmethod
    def of(
        cls,
        epochs: pd.DataFrame,
        *,
        diverged: Collection[Run] = (),
        sidecars: Iterable[dict] = (),
        folder: str = "",
        goals: pd.DataFrame | None = None,
    ) -> "Study":
        """A study of these epochs and results. A CSV does not say that its run diverged: `diverged` or a sidecar does.

        Sidecars of runs that have no epochs and did not diverge are left out.
        """
        contents = {_run(content["experiment"]): content for content in sidecars}
        goals = no_results() if goals is None else goals
        runs = [run for table in (epochs, goals) for run in _as_runs(table.drop_duplicates(RUN))]
        status = dict.fromkeys(runs, "unknown")
        for run, content in contents.items():
            if run in status or content["status"] == "diverged":
                status[run] = content["status"]
        status |= dict.fromkeys(diverged, "diverged")
        rows = [(*run, status[run]) for run in sorted(status)]
        runs = pd.DataFrame(rows, columns=[*RUN, "status"])
        known = {run: contents[run] for run in sorted(status) if run in contents}
        return cls(epochs.reset_index(drop=True), runs, known, folder, goals=goals)

    @property
    def diverged(self) -> list[Run]:
        """The runs whose loss became infinite or NaN."""
        return _as_runs(self.runs[self.runs["status"] == "diverged"])

    @cached_property
    def lost(self) -> dict[Run, tuple[int, float]]:
        """Runs that a search gave up: the epoch after which it did, and the most that their accuracy could become."""
        under_way = {run: content for run, content in self.sidecars.items() if content.get("status") == "running"}
        noted = {run: content["lost"] for run, content in under_way.items() if "lost" in content}
        return {run: (int(each["epoch"]), float(each["at_most"])) for run, each in noted.items()}

    @cached_property
    def settings(self) -> dict[Run, dict]:
        """The fields of the `Experiment` of every run with a sidecar; one that an older version did not know has its
        default."""
        return {run: _DEFAULTS | content["experiment"] for run, content in self.sidecars.items()}

    @cached_property
    def modes(self) -> dict[str, Mode]:
        """The modes of the runs by name, in order; the rule of each is the commonest that its runs recorded."""
        return modes.named(set(self.runs["experiment"]), self.rules)

    @cached_property
    def rules(self) -> dict[str, dict]:
        """By name of a mode, the values of `RULE` that most of its runs recorded; None for a warm-up that there is not.

        Modes without sidecars are not in it.
        """
        commonest = _commonest((run[0], _rule(settings)) for run, settings in self.settings.items())
        return {name: dict(zip(RULE, rule, strict=True)) for name, rule in commonest.items()}

    def only(self, runs: Collection[Run]) -> "Study":
        """The same study with these runs alone."""
        runs = set(runs)
        return replace(
            self,
            epochs=self.epochs[is_any(self.epochs, runs)].reset_index(drop=True),
            runs=self.runs[is_any(self.runs, runs)].reset_index(drop=True),
            goals=self.goals[is_any(self.goals, runs)].reset_index(drop=True),
            sidecars={run: content for run, content in self.sidecars.items() if run in runs},
        )

    def without(self, runs: Collection[Run]) -> "Study":
        """The same study without these runs."""
        return self.only(set(_as_runs(self.runs)) - set(runs))

    def where(self, **settings) -> "Study":
        """The runs with these settings, which are fields of `Experiment`; numbers may be given as text.

        A run without a sidecar is known by its `name`, `batch_size` and `seed` alone and has no other setting.

        Raises:
            UserError: there is no such field, or no run has these settings; the message lists what there is.
        """
        known = [field.name for field in fields(Experiment)]
        for field in settings:
            if field not in known:
                raise UserError(f"where names {field}, which is no setting; settings are {', '.join(known)}")
        found, given = self, self.folder or "these records"
        for field, wanted in settings.items():
            values = {run: found._value(run, field) for run in _as_runs(found.runs)}
            matching = [run for run, value in values.items() if _is_same(value, wanted)]
            if values and not matching:
                there = ", ".join(map(str, sorted(set(values.values()), key=_numbers_first)))
                raise UserError(f"no run in {given} has {field} {wanted}; there is {there}")
            found, given = found.only(matching), f"{given} with {field} {wanted}"
        return found

    def _value(self, run: Run, field: str):
        by_name = dict(zip(("name", "batch_size", "seed"), run, strict=True))
        return (self.settings.get(run, {}) | by_name).get(field, "unknown")

    def groups(self) -> list["Study"]:
        """Parts whose runs agree in `AGREEING` and `MADE_OF`, and whose modes each have one rule; the largest first.

        With a decay, the runs of a mode and batch size also agree in the number of epochs: their learning rates depend
        on it throughout.

        A run without a sidecar says nothing of its settings and belongs to the largest part. One whose sidecar does not
        note its data or network belongs to the largest part among those with its settings.
        """
        unknown = [run for run in _as_runs(self.runs) if run not in self.settings]
        agreeing: dict[tuple, list[Run]] = {}
        for run, settings in self.settings.items():
            agreeing.setdefault(tuple(settings.get(field) for field in AGREEING), []).append(run)
        same = list(agreeing.values())
        for field in MADE_OF:
            same = [part for runs in same for part in self._apart(runs, field)]
        parts = [part for runs in same for part in self._unusual_apart(runs)]
        largest, *others = sorted(parts, key=len, reverse=True) or [[]]
        return [self.only(part) for part in ([*largest, *unknown], *others)]

    def _apart(self, runs: list[Run], field: str) -> list[list[Run]]:
        """Parts of these runs with the same data or the same network; unknown ones belong to the largest."""
        by_value: dict[str | None, list[Run]] = {}
        for run in runs:
            by_value.setdefault(_noted(self.sidecars[run], field), []).append(run)
        unknown = by_value.pop(None, [])
        largest, *others = sorted(by_value.values(), key=len, reverse=True) or [[]]
        return [largest + unknown, *others]

    def _unusual_apart(self, runs: list[Run]) -> list[list[Run]]:
        """The runs under the usual rule of their mode, whose decay has the usual length for their batch size; beside
        them, a part for every other rule of a mode and for every other length.

        A rule is usual by its runs of usual length, so that no part is larger than that of the usual runs.
        """
        ways = {run: (_rule(self.settings[run]), _decays_over(self.settings[run])) for run in runs}
        lengths = _commonest(((*run[:2], rule), length) for run, (rule, length) in ways.items())
        as_long = {run: rule for run, (rule, length) in ways.items() if length == lengths[(*run[:2], rule)]}
        rules = _commonest((run[0], rule) for run, rule in as_long.items())
        parts: dict[tuple, list[Run]] = {}
        for run, (rule, length) in ways.items():
            is_usual = run in as_long and rule == rules[run[0]]
            part = () if is_usual else (run[0], rule, None if run in as_long else length)
            parts.setdefault(part, []).append(run)
        return list(parts.values())

    def setting(self, field: str):
        """The value that all runs with a sidecar share; None where they do not, or none has one.

        The fields of `MADE_OF` are given in a few words, and a run that does not note them shares any value.
        """
        if field in MADE_OF:
            values = {_noted(content, field) for content in self.sidecars.values()} - {None}
        else:
            values = {settings.get(field) for settings in self.settings.values()}
        return values.pop() if len(values) == 1 else None

    @cached_property
    def devices(self) -> Counter:
        """What the runs were trained on, as (type, name, threads, workers), with the number of runs."""
        return Counter(device for content in self.sidecars.values() for device in _devices(content))

    def timed(self) -> "Study":
        """The same study with the times of the commonest device alone; those of other devices become NaN.

        So do those of a run that was trained on several. A run without a sidecar keeps its times.
        """
        if len(self.devices) < 2:
            return self
        usual = self.devices.most_common(1)[0][0]
        others = [run for run, content in self.sidecars.items() if _devices(content) - {usual}]
        epochs, goals = self.epochs.copy(), self.goals.copy()
        epochs.loc[is_any(epochs, others), TIMES] = np.nan
        goals.loc[is_any(goals, others), "running_time"] = np.nan
        return replace(self, epochs=epochs, goals=goals)


def is_any(table: pd.DataFrame, runs: Collection[Run]) -> np.ndarray:
    """Which rows of a table belong to one of these runs."""
    if not len(table) or not runs:
        return np.zeros(len(table), dtype=bool)
    return pd.MultiIndex.from_frame(table[RUN]).isin(list(runs))


def _as_runs(table: pd.DataFrame) -> list[Run]:
    return list(table[RUN].itertuples(index=False, name=None))


def _run(experiment: Mapping) -> Run:
    return experiment["name"], int(experiment["batch_size"]), int(experiment["seed"])


def _commonest(pairs: Iterable[tuple[Hashable, Hashable]]) -> dict:
    """By key, the commonest of its values; of equals the first."""
    counts: dict[Hashable, Counter] = {}
    for key, value in pairs:
        counts.setdefault(key, Counter())[value] += 1
    return {key: values.most_common(1)[0][0] for key, values in counts.items()}


def _rule(settings: Mapping) -> tuple:
    scaling, warmup = settings["lr_scaling"], settings["warmup"]
    return scaling, warmup, None if warmup == "none" else settings["warmup_epochs"]


def _decays_over(settings: Mapping) -> int | None:
    """The number of epochs, on which the learning rate of every update depends; None without a decay."""
    return None if settings["decay"] == "none" else settings["epochs"]


def _noted(content: Mapping, field: str) -> str | None:
    """Data or network of a run in a few words, equal where these are equal; None if its sidecar does not note it."""
    noted = content.get(field)
    if not isinstance(noted, dict):
        return None
    if field == "data":
        return "{train_images} + {test_images} images (digest {digest:.12})".format(**noted)
    shapes = hashlib.sha256(json.dumps(noted, sort_keys=True).encode()).hexdigest()
    return f"one of {content.get('parameters')} parameters (digest of names and shapes {shapes:.12})"


def _devices(content: Mapping) -> set[tuple]:
    """What the parts of a run were trained on; an older version noted the latest alone."""
    noted = [(part["device"], part.get("workers", 1)) for part in content.get("parts", [content]) if part.get("device")]
    return {(device.get("type"), device.get("name"), device.get("threads"), workers) for device, workers in noted}


def _numbers_first(value) -> tuple:
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else str(value)


def _is_same(value, wanted) -> bool:
    """Equal as a value, or as the text of one: `--where width=0.25`."""
    if isinstance(wanted, str) and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return value == wanted or str(value).lower() == str(wanted).lower()
