"""A run that has several names is trained once: real runs of a linear network on digits."""

import doctest
import json
from dataclasses import fields, replace
from typing import get_args

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sweeps import assert_same_records, begun, contents, counted_updates, drive, without_times

from batchscale import cli, sweeps
from batchscale.analysis.findings import analyse
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.modes import MODES, REFERENCE
from batchscale.records.record import Record
from batchscale.records.study import RULE, Study
from batchscale.schedules import Decay, LRScaling, Warmup
from batchscale.sweeps import same
from batchscale.sweeps.grid import grid
from batchscale.sweeps.pending import trained
from batchscale.sweeps.same import stripped

__all__ = ["drive"]  # a fixture

TINY = {"dataset": "digits", "model": "networks:linear", "width": 1, "train_size": 128, "epochs": 2}


def one(name: str = "baseline_small", size: int = 8, seed: int = 0, **fields) -> Experiment:
    """One run; B_ref is 8."""
    return grid(name, size, seed, **(TINY | fields))[0]


def stems(folder) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.csv"))


def named(table: pd.DataFrame) -> list[tuple]:
    """The rows of a table as (name, batch size, epoch)."""
    return list(table[["experiment", "batch_size", "epoch"]].itertuples(index=False, name=None))


ROWS = [("baseline_small", 8, 1), ("baseline_small", 8, 2)]


# The rule


def test_the_example_in_the_docstring():
    assert doctest.testmod(same).attempted == 3
    assert doctest.testmod(same).failed == 0


@pytest.mark.parametrize("size", [2, 7, 8, 9, 16])
def test_only_what_trains_differs(size):
    """Up to B_ref no rule does anything; above it all of it does, but for the length of no warm-up."""
    base = one(size=size)
    rules = [one(name, size) for name in ("baseline_large", "scaled_lr", "gradual_warmup_scaled_lr")]
    rules += [one("mine", size, lr_scaling="sqrt"), one("mine", size, lr_scaling="linear", warmup="constant")]
    same_as_base = [stripped(each) == stripped(base) for each in rules]
    assert same_as_base == ([True] * 5 if size <= 8 else [True, False, False, False, False])
    assert stripped(one(size=size, warmup_epochs=1)) == stripped(base)
    gradual = one("gradual_warmup_scaled_lr", size)
    assert (stripped(replace(gradual, warmup_epochs=1)) == stripped(gradual)) == (size <= 8)
    assert (stripped(replace(gradual, lr_scaling="sqrt")) == stripped(gradual)) == (size <= 8)


def test_every_other_field_tells_two_experiments_apart():
    changes = {"batch_size": 4, "seed": 1, "epochs": 3, "base_lr": 0.01, "reference_batch_size": 16, "momentum": 0}
    changes |= {"weight_decay": 0.1, "dataset": "cifar10", "train_size": 64, "model": "models:CNN", "width": 0.5}
    changes |= {"micro_batch_size": 4, "precision": "bf16", "device": "cpu"}
    changes |= {"decay": "linear", "optimizer": "adamw", "augment": "flip"}
    assert {field.name for field in fields(Experiment)} == {"name", *RULE, *changes}
    base = one()
    for field, value in changes.items():
        assert stripped(replace(base, **{field: value})) != stripped(base), field


def test_runs_that_are_joined_are_the_same_numbers(tmp_path):
    """What the rule says of learning rates holds of what is recorded."""
    for name in MODES:
        sweeps.run([one(name)], data_dir=tmp_path / name)
    first, *others = (
        table.drop(columns="experiment") for name in MODES for table in without_times(tmp_path / name).values()
    )
    assert len(others) == 3
    for other in others:
        pd.testing.assert_frame_equal(first, other, check_exact=True)


