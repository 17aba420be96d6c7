"""Runs of a folder as one value: status, settings, groups that can be compared, times of one device."""

import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import synthetic
from synthetic import sidecar, sidecars
from test_analysis import NOTHING, table

from batchscale.analysis import tables
from batchscale.analysis.findings import analyse
from batchscale.analysis.json_object import json_object
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records.study import AGREEING, TIMES, Study, is_any

WARM = "gradual_warmup_scaled_lr"
EPOCHS = synthetic.study(seeds=(0, 1, 2), small=(8, 32), large=(128, 512, 2048), epochs=10)
CPU = {"type": "cpu", "name": "a processor", "threads": 2}
GPU = {"type": "cuda", "name": "a graphics card", "threads": 8}


def keys(study: Study) -> list[tuple]:
    return [*study.runs[["experiment", "batch_size", "seed"]].itertuples(index=False, name=None)]


def said(study: Study, **options) -> list[str]:
    return [str(remark) for remark in analyse(study, **options).remarks]


def unequal(one, other, at: str = "") -> list[str]:
    """Where two JSON values differ, as far as 9 digits show it."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [place for key in one for place in unequal(one[key], other[key], f"{at}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [place for number, pair in pairs for place in unequal(*pair, f"{at}/{number}")]
    if isinstance(one, float) and isinstance(other, float):
        return [] if math.isclose(one, other, rel_tol=1e-9) else [at]
    return [] if one == other else [at]


def test_statuses():
    epochs = table(("mine", 8, 0, [0.1]), ("mine", 8, 1, [0.1]), ("mine", 8, 2, [0.1]), ("mine", 16, 0, [0.1]))
    beside = [
        sidecar("mine", 8, 0),
        sidecar("mine", 8, 1, "running"),
        sidecar("mine", 8, 2, "diverged"),
        sidecar("mine", 32, 0, "diverged"),  # in its first epoch
        sidecar("mine", 64, 0, "running"),  # has not finished an epoch
        sidecar("mine", 128, 0),
    ]
    study = Study.of(epochs, sidecars=beside, diverged=[("mine", 64, 1)])
    assert study.runs.values.tolist() == [
        ["mine", 8, 0, "complete"],
        ["mine", 8, 1, "running"],
        ["mine", 8, 2, "diverged"],
        ["mine", 16, 0, "unknown"],
        ["mine", 32, 0, "diverged"],
        ["mine", 64, 1, "diverged"],
    ]
    assert study.diverged == [("mine", 8, 2), ("mine", 32, 0), ("mine", 64, 1)]
    assert list(study.sidecars) == [("mine", 8, 0), ("mine", 8, 1), ("mine", 8, 2), ("mine", 32, 0)]
    assert Study.of(epochs, sidecars=beside[:1], diverged=[("mine", 8, 0)]).diverged == [("mine", 8, 0)]


def test_only_and_without():
    study = Study.of(EPOCHS, sidecars=sidecars(EPOCHS), diverged=[("mine", 8, 0)])
    chosen = [("scaled_lr", 128, 0), ("mine", 8, 0)]
    part = study.only(chosen)
    assert keys(part) == sorted(chosen)
    assert keys(study.without(chosen)) == [run for run in keys(study) if run not in chosen]
    assert part.epochs["epoch"].tolist() == list(range(1, 11))
    assert list(part.sidecars) == chosen[:1]
    assert part.diverged == chosen[1:]
    assert len(study.without(chosen).epochs) == len(EPOCHS) - 10
    assert is_any(EPOCHS, chosen).sum() == 10
    assert keys(study.only([])) == []


def test_load(tmp_path):
    folder = tmp_path / "records of mine"
    folder.mkdir()
    for run, rows in EPOCHS.groupby(["experiment", "batch_size", "seed"]):
        rows.to_csv(folder / "{}_bs{}_seed{}.csv".format(*run), index=False)
    (folder / "a.json").write_text(json.dumps(sidecar("scaled_lr", 128, 1, "running")))
    (folder / "b.json").write_text(json.dumps(sidecar("scaled_lr", 128, 7, "diverged")))
    (folder / "torn.json").write_text("{")
    study = Study.load(folder)
    assert study.folder == "records of mine"
    expected = EPOCHS.sort_values(["experiment", "batch_size", "seed", "epoch"], ignore_index=True)
    pd.testing.assert_frame_equal(study.epochs, expected, check_dtype=False)
    status = {tuple(run): status for *run, status in study.runs.values.tolist()}
    assert status.pop(("scaled_lr", 128, 1)) == "running"
    assert status.pop(("scaled_lr", 128, 7)) == "diverged"
    assert set(status.values()) == {"unknown"}
    assert len(study.digest) == 64
    assert study.where(seed=1).digest == study.digest


def loaded(folder, **csvs: str) -> Study:
    """A study of CSVs by the stems of their names, with blanks for line ends."""
    for stem, text in csvs.items():
        (folder / f"{stem}.csv").write_text(text.replace(" ", "\n") + "\n")
    return Study.load(folder)


def values(frame: pd.DataFrame, *columns: str) -> list[list]:
    return frame[list(columns)].astype(object).where(frame[list(columns)].notna(), None).values.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # columns that are missing, blank, NaN or infinite
        ("batch_size,epoch,accuracy 8,1,0.5 8,2,0.75", [[1, None, 0.5], [2, None, 0.75]]),
        ("batch_size,updates,accuracy 8,10,0.5 8,20,0.75", [[None, 10, 0.5], [None, 20, 0.75]]),
        ("batch_size,epoch,updates,accuracy 8,,10,0.5 8,,20,0.75", [[None, 10, 0.5], [None, 20, 0.75]]),
        (
            "batch_size,epoch,accuracy,test_loss,running_time 8,1,0.5,nan, 8,2,0.1,-inf,7",
            [[1, None, 0.5], [2, None, 0.1]],
        ),
        # evaluations of some epochs, in any order, with fractions, and rows that are none
        ("batch_size,epoch,accuracy 8,10,0.75 8,5,0.5", [[5, None, 0.5], [10, None, 0.75]]),
        ("batch_size,epoch,updates,accuracy 8,0.32,50,0.5 8,0.63,100,0.75", [[0.32, 50, 0.5], [0.63, 100, 0.75]]),
        ("batch_size,epoch,accuracy 8,1, 8,2,0.5 8,3,NaN 8,4,0.75", [[2, None, 0.5], [4, None, 0.75]]),
        # epochs from 0: as Keras counts, before training, and both
        ("batch_size,epoch,accuracy 8,0,0.5 8,1,0.75", [[1, None, 0.5], [2, None, 0.75]]),
        ("batch_size,epoch,accuracy 8,0, 8,1,0.5 8,3,0.75", [[2, None, 0.5], [4, None, 0.75]]),
        ("batch_size,epoch,updates,accuracy 8,0,0,0.5 8,1,9,0.75", [[0, 0, 0.5], [1, 9, 0.75]]),
        ("batch_size,epoch,updates,accuracy 8,0,9,0.5 8,1,18,0.75", [[1, 9, 0.5], [2, 18, 0.75]]),
        ("batch_size,epoch,accuracy 8,0,0.5 8,0.5,0.75", [[0, None, 0.5], [0.5, None, 0.75]]),
    ],
)
def test_logs_of_others(tmp_path, text, expected):
    study = loaded(tmp_path, theirs=text)
    assert values(study.epochs, "epoch", "updates", "accuracy") == expected
    assert study.runs.values.tolist() == [["theirs", 8, 0, "unknown"]]
    assert study.epochs["test_loss"].isna().all()


def test_each_run_of_a_log_has_its_own_first_epoch(tmp_path):
    text = "batch_size,seed,epoch,accuracy 8,0,0,0.5 8,0,1,0.75 8,3,1,0.5 8,3,2,0.75"
    assert values(loaded(tmp_path, theirs=text).epochs, "seed", "epoch") == [[0, 1], [0, 2], [3, 1], [3, 2]]


def test_a_gap_is_damage_in_a_record_and_none_in_a_log(tmp_path):
    """What makes a record is its columns, or a sidecar."""
    text = "batch_size,epoch,accuracy,generalization_error,running_time 8,1,0.5,0.1,1 8,3,0.5,0.1,3"
    assert len(loaded(tmp_path, mine_bs8_seed0=text).epochs) == 2
    (tmp_path / "mine_bs8_seed0.json").write_text(json.dumps({"some": "settings"}))
    assert len(Study.load(tmp_path).epochs) == 2
    (tmp_path / "mine_bs8_seed0.json").write_text(json.dumps(sidecar("mine", 8, 0)))
    with pytest.raises(UserError, match="has the epochs 1, 3; they must be 1, 2, 3 and so on: restore the file"):
        Study.load(tmp_path)
    (tmp_path / "mine_bs8_seed0.json").unlink()
    damaged = table(("mine", 8, 0, [0.1, 0.2, 0.3])).drop(index=1)
    damaged.to_csv(tmp_path / "mine_bs8_seed0.csv", index=False)
    with pytest.raises(UserError, match="has the epochs 1, 3; they must be 1, 2, 3 and so on: restore the file"):
        Study.load(tmp_path)


def test_a_table_of_final_accuracies(tmp_path):
    study = loaded(
        tmp_path, mine="batch_size,accuracy 8,0.5 16,0.75 8,0.625", other_bs4_seed2="batch_size,accuracy 4,0.5"
    )
    expected = [["mine", 8, 0, 0.5], ["mine", 8, 1, 0.625], ["mine", 16, 0, 0.75], ["other", 4, 2, 0.5]]
    assert values(study.epochs, "experiment", "batch_size", "seed", "accuracy") == expected
    assert study.epochs[["epoch", "updates"]].isna().all(axis=None)
    with_seed = loaded(tmp_path, mine="batch_size,accuracy,seed 8,0.5,3 8,0.625,1")
    assert values(with_seed.only([("mine", 8, 1)]).epochs, "accuracy") == [[0.625]]
    with pytest.raises(UserError, match="line 3: mine B=8 seed 3 is listed twice; tell runs apart by a column seed"):
        loaded(tmp_path, mine="batch_size,accuracy,seed 8,0.5,3 8,0.625,3")


GOALS = "experiment,batch_size,target,updates_to_target,running_time_to_target,updates"
GOALS += " a,8,0.5,100,10,900 a,8,0.5,,,800 a,16,0.5,60.5,9, b,8,0.5,90,8,"


def test_a_table_of_steps_to_a_target(tmp_path):
    study = loaded(tmp_path, goals=GOALS, curve="batch_size,epoch,accuracy 8,1,0.5")
    found = [
        ["a", 8, 0, 100, 10, 900],
        ["a", 8, 1, None, None, 800],
        ["a", 16, 0, 60.5, 9, None],
        ["b", 8, 0, 90, 8, None],
    ]
    columns = ("experiment", "batch_size", "seed", "updates", "running_time", "updates_trained")
    assert values(study.goals, *columns) == found
    assert list(study.goals) == ["experiment", "batch_size", "seed", "target", *study.goals.columns[4:]]
    assert study.goals["epochs"].isna().all()
    assert keys(study) == [("a", 8, 0), ("a", 8, 1), ("a", 16, 0), ("b", 8, 0), ("curve", 8, 0)]
    assert set(study.runs["status"]) == {"unknown"}
    part = study.where(name="a").without([("a", 8, 1)])
    assert values(part.goals, *columns) == [found[0], found[2]]
    assert values(study.groups()[0].goals, *columns) == found
    assert Study.of(EPOCHS).goals.empty
    assert list(Study.of(EPOCHS).goals) == list(study.goals)


def test_goals_lose_their_times_with_the_epochs(tmp_path):
    goals = loaded(tmp_path, goals=GOALS).goals
    beside = [sidecar("a", 8, 0), sidecar("a", 16, 0), sidecar("b", 8, 0)]
    for content, device in zip(beside, (CPU, GPU, GPU), strict=True):
        content |= {"device": device}
    study = Study.of(EPOCHS[:0], sidecars=beside, goals=goals).timed()
    assert values(study.goals, "running_time") == [[None], [None], [9], [8]]


def test_results_and_final_accuracies_are_one_table(tmp_path):
    study = loaded(
        tmp_path, mine="batch_size,accuracy,target,updates_to_target 8,0.75,0.5,40 8,0.75,0.7,90 16,0.5,0.5,30"
    )
    assert values(study.goals, "batch_size", "seed", "target", "updates") == [
        [8, 0, 0.5, 40],
        [8, 0, 0.7, 90],
        [16, 0, 0.5, 30],
    ]
    assert values(study.epochs, "batch_size", "seed", "accuracy") == [[8, 0, 0.75], [16, 0, 0.5]]


def test_subfolders_are_counted(tmp_path):
    for place in ("a", "a/b", "a/b", "c", ".hidden", "figures", "a/b/c/d"):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{len(list(folder.iterdir()))}.csv").touch()
    (tmp_path / "a" / "notes.txt").touch()
    study = loaded(tmp_path, mine="batch_size,accuracy 8,0.5")
    assert study.elsewhere == {"a": 1, "a/b": 2, "c": 1}
    assert study.where(batch_size=8).elsewhere == study.elsewhere
    assert Study.of(EPOCHS).elsewhere == {}


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_load_of_a_missing_or_empty_folder(tmp_path, name):
    study = Study.load(tmp_path / name)
    assert study.runs.empty
    assert study.epochs.empty
    assert study.modes == study.settings == {}
    assert study.diverged == []
    assert keys(study.groups()[0]) == keys(study.where(width=1, seed=2)) == []
    assert len(study.groups()) == 1
    assert study.timed() is study
    assert study.setting("width") is None
    assert said(study) == ["there are no records"]


def test_settings_that_an_older_version_did_not_know_have_their_defaults():
    old = {"status": "complete", "experiment": {"name": "scaled_lr", "batch_size": 128, "seed": 0}}
    study = Study.of(table(("scaled_lr", 128, 0, [0.1])), sidecars=[old])
    (settings,) = study.settings.values()
    plain = Experiment(batch_size=128)
    for field in (*AGREEING, "lr_scaling", "warmup"):
        assert settings[field] == (None if field == "width" else getattr(plain, field))
    assert study.setting("precision") == "fp32"


def test_setting_is_what_all_runs_share():
    beside = sidecars(EPOCHS, {"scaled_lr": {"weight_decay": 0.1}}, width=0.5)
    study = Study.of(EPOCHS, sidecars=beside)
    assert study.setting("width") == 0.5
    assert study.setting("weight_decay") is None
    assert study.where(name="scaled_lr").setting("weight_decay") == 0.1


class TestGroups:
    def test_runs_of_another_data_set_leave_every_verdict_as_it_is_and_are_named(self):
        """A trial on digits, left in the folder of CIFAR-10, that would set the threshold."""
        alone = Study.of(EPOCHS, sidecars=sidecars(EPOCHS))
        trial = table(("baseline_small", 8, 3, [0.5, 0.98] + 8 * [0.99]), ("scaled_lr", 128, 3, 10 * [0.99]))
        digits = {"dataset": "digits", "width": 0.5}
        both = pd.concat([EPOCHS, trial], ignore_index=True)
        mixed = Study.of(both, sidecars=[*sidecars(EPOCHS), *sidecars(trial, **digits)])
        assert [len(group.runs) for group in mixed.groups()] == [len(alone.runs), 2]
        ours, theirs = json_object(analyse(alone)), json_object(analyse(mixed))
        assert theirs.pop("missing") == [
            "2 runs left out, because settings differ: dataset is digits instead of cifar10, width is 0.5 instead of "
            "0.25",
            *ours.pop("missing"),
        ]
        assert unequal(ours, theirs) == []
        assert ours["settings"]["dataset"] == "cifar10"
        chosen = analyse(mixed.where(dataset="digits"))
        assert chosen.threshold.best == pytest.approx(0.99)
        # Without sidecars nothing tells them apart, and the trial would win.
        assert analyse(Study.of(both)).threshold.best > alone_best(ours) + 0.01

    @pytest.mark.parametrize("field", AGREEING)
    def test_every_setting_in_which_runs_must_agree(self, field):
        other = {"dataset": "digits", "model": "mine:net", "precision": "bf16", "train_size": 100}
        beside = sidecars(EPOCHS)
        for content in beside:
            if content["experiment"]["seed"] == 2:
                content["experiment"][field] = other.get(field, 7)
        study = Study.of(EPOCHS, sidecars=beside)
        assert [{seed for _, _, seed in keys(group)} for group in study.groups()] == [{0, 1}, {2}]
        here = beside[0]["experiment"][field]
        shown = "not set" if here is None else here
        words = f"left out, because settings differ: {field} is {other.get(field, 7)} instead of {shown}"
        assert said(study)[0] == f"{len(study.groups()[1].runs)} runs {words}"

    @pytest.mark.parametrize("field", ["seed", "batch_size", "epochs", "micro_batch_size", "device"])
    def test_other_settings_may_differ(self, field):
        beside = sidecars(EPOCHS)
        for content in beside:
            if content["experiment"]["seed"] == 2 and field not in ("seed", "batch_size"):
                content["experiment"][field] = 7
        assert len(Study.of(EPOCHS, sidecars=beside).groups()) == 1

    def made_of(self, **by_seed) -> Study:
        """Seeds 0, 1 and 2, whose sidecars note these data or networks."""
        beside = sidecars(EPOCHS)
        for content in beside:
            content |= by_seed.get(f"seed{content['experiment']['seed']}", {})
        return Study.of(EPOCHS, sidecars=beside)

    def test_runs_on_other_data_are_left_out_and_named(self):
        """Two letters of the digest tell them apart, and nobody needs 64."""
        ours, other = (
            {"data": {"name": "my:load", "train_images": images, "test_images": 40, "digest": letter * 64}}
            for images, letter in ((160, "a"), (320, "b"))
        )
        study = self.made_of(seed0=ours, seed1=ours, seed2=other)
        assert [{seed for _, _, seed in keys(group)} for group in study.groups()] == [{0, 1}, {2}]
        runs = len(study.groups()[1].runs)
        assert said(study)[0] == (
            f"{runs} runs left out, because settings differ: data is 320 + 40 images (digest bbbbbbbbbbbb) instead of "
            f"160 + 40 images (digest aaaaaaaaaaaa)"
        )
        assert analyse(study).study.setting("data") == "160 + 40 images (digest aaaaaaaaaaaa)"

    def test_runs_of_another_network_are_left_out_and_named(self):
        ours, other = ({"network": {"fc.weight": shape}, "parameters": 840} for shape in ("84x10", "10x84"))
        study = self.made_of(seed0=ours, seed1=ours, seed2=other)
        assert [{seed for _, _, seed in keys(group)} for group in study.groups()] == [{0, 1}, {2}]
        assert re.search(
            r"settings differ: network is one of 840 parameters \(digest of names and shapes \w{12}\) instead of",
            said(study)[0],
        )

    def test_unknown_data_are_those_of_the_others(self):
        data = {"name": "my:load", "train_images": 160, "test_images": 40, "digest": "a" * 64}
        assert len(self.made_of(seed0={"data": data}).groups()) == 1
        study = self.made_of(seed0={"data": data}, seed2={"data": data | {"digest": "b" * 64}})
        # Seeds 0 and 2 are equally many: the first one counts.
        assert [{seed for _, _, seed in keys(group)} for group in study.groups()] == [{0, 1}, {2}]
        other_rule = self.made_of(seed0={"data": data}, seed1={"data": data})
        for run, content in other_rule.sidecars.items():
            if run[0] == "scaled_lr" and run[2] == 2:
                content["experiment"]["lr_scaling"] = "sqrt"
        assert "because the rule differs: lr_scaling is sqrt instead of linear" in said(other_rule)[0]

    def test_runs_without_sidecars_join_the_largest(self):
        known = sidecars(EPOCHS)
        for content in known:
            if content["experiment"]["seed"] == 2:
                content["experiment"]["width"] = 1.0
        missing = [content for content in known if content["experiment"]["seed"] == 1]
        study = Study.of(EPOCHS, sidecars=[content for content in known if content not in missing])
        # Seeds 0 and 2 are equally many: the first one counts.
        assert [{seed for _, _, seed in keys(group)} for group in study.groups()] == [{0, 1}, {2}]
        runs = len(missing)
        assert said(study)[:2] == [
            f"{runs} runs left out, because settings differ: width is 1.0 instead of 0.25",
            f"no sidecars beside {runs} of {2 * runs} runs; the settings of the others are assumed for them",
        ]

    def test_no_sidecars_at_all(self):
        study = Study.of(EPOCHS)
        (group,) = study.groups()
        assert keys(group) == keys(study)
        assert said(study) == []

    def test_a_mode_with_two_rules_has_the_commoner_one(self):
        beside = sidecars(EPOCHS)
        for content in beside:
            if (content["experiment"]["name"], content["experiment"]["seed"]) == ("scaled_lr", 1):
                content["experiment"]["lr_scaling"] = "sqrt"
        study = Study.of(EPOCHS, sidecars=beside)
        first, second = study.groups()
        assert keys(second) == [("scaled_lr", size, 1) for size in (128, 512, 2048)]
        assert len(first.runs) == len(study.runs) - 3
        words = "3 runs of scaled_lr left out, because the rule differs: lr_scaling is sqrt instead of linear"
        assert words in said(study)
        found = analyse(study)
        assert found.modes["scaled_lr"].mode.phrase == "the linear rule without warm-up"
        assert set(found.finals.query("experiment == 'scaled_lr'")["seed"]) == {0, 2}

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"warmup_epochs": 1.0}, "warmup_epochs is 1.0 instead of 2.0"),
            (
                {"warmup": "constant", "warmup_epochs": 1.0},
                "warmup is constant instead of gradual, warmup_epochs is 1",
            ),
            ({"warmup": "none"}, "warmup is none instead of gradual"),
        ],
    )
    def test_the_warm_up_belongs_to_the_rule(self, settings, words):
        beside = sidecars(EPOCHS)
        for content in beside:
            if content["experiment"]["name"] == WARM and content["experiment"]["seed"] == 1:
                content["experiment"] |= settings
        (remark, *_) = said(Study.of(EPOCHS, sidecars=beside))
        assert remark.startswith(f"3 runs of {WARM} left out, because the rule differs: {words}")
        assert "None" not in remark
        assert remark.count(" instead of ") == len(settings)

    def test_the_length_of_a_warm_up_that_there_is_not_does_not_count(self):
        beside = sidecars(EPOCHS)
        for number, content in enumerate(beside):
            if content["experiment"]["name"] == "scaled_lr":
                content["experiment"]["warmup_epochs"] = float(number)
        assert len(Study.of(EPOCHS, sidecars=beside).groups()) == 1

    def test_a_rule_is_the_commoner_one_among_runs_that_can_be_compared(self):
        """More runs of the mode in another data set, under another rule, do not push out those of this one."""
        own = EPOCHS.replace({"experiment": {"scaled_lr": "mine"}})
        trial = table(*[("mine", size, seed, [0.9]) for size in (64, 256, 1024) for seed in range(5)])
        beside = [
            *sidecars(own, {"mine": {"lr_scaling": "linear"}}),
            *sidecars(trial, dataset="digits", lr_scaling="sqrt"),
        ]
        study = Study.of(pd.concat([own, trial], ignore_index=True), sidecars=beside)
        assert study.modes["mine"].lr_scaling == "sqrt"
        largest, other = study.groups()
        assert keys(largest) == keys(Study.of(own))
        assert keys(other) == keys(Study.of(trial))
        found = analyse(study)
        assert found.modes["mine"].mode.lr_scaling == "linear"
        assert str(found.remarks[0]).startswith("15 runs left out, because settings differ: dataset is digits")

    def decaying(self, lengths) -> Study:
        """Runs with a linear decay over these epochs, by `lengths(name, batch_size, seed)`."""
        beside = sidecars(EPOCHS, decay="linear")
        for content in beside:
            experiment = content["experiment"]
            experiment["epochs"] = lengths(experiment["name"], experiment["batch_size"], experiment["seed"])
        return Study.of(EPOCHS, sidecars=beside)

    def test_the_length_of_a_decay_belongs_to_the_rule(self):
        study = self.decaying(lambda name, size, seed: 20 if (name, seed) == ("scaled_lr", 0) else 10)
        first, second = study.groups()
        assert keys(second) == [("scaled_lr", size, 0) for size in (128, 512, 2048)]
        assert keys(first) == [run for run in keys(study) if run not in keys(second)]
        assert said(study)[0] == (
            "3 runs of scaled_lr left out, because the rule differs: decay is linear over 20 epochs instead of linear "
            "over 10 epochs"
        )
        found = analyse(study)
        assert found.modes["scaled_lr"].mode.phrase == "the linear rule without warm-up"
        assert set(found.finals.query("experiment == 'scaled_lr'")["seed"]) == {1, 2}

    def test_decays_may_differ_in_length_between_modes_and_batch_sizes(self):
        lengths = {8: 3, 32: 5, 128: 10, 512: 20, 2048: 40}
        assert len(self.decaying(lambda name, size, seed: lengths[size] + (name == WARM)).groups()) == 1
        # Here seed 1 alone has 10 epochs at 8 and 512, where the others have 3 and 20.
        study = self.decaying(lambda name, size, seed: 10 if seed == 1 and size in (8, 512) else lengths[size])
        by_mode = [[("baseline_large", 512, 1)], [("baseline_small", 8, 1)], [(WARM, 512, 1)], [("scaled_lr", 512, 1)]]
        assert sorted(keys(group) for group in study.groups()[1:]) == by_mode
        words = (
            "1 run of {} left out, because the rule differs: decay is linear over 10 epochs instead of linear over {}"
        )
        assert sorted(said(study)[:4]) == [
            words.format("baseline_large", "20 epochs"),
            words.format("baseline_small", "3 epochs"),
            words.format(WARM, "20 epochs"),
            words.format("scaled_lr", "20 epochs"),
        ]

    def test_one_remark_names_the_runs_of_a_mode_with_another_length(self):
        lengths = {8: 10, 32: 10, 128: 1, 512: 20, 2048: 30}
        study = self.decaying(lambda name, size, seed: 40 if (name, seed) == ("scaled_lr", 2) else lengths[size])
        assert said(study)[0] == (
            "3 runs of scaled_lr left out, because the rule differs: decay is linear over 40 epochs instead of linear "
            "over 1, 20 or 30 epochs"
        )

    def test_without_a_decay_runs_of_another_length_are_as_they_were(self):
        study = self.decaying(lambda name, size, seed: 20 if seed == 0 else 10)
        for content in study.sidecars.values():
            content["experiment"]["decay"] = "none"
        assert len(study.groups()) == 1
        study = self.decaying(lambda name, size, seed: 10)
        for (_, _, seed), content in study.sidecars.items():
            content["experiment"] |= {"decay": "none", "epochs": 20} if seed == 2 else {}
        assert said(study)[0] == "11 runs left out, because settings differ: decay is none instead of linear"

    def test_a_rule_is_usual_by_its_runs_of_usual_length(self):
        """More runs of another rule do not count where no two of them are alike."""
        epochs = table(*[("mine", 128, seed, [0.5]) for seed in range(11)], ("baseline_small", 8, 0, [0.6]))
        beside = [sidecar("mine", 128, seed, decay="cosine", epochs=seed + 3) for seed in range(6)]
        beside += [sidecar("mine", 128, seed, decay="cosine", epochs=9, lr_scaling="sqrt") for seed in range(6, 11)]
        study = Study.of(epochs, sidecars=[*beside, sidecar("baseline_small", 8, 0, decay="cosine")])
        largest, *others = study.groups()
        assert keys(largest) == [("baseline_small", 8, 0), *(("mine", 128, seed) for seed in range(6, 11))]
        assert [len(group.runs) for group in others] == [1] * 6
        assert largest.modes["mine"].lr_scaling == "sqrt"
        assert said(study)[:6] == 6 * [
            "1 run of mine left out, because the rule differs: lr_scaling is none instead of sqrt"
        ]

    def test_groups_share_out_all_runs(self):
        """Whatever differs: each run is in one group, and none is larger than the first."""
        generator = np.random.default_rng(0)
        for trial in range(20):
            beside = [content for content in sidecars(EPOCHS) if generator.random() < 0.8]
            for content in beside:
                content["experiment"]["width"] = generator.choice([0.25, 0.5])
                content["experiment"]["lr_scaling"] = str(generator.choice(["none", "linear"]))
                content["experiment"]["decay"] = "linear" if trial % 2 else "none"
                content["experiment"]["epochs"] = int(generator.choice([10, 20]))
            study = Study.of(EPOCHS, sidecars=beside)
            groups = study.groups()
            assert sorted(itertools.chain.from_iterable(map(keys, groups))) == keys(study)
            sizes = [len(group.sidecars) for group in groups]
            assert sizes == sorted(sizes, reverse=True)
            for group in groups:
                rules = {(run[0], each["lr_scaling"], each["warmup"]) for run, each in group.settings.items()}
                assert len(rules) == len({name for name, *_ in rules})
                assert len({each["width"] for each in group.settings.values()}) <= 1
                lengths = {(*run[:2], each["epochs"]) for run, each in group.settings.items()}
                assert trial % 2 == 0 or len(lengths) == len({run[:2] for run in group.settings})
            if trial < 3:
                assert said(study, target=0.7)  # every remark has its words


def alone_best(result: dict) -> float:
    return result["threshold"]["best"]


class TestWhere:
    STUDY = Study.of(
        EPOCHS, sidecars=sidecars(EPOCHS, {"scaled_lr": {"width": 1.0}, WARM: {"precision": "bf16"}}), folder="data"
    )

    @pytest.mark.parametrize(
        ("settings", "names"),
        [
            ({"width": 0.25}, ["baseline_large", "baseline_small", WARM]),
            ({"width": "0.25"}, ["baseline_large", "baseline_small", WARM]),
            ({"width": "1"}, ["scaled_lr"]),
            ({"width": 1}, ["scaled_lr"]),
            ({"precision": "BF16"}, [WARM]),
            ({"train_size": "none"}, ["baseline_large", "baseline_small", WARM, "scaled_lr"]),
            ({"train_size": None, "width": 1, "dataset": "cifar10"}, ["scaled_lr"]),
            ({"batch_size": "2048", "name": "scaled_lr"}, ["scaled_lr"]),
        ],
    )
    def test_settings_as_values_or_as_text(self, settings, names):
        assert sorted(set(self.STUDY.where(**settings).runs["experiment"])) == names

    def test_batch_size_and_seed_need_no_sidecar(self):
        study = Study.of(EPOCHS)
        assert {run[1:] for run in keys(study.where(batch_size="128", seed=2))} == {(128, 2)}
        with pytest.raises(UserError, match=r"^no run in these records has width 0.25; there is unknown$"):
            study.where(width=0.25)

    def test_unknown_field(self):
        with pytest.raises(UserError, match="where names depth, which is no setting; settings are name, batch_size"):
            self.STUDY.where(depth=3)
        with pytest.raises(UserError, match="where names depth"):
            NOTHING.where(depth=3)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"width": 0.5}, "no run in data has width 0.5; there is 0.25, 1.0"),
            ({"width": "wide"}, "no run in data has width wide; there is 0.25, 1.0"),
            ({"batch_size": 64}, "no run in data has batch_size 64; there is 8, 32, 128, 512, 2048"),
            # Of what the settings before it leave.
            ({"width": 1, "batch_size": 8}, "no run in data with width 1 has batch_size 8; there is 128, 512, 2048"),
        ],
    )
    def test_no_match_names_what_there_is(self, settings, message):
        with pytest.raises(UserError) as error:
            self.STUDY.where(**settings)
        assert str(error.value) == message


NEWER = {"optimizer": ("sgd", "adamw"), "decay": ("none", "linear"), "augment": ("none", "flip")}


class TestFieldsThatOlderSidecarsLack:
    """Decay, optimizer and augmentation: seeds 0 and 1 were recorded before there were any."""

    def study(self, **changed) -> Study:
        beside = sidecars(EPOCHS)
        for content in beside:
            if content["experiment"]["seed"] == 2:
                content["experiment"] |= changed
            else:
                for field in NEWER:
                    del content["experiment"][field]
        return Study.of(EPOCHS, sidecars=beside)

    @pytest.mark.parametrize("field", NEWER)
    def test_where(self, field):
        default, other = NEWER[field]
        study = self.study(**{field: other})
        assert {seed for _, _, seed in keys(study.where(**{field: other}))} == {2}
        assert {seed for _, _, seed in keys(study.where(**{field: default}))} == {0, 1}
        there = ", ".join(sorted((default, other)))
        with pytest.raises(UserError, match=f"no run in these records has {field} 7; there is {there}$"):
            study.where(**{field: 7})

    @pytest.mark.parametrize("field", NEWER)
    def test_they_are_left_out_and_named(self, field):
        default, other = NEWER[field]
        study = self.study(**{field: other})
        assert said(study)[0] == f"11 runs left out, because settings differ: {field} is {other} instead of {default}"
        assert json_object(analyse(study))["settings"][field] == default
        assert json_object(analyse(study.where(**{field: other})))["settings"][field] == other

    def test_runs_with_the_defaults_are_as_older_ones(self):
        assert len(self.study().groups()) == 1


class TestTimed:
    def study(self, devices: dict[int, dict | None]) -> Study:
        """Of seeds that were trained on these devices; runs on None have no sidecar."""
        beside = sidecars(EPOCHS)
        for content in beside:
            content["device"] = devices[content["experiment"]["seed"]]
        return Study.of(EPOCHS, sidecars=[content for content in beside if content["device"] is not None])

    def test_times_of_other_devices_are_left_out(self):
        study = self.study({0: CPU, 1: CPU, 2: GPU})
        timed = study.timed()
        known = timed.epochs.groupby("seed")[TIMES].count()
        assert known.loc[[0, 1]].eq(EPOCHS.groupby("seed").size()[[0, 1]], axis=0).all(axis=None)
        assert known.loc[2].tolist() == [0, 0, 0]
        rest = [column for column in EPOCHS if column not in TIMES]
        pd.testing.assert_frame_equal(timed.epochs[rest], study.epochs[rest])
        assert study.epochs["running_time"].notna().all()  # as it was
        assert study.devices.most_common(1) == [(("cpu", "a processor", 2, 1), 2 * 11)]

    def test_the_remark_says_how_many(self):
        study = self.study({0: CPU, 1: GPU, 2: CPU})
        assert said(study) == ["the times of 11 runs are left out: another device trained them"]
        assert said(self.study({0: CPU, 1: CPU, 2: CPU})) == []

    def test_verdicts_in_time_are_those_of_one_device(self):
        slow = EPOCHS.assign(running_time=EPOCHS["running_time"] * np.where(EPOCHS["seed"] == 2, 1000, 1))
        study = self.study({0: CPU, 1: CPU, 2: GPU})
        mixed = analyse(Study.of(slow, sidecars=study.sidecars.values()), target=0.6)
        alone = analyse(Study.of(EPOCHS[EPOCHS["seed"] < 2]), target=0.6)
        ours, theirs = (tables.seconds_per_update(found.study.timed().epochs) for found in (mixed, alone))
        pd.testing.assert_frame_equal(ours, theirs)
        means = mixed.to_target.means[["experiment", "batch_size", "running_time"]]
        pd.testing.assert_frame_equal(means, alone.to_target.means[means.columns])
        frontier = mixed.frontier[["experiment", "batch_size", "running_time"]]
        pd.testing.assert_frame_equal(frontier, alone.frontier[frontier.columns])
        # Accuracies and updates count, wherever a run was trained.
        assert set(mixed.finals["seed"]) == {0, 1, 2}
        assert all(mode.critical.runs == 3 * mode.curve["batch_size"].nunique() for mode in mixed.modes.values())

    def test_threads_and_workers_are_part_of_the_device(self):
        for other in (CPU | {"threads": 4}, CPU | {"name": "another processor"}):
            assert self.study({0: CPU, 1: CPU, 2: other}).timed().epochs["running_time"].isna().any()
        study = self.study({0: CPU, 1: CPU, 2: CPU})
        beside = [dict(content) for content in study.sidecars.values()]
        for content in beside:
            content["workers"] = 2 if content["experiment"]["seed"] == 2 else 1
        assert Study.of(EPOCHS, sidecars=beside).timed().epochs["running_time"].isna().sum() == 11 * 10

    def test_times_of_a_run_on_several_devices_are_left_out(self):
        study = self.study({0: CPU, 1: CPU, 2: CPU})
        beside = [dict(content) for content in study.sidecars.values()]
        for content in beside:
            first = GPU if content["experiment"]["seed"] == 2 else CPU
            content["parts"] = [{"from_update": 0, "device": first}, {"from_update": 9, "device": CPU}]
        study = Study.of(EPOCHS, sidecars=beside)
        assert study.timed().epochs.groupby("seed")["running_time"].count().tolist() == [110, 110, 0]
        assert said(study) == ["the times of 11 runs are left out: another device trained them"]

    def test_without_a_sidecar_times_stay(self):
        timed = self.study({0: CPU, 1: GPU, 2: None}).timed()
        assert timed.epochs.groupby("seed")["running_time"].count().tolist() == [110, 0, 110]


def test_what_learned_nothing_is_not_on_the_frontier():
    """Of ten classes, 15 % and less; where the data set is not known, everything counts."""
    epochs = table(
        ("baseline_small", 8, 0, [0.6]), ("scaled_lr", 128, 0, [0.15]), ("scaled_lr", 512, 0, [0.16])
    ).assign(running_time=[9.0, 1.0, 2.0])
    assert analyse(Study.of(epochs)).frontier["batch_size"].tolist() == [128, 512, 8]
    known = Study.of(epochs, sidecars=sidecars(epochs, dataset="digits"))
    assert analyse(known).frontier["batch_size"].tolist() == [512, 8]
    own = Study.of(epochs, sidecars=sidecars(epochs, dataset="mine:images"))
    assert analyse(own).frontier["batch_size"].tolist() == [128, 512, 8]