@settings(deadline=None)
@given(
    size=st.integers(1, 20),
    scalings=st.tuples(*2 * [st.sampled_from(get_args(LRScaling))]),
    warmups=st.tuples(*2 * [st.sampled_from(get_args(Warmup))]),
    lengths=st.tuples(*2 * [st.sampled_from([0, 0.1, 1, 2])]),
    decay=st.sampled_from(get_args(Decay)),
)
def test_what_trains_the_same_has_the_same_learning_rates(size, scalings, warmups, lengths, decay):
    ours, theirs = (
        one("mine", size, lr_scaling=scaling, warmup=warmup, warmup_epochs=length, decay=decay)
        for scaling, warmup, length in zip(scalings, warmups, lengths, strict=True)
    )
    if stripped(ours) == stripped(theirs):
        assert all(ours.learning_rate(update, 7) == theirs.learning_rate(update, 7) for update in range(14))


# What is trained


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_reference_in_the_list_is_trained_for_all(tmp_path, capsys, monkeypatch, workers):
    asked = [one(name, size) for name in reversed(MODES) for size in (8, 16)]
    kept = [one("gradual_warmup_scaled_lr", 16), one("scaled_lr", 16), one(size=8), one(size=16)]
    assert sweeps.pending(asked, tmp_path) == [kept[2], kept[0], kept[1], kept[3]]
    assert sweeps.recorded(asked, tmp_path).empty
    rows = sweeps.run(asked, data_dir=tmp_path, workers=workers)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "4 of 8 runs train as baseline_small does (at B <= 8 every rule does) and are trained once, under that name"
    )
    assert sorted(line[:5] for line in said[1:]) == [f"[{number}/4]" for number in (1, 2, 3, 4)]
    assert stems(tmp_path) == sorted(each.stem for each in kept)
    assert named(rows)[:2] == ROWS
    assert len(rows) == 8
    pd.testing.assert_frame_equal(sweeps.recorded(asked, tmp_path), rows)
    assert sweeps.pending(asked, tmp_path) == []
    updates = counted_updates(monkeypatch)
    pd.testing.assert_frame_equal(sweeps.run(asked, data_dir=tmp_path, workers=workers), rows)
    assert updates == []
    assert capsys.readouterr().out.splitlines() == [said[0], "4 of 4 recorded already"]


def test_the_reference_in_the_folder_is_not_trained_again(tmp_path, capsys, monkeypatch):
    sweeps.run([one(), one(size=16)], data_dir=tmp_path)
    capsys.readouterr()
    before, updates = contents(tmp_path), counted_updates(monkeypatch)
    asked = one("scaled_lr")
    assert sweeps.pending([asked], tmp_path) == []
    assert named(sweeps.recorded([asked], tmp_path)) == ROWS
    assert named(sweeps.run([asked], data_dir=tmp_path)) == ROWS
    both = [asked, one("mine", lr_scaling="sqrt"), one("baseline_large", 16)]
    assert named(sweeps.run(both, data_dir=tmp_path))[::2] == [("baseline_small", 8, 1), ("baseline_small", 16, 1)]
    sweeps.run([one("baseline_large", 16)], data_dir=tmp_path)
    assert (updates, contents(tmp_path)) == ([], before)
    assert capsys.readouterr().out.splitlines() == [
        "1 of 1 run trains as baseline_small does (at B <= 8 every rule does) and is trained once, under that name",
        "1 of 1 recorded already",
        "3 of 3 runs train as baseline_small does (at B <= 8 every rule does) and are trained once, under that name",
        "2 of 2 recorded already",
        "1 of 1 run trains as baseline_small does and is trained once, under that name",
        "1 of 1 recorded already",
    ]


def test_above_b_ref_a_rule_is_trained(tmp_path):
    sweeps.run([one(size=16)], data_dir=tmp_path)
    asked = one("scaled_lr", 16)
    assert sweeps.pending([asked, one(size=16)], tmp_path) == [asked]
    sweeps.run([asked, one(size=16)], data_dir=tmp_path)
    assert stems(tmp_path) == ["baseline_small_bs16_seed0", "scaled_lr_bs16_seed0"]


def test_without_the_reference_the_first_name_is_trained(tmp_path, capsys):
    asked = [one("scaled_lr"), one("gradual_warmup_scaled_lr"), one("mine")]
    assert sweeps.pending(asked, tmp_path) == asked[:1]
    sweeps.run(asked[:1], data_dir=tmp_path)  # alone, as by train
    assert stems(tmp_path) == ["scaled_lr_bs8_seed0"]
    assert capsys.readouterr().out.startswith("[1/1] scaled_lr B=8 seed 0: complete")
    rows = sweeps.run(asked[::-1], data_dir=tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "2 of 3 runs train as scaled_lr does (at B <= 8 every rule does) and are trained once, under that name",
        "1 of 1 recorded already",
    ]
    assert set(rows["experiment"]) == {"scaled_lr"}
    assert stems(tmp_path) == ["scaled_lr_bs8_seed0"]


def test_names_of_a_users_own_are_kept_above_b_ref(tmp_path):
    """Also where the reference trains the same."""
    asked = [one("mine", 16), one("yours", 16)]
    sweeps.run(asked, data_dir=tmp_path)
    assert stems(tmp_path) == ["mine_bs16_seed0", "yours_bs16_seed0"]
    assert sweeps.pending([*asked, one(size=16), one("theirs", 16)], tmp_path) == [one(size=16), one("theirs", 16)]
    sweeps.run([one(size=16)], data_dir=tmp_path)
    assert sweeps.pending([one("theirs", 16), one("baseline_large", 16)], tmp_path) == [one("theirs", 16)]


def test_train_in_an_empty_folder_keeps_its_name(tmp_path, capsys):
    flags = [*("--dataset", "digits", "--model", "networks:linear", "--train-size", "128"), "--epochs", "2"]
    where = ["--data-dir", str(tmp_path), *flags]
    assert cli.main(["train", "--name", "scaled_lr", "--batch-size", "8", *where]) == 0
    assert stems(tmp_path) == ["scaled_lr_bs8_seed0"]
    sizes = [
        "--small",
        "4",
        "8",
        "16",
        "--large",
        "4",
        "16",
        "--names",
        "baseline_small",
        "baseline_large",
        "scaled_lr",
    ]
    capsys.readouterr()
    assert cli.main(["sweep", *sizes, "--seeds", "0", *where]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "3 of 7 runs train as baseline_small does (at B <= 8 every rule does) and are trained once, under that name"
    )
    assert stems(tmp_path) == [
        *("baseline_small_bs16_seed0", "baseline_small_bs4_seed0", "baseline_small_bs8_seed0"),
        *("scaled_lr_bs16_seed0", "scaled_lr_bs8_seed0"),
    ]


# Records that are there


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_record_of_its_own_is_kept_and_continued(tmp_path, monkeypatch, is_finished):
    own = one("scaled_lr")
    if is_finished:
        sweeps.run([own], data_dir=tmp_path)
    else:
        begun(own, tmp_path, monkeypatch)
    sweeps.run([one()], data_dir=tmp_path)
    assert sweeps.pending([own, one(), one("mine")], tmp_path) == ([] if is_finished else [own])
    rows = sweeps.run([own, one(), one("mine")], data_dir=tmp_path)
    assert named(rows) == [("scaled_lr", 8, 1), ("scaled_lr", 8, 2), *ROWS]
    assert Record(own, tmp_path).finished
    assert stems(tmp_path) == ["baseline_small_bs8_seed0", "scaled_lr_bs8_seed0"]


def test_a_reference_of_other_settings_is_another_run(tmp_path):
    """And nothing is said about it, unless it is asked for itself."""
    sweeps.run([one(base_lr=0.01), one(size=16, base_lr=0.01)], data_dir=tmp_path)
    before = contents(tmp_path)
    asked = [one("scaled_lr"), one("mine"), one("baseline_large", 16)]
    assert sweeps.pending(asked, tmp_path) == [asked[0], asked[2]]
    assert sweeps.recorded(asked, tmp_path).empty
    sweeps.run(asked, data_dir=tmp_path)
    assert stems(tmp_path)[:2] == ["baseline_large_bs16_seed0", "baseline_small_bs16_seed0"]
    assert stems(tmp_path)[2:] == ["baseline_small_bs8_seed0", "scaled_lr_bs8_seed0"]
    assert before.items() <= contents(tmp_path).items()
    with pytest.raises(
        UserError, match=r"baseline_small_bs8_seed0.csv belongs to another experiment: base_lr is 0\.01"
    ):
        sweeps.run([one("other"), one()], data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["not JSON", "[]", '{"experiment": 7}', None])
def test_a_reference_that_cannot_be_read_is_none(tmp_path, damage):
    sweeps.run([one()], data_dir=tmp_path)
    if damage is None:
        Record(one(), tmp_path).csv.write_text("no table")
    else:
        Record(one(), tmp_path).sidecar.write_text(damage)
    assert sweeps.pending([one("scaled_lr")], tmp_path) == [one("scaled_lr")]


def test_a_rule_that_did_nothing_may_be_noted_as_any(tmp_path):
    """As by `sweep --lr-scaling sqrt --warmup-epochs 1`, for all of its modes."""
    at_8, at_16 = one(lr_scaling="sqrt", warmup="gradual", warmup_epochs=1), one(size=16, warmup_epochs=1)
    other = one(size=32, lr_scaling="sqrt")  # here it does something
    sweeps.run([at_8, at_16, other], data_dir=tmp_path)
    sqrt = one("scaled_lr", 32, lr_scaling="sqrt")
    asked = [one("scaled_lr"), one("baseline_large", 16), one("baseline_large", 32), sqrt]
    assert [*trained(asked, tmp_path, None).values()] == [at_8, at_16, asked[2], other]
    assert sweeps.pending(asked, tmp_path) == [asked[2]]


def test_a_twin_with_fewer_epochs_is_extended(tmp_path, monkeypatch):
    sweeps.run([one()], data_dir=tmp_path, keep_state=True)
    longer = one("scaled_lr", epochs=3)
    assert sweeps.pending([longer], tmp_path) == [one(epochs=3)]
    assert named(sweeps.recorded([longer], tmp_path)) == ROWS
    updates = counted_updates(monkeypatch)
    assert named(sweeps.run([longer], data_dir=tmp_path)) == [*ROWS, ("baseline_small", 8, 3)]
    assert updates == [*range(32, 48)]
    assert stems(tmp_path) == ["baseline_small_bs8_seed0"]
    assert named(sweeps.run([one("mine", epochs=1)], data_dir=tmp_path)) == [*ROWS, ("baseline_small", 8, 3)]


def test_a_twin_that_decays_over_other_epochs_is_another_run(tmp_path):
    sweeps.run([one(decay="linear")], data_dir=tmp_path)
    assert sweeps.pending([one("scaled_lr", decay="linear")], tmp_path) == []
    longer = one("scaled_lr", decay="linear", epochs=3)
    assert sweeps.pending([longer], tmp_path) == [longer]


def test_a_twin_that_was_begun_is_continued(tmp_path, monkeypatch):
    begun(one(), tmp_path, monkeypatch)
    asked = one("scaled_lr")
    assert sweeps.pending([asked], tmp_path) == [one()]
    assert named(sweeps.recorded([asked], tmp_path)) == ROWS[:1]
    updates = counted_updates(monkeypatch)
    assert named(sweeps.run([asked], data_dir=tmp_path)) == ROWS
    assert updates == [*range(16, 32)]


def test_a_twin_that_diverged_is_a_result(tmp_path, monkeypatch):
    lost = {"base_lr": 1e30}
    sweeps.run([one(**lost)], data_dir=tmp_path)
    updates = counted_updates(monkeypatch)
    asked = one("scaled_lr", **lost)
    assert sweeps.pending([asked], tmp_path) == []
    assert len(sweeps.run([asked], data_dir=tmp_path)) == len(sweeps.recorded([one(**lost)], tmp_path))
    assert updates == []
    assert not list(tmp_path.glob("scaled_lr*"))


def test_a_csv_alone_counts_as_the_reference_if_it_is_long_enough(tmp_path):
    """And as its base rate: no sidecar says that it had a rule."""
    asked = [one("scaled_lr"), one("baseline_large", 16), one("scaled_lr", 16)]
    sweeps.run([one(), one(size=16)], data_dir=tmp_path)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert sweeps.pending(asked, tmp_path) == [asked[2]]
    longer = [replace(each, epochs=3) for each in asked]
    assert sweeps.pending(longer, tmp_path) == longer
    sweeps.run(longer[:1], data_dir=tmp_path)
    assert stems(tmp_path)[-1] == "scaled_lr_bs8_seed0"


def test_a_twin_in_the_scratch_folder(drive, monkeypatch):
    """Of Colab, where the record on the Drive may be behind or not there yet."""
    there, here = drive
    begun(one("mine"), here, monkeypatch)
    begun(one(warmup_epochs=1), here, monkeypatch)
    asked = one("scaled_lr")
    assert sweeps.pending([asked], there) == [one(warmup_epochs=1)]
    assert named(sweeps.recorded([asked], there)) == ROWS[:1]
    assert sweeps.pending([one("mine")], there) == [one("mine")]  # a record of its own, there alone
    assert named(sweeps.run([asked], data_dir=there)) == ROWS
    assert stems(there) == ["baseline_small_bs8_seed0"]


# Shards


@settings(deadline=None)  # a busy machine is not a failure
@given(
    sizes=st.lists(st.integers(1, 64), unique=True),
    seeds=st.lists(st.integers(0, 3), unique=True),
    names=st.lists(st.sampled_from([*MODES, "mine", "yours"]), unique=True),
    n=st.integers(1, 9),
)
def test_no_two_shards_train_the_same_run(tmp_path_factory, sizes, seeds, names, n):
    nowhere = tmp_path_factory.getbasetemp() / "nowhere"
    whole = [experiment for name in names for experiment in grid(name, sizes, seeds)]
    parts = [sweeps.shard(whole, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(whole.index(each) for part in parts for each in part) == list(range(len(whole)))
    trained_by = [sweeps.pending(part, nowhere) for part in parts]
    assert {each for part in trained_by for each in part} == set(sweeps.pending(whole, nowhere))
    assert sum(map(len, trained_by)) == len(sweeps.pending(whole, nowhere))
    runs = [
        stripped(each)
        for part in trained_by
        for each in part
        if each.batch_size <= 8 or (REFERENCE.name in names and each.name in MODES)
    ]
    assert len(runs) == len(set(runs))
    costs = [sum(1 / each.batch_size for each in part) for part in trained_by]  # updates, in epochs of one image
    assert max(costs) - min(costs) <= max((1 / each.batch_size for each in whole), default=0) + 1e-9


def test_shards_that_are_trained_are_the_sweep(tmp_path):
    asked = [one(name, size) for name in (*MODES, "mine") for size in (4, 8, 16)]
    sweeps.run(asked, data_dir=tmp_path / "whole")
    for i in (1, 2, 3):
        sweeps.run(sweeps.shard(asked, f"{i}/3"), data_dir=tmp_path / "parts")
    assert len(stems(tmp_path / "whole")) == 6
    assert_same_records(tmp_path / "whole", tmp_path / "parts")


# What analysis makes of such a folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every mode at every size, each run recorded once; scaled_lr diverges nowhere and differs above B_ref."""
    folder = tmp_path_factory.mktemp("analysed")
    asked = [one(name, size, seed) for seed in (0, 1) for name in MODES for size in (4, 8, 16, 32)]
    asked += [one("baseline_large", 64, seed) for seed in (0, 1)]
    sweeps.run(asked, data_dir=folder)
    return folder


def test_curves_have_the_runs_of_the_reference(folder):
    found = analyse(Study.load(folder))
    assert set(found.study.runs["batch_size"][found.study.runs["experiment"] == "baseline_large"]) == {64}
    curves = {}
    for name, mode in found.modes.items():
        rows = pd.concat([mode.smaller, mode.losses])
        curves[name] = dict(zip(rows["batch_size"], rows["experiment"], strict=True))
    base, small = "baseline_large", "baseline_small"
    assert curves[base] == {4: small, 8: small, 16: small, 32: small, 64: base}
    assert curves["scaled_lr"] == {4: small, 8: small, 16: "scaled_lr", 32: "scaled_lr"}
    assert (found.modes["scaled_lr"].losses["seeds"] == 2).all()


def test_the_effect_of_scaling_is_over_the_reference_where_the_base_rate_is_recorded_so(folder):
    (scaling, _) = analyse(Study.load(folder)).effects
    assert scaling.name == "scaling"
    assert scaling.differences[["batch_size", "pairs"]].values.tolist() == [[16, 2], [32, 2]]  # not 4 and 8: no rule
    finals = {
        name: [Record(one(name, 16, seed), folder).rows[-1].accuracy for seed in (0, 1)]
        for name in ("scaled_lr", "baseline_small")
    }
    expected = sum(finals["scaled_lr"]) / 2 - sum(finals["baseline_small"]) / 2
    assert scaling.differences["difference"].iloc[0] == pytest.approx(expected)


def test_a_run_that_an_older_version_recorded_twice_counts_once(folder, tmp_path):
    """Under the reference's name and the base rate's, at B = 16."""
    once = analyse(Study.load(folder))
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for seed in (0, 1):
        ours, theirs = Record(one("baseline_large", 16, seed), tmp_path), Record(one(size=16, seed=seed), folder)
        ours.csv.write_text(theirs.csv.read_text().replace("baseline_small", "baseline_large"))
        sidecar = json.loads(theirs.sidecar.read_text())
        sidecar["experiment"]["name"] = "baseline_large"
        ours.sidecar.write_text(json.dumps(sidecar))
    twice = analyse(Study.load(tmp_path))
    assert len(twice.study.runs) == len(once.study.runs) + 2
    begin = {name: mode.beginning.first for name, mode in once.modes.items()}
    assert {name: mode.beginning.first for name, mode in twice.modes.items()} == begin
    for name in once.modes:
        ours, theirs = twice.finals_of(name), once.finals_of(name)
        assert ours[["batch_size", "seed"]].values.tolist() == theirs[["batch_size", "seed"]].values.tolist()
        assert twice.modes[name].curve["seed"].tolist() == once.modes[name].curve["seed"].tolist()
        assert twice.modes[name].losses["seeds"].tolist() == once.modes[name].losses["seeds"].tolist()
    (ours, _), (theirs, _) = twice.effects, once.effects
    pd.testing.assert_frame_equal(ours.differences, theirs.differences)


def test_a_sentence_of_several_reference_sizes_and_names():
    asked = {one("mine", 16, reference_batch_size=16): one(size=16, reference_batch_size=16), one("a"): one()}
    asked |= {one("b", 4): one("c", 4), one("c", 4): one("c", 4)}
    once = "trained once, under that name"
    assert same.sentences(asked) == [
        f"2 of 4 runs train as baseline_small does (at B <= 8, 16 every rule does) and are {once}",
        f"1 of 4 runs trains as c does (at B <= 8 every rule does) and is {once}",
    ]
