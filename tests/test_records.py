"""What is written reads back the same; what belongs to another experiment is refused; nothing is half-written."""

import json
import math
from dataclasses import astuple

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchscale import records
from batchscale.experiment import COLUMNS, Experiment, Record, UserError
from batchscale.records import Keeper, load, read_csv, to_csv

HEADER = ",".join(COLUMNS)


def row(epoch: int = 1, **fields) -> Record:
    values = {
        "batch_size": 8,
        "epoch": epoch,
        "accuracy": 0.1 + 0.2,
        "generalization_error": -1 / 3,
        "running_time": 1e-7,
        "experiment": "baseline_small",
        "seed": 0,
        "updates": 187 * epoch,
        "learning_rate": 0.002,
        "train_accuracy": 2 / 3,
        "train_loss": 1e300,
        "test_loss": 5e-324,
        "epoch_time": 123456.789,
        "images_per_second": 1.0,
    }
    return Record(**(values | fields))


def experiment(**fields) -> Experiment:
    return Experiment(**{"batch_size": 8, "epochs": 3, **fields})


def keep(folder, rows, status="complete", **fields) -> Keeper:
    keeper = Keeper(experiment(**fields), folder)
    keeper.start()
    for each in rows:
        keeper.add(each, {"updates": each.updates})
    if status != "running":
        keeper.finish(status)
    return keeper


def same(ours: Record, theirs: Record) -> bool:
    """Equal, NaN being equal to NaN."""
    return all(a == b or (a != a and b != b) for a, b in zip(astuple(ours), astuple(theirs), strict=True))


def test_csv_is_as_the_contract_has_it(tmp_path):
    keep(tmp_path, [row(1, noise_scale=12.5), row(2)])
    text = (tmp_path / "baseline_small_bs8_seed0.csv").read_bytes().decode("utf-8")
    assert text == (
        f"{HEADER}\n"
        "8,1,0.30000000000000004,-0.3333333333333333,1e-07,baseline_small,0,187,0.002,0.6666666666666666,1e+300,5e-324,"
        "123456.789,1.0,12.5\n"
        "8,2,0.30000000000000004,-0.3333333333333333,1e-07,baseline_small,0,374,0.002,0.6666666666666666,1e+300,5e-324,"
        "123456.789,1.0,\n"
    )


finite = st.floats(allow_nan=False, allow_infinity=False)
written = st.builds(
    Record,
    batch_size=st.integers(1, 2**40),
    epoch=st.integers(1, 10**6),
    experiment=st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    seed=st.integers(0, 2**40),
    updates=st.integers(0, 2**50),
    noise_scale=finite | st.just(math.nan),
    **{
        name: finite
        for name in COLUMNS
        if name not in ("batch_size", "epoch", "experiment", "seed", "updates", "noise_scale")
    },
)


@given(rows=st.lists(written, min_size=1, max_size=5))
def test_reads_back_exactly(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "any.csv"
    path.write_text(to_csv(rows), encoding="utf-8")
    read = [Record(**values) for values in read_csv(path).to_dict("records")]
    assert len(read) == len(rows)
    assert all(same(ours, theirs) for ours, theirs in zip(read, rows, strict=True))


def test_names_that_look_like_other_things_stay_names(tmp_path):
    path = tmp_path / "nan_bs8_seed0.csv"
    path.write_text(to_csv([row(experiment="nan"), row(2, experiment="1e5")]))
    assert read_csv(path)["experiment"].tolist() == ["nan", "1e5"]


def test_five_columns_are_enough(tmp_path):
    five = "batch_size,epoch,accuracy,generalization_error,running_time\n"
    (tmp_path / "scaled_lr_bs256_seed3.csv").write_text(five + "256,1,0.5,0.1,12.5\n256,2,0.6,0.1,25\n")
    (tmp_path / "baseline_large_bs128.csv").write_text(five + "128,1,0.4,0.1,12.5\n")
    (tmp_path / "anything.csv").write_text(five + "64,1,0.3,0.1,12.5\n")
    table = load(tmp_path)
    assert list(table.columns) == list(COLUMNS)
    assert table[["experiment", "seed", "batch_size", "accuracy"]].values.tolist() == [
        ["anything", 0, 64, 0.3],
        ["baseline_large", 0, 128, 0.4],
        ["scaled_lr", 3, 256, 0.5],
        ["scaled_lr", 3, 256, 0.6],
    ]
    assert table["updates"].isna().all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as CSV"),
        (b"\xff\xfe\x00", "cannot be read as CSV"),
        (b"batch_size,epoch,accuracy\n8,1,0.5\n", "no column generalization_error, running_time"),
        (f"{HEADER}\n8,one,{',' * 12}\n".encode(), "column epoch"),
        (f"{HEADER}\n8,1,high,{',' * 11}\n".encode(), "column accuracy"),
    ],
)
def test_csv_that_is_none(tmp_path, content, message):
    path = tmp_path / "bad_bs8_seed0.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        load(tmp_path)
    assert str(path) in str(refused.value)


def test_nothing_there(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        table = load(folder)
        assert table.empty
        assert list(table.columns) == list(COLUMNS)


def test_sidecar_holds_the_experiment(tmp_path):
    keeper = Keeper(experiment(), tmp_path)
    keeper.start(parameters=7)
    sidecar = json.loads((tmp_path / "baseline_small_bs8_seed0.json").read_text())
    assert sidecar["status"] == "running"
    assert Experiment(**sidecar["experiment"]) == experiment()
    assert sidecar["versions"]["torch"] == torch.__version__.split("+")[0]
    assert sidecar["parameters"] == 7


def test_another_experiment_under_the_same_name_is_refused(tmp_path):
    keep(tmp_path, [row()])
    with pytest.raises(UserError) as refused:
        Keeper(experiment(base_lr=0.02, width=0.5), tmp_path)
    assert "base_lr is 0.002 there but 0.02 was asked for, width is 1.0 there but 0.5 was" in str(refused.value)
    Keeper(experiment(epochs=50, device="cpu"), tmp_path)  # the same run, longer or elsewhere


def test_what_is_finished(tmp_path):
    assert not Keeper(experiment(), tmp_path).finished
    keep(tmp_path, [row(1), row(2)], "running")
    assert not Keeper(experiment(), tmp_path).finished
    keep(tmp_path / "b", [row(1), row(2), row(3)])
    assert Keeper(experiment(), tmp_path / "b").finished
    assert Keeper(experiment(epochs=2), tmp_path / "b").finished
    assert not Keeper(experiment(epochs=4), tmp_path / "b").finished
    keep(tmp_path / "c", [row(1)], "diverged")
    assert Keeper(experiment(), tmp_path / "c").finished
    assert len(Keeper(experiment(), tmp_path / "c").rows) == 1


def test_killed_between_the_last_row_and_the_status(tmp_path):
    keep(tmp_path, [row(1), row(2), row(3)], "running")
    keeper = Keeper(experiment(), tmp_path)
    assert not keeper.finished
    assert keeper.resume() == {"updates": 561}
    keeper.start()
    keeper.finish("complete")
    assert Keeper(experiment(), tmp_path).finished
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".csv", ".json"]


def test_killed_between_checkpoint_and_csv(tmp_path):
    """The checkpoint is one row ahead: the row comes from there."""
    keeper = keep(tmp_path, [row(1)], "running")
    keeper.rows.append(row(2))
    keeper.save_state({"updates": 374})
    again = Keeper(experiment(), tmp_path)
    assert len(again.rows) == 1
    assert again.resume() == {"updates": 374}
    assert all(same(ours, theirs) for ours, theirs in zip(again.rows, [row(1), row(2)], strict=True))


def test_rows_stay_while_a_longer_run_passes_them_again(tmp_path):
    keep(tmp_path, [row(1), row(2), row(3)])
    before = (tmp_path / "baseline_small_bs8_seed0.csv").read_bytes()
    keeper = Keeper(experiment(epochs=4), tmp_path)
    assert keeper.resume() is None  # the checkpoint went when it was complete
    keeper.start()
    for epoch in (1, 2):
        keeper.add(row(epoch, running_time=99.0), {})
    assert (tmp_path / "baseline_small_bs8_seed0.csv").read_bytes() == before
    for epoch in (3, 4):
        keeper.add(row(epoch, running_time=99.0), {})
    assert load(tmp_path)["running_time"].tolist() == [99.0] * 4


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped", "foreign", "another experiment"])
def test_a_checkpoint_that_cannot_be_used_is_set_aside(tmp_path, damage):
    keeper = keep(tmp_path, [row(1)], "running")
    content = bytearray(keeper.checkpoint.read_bytes())
    if damage == "another experiment":
        other = Keeper(experiment(width=0.5), tmp_path / "other")
        other.folder.mkdir()
        other.save_state({})
        content = bytearray(other.checkpoint.read_bytes())
    content = {"empty": b"", "torn": content[: len(content) // 2], "foreign": b"hello"}.get(damage, content)
    if damage == "flipped":
        content[content.index(b"baseline_small")] ^= 1
    keeper.checkpoint.write_bytes(content)
    again = Keeper(experiment(), tmp_path)
    with pytest.warns(UserWarning, match="cannot be used"):
        assert again.resume() is None
    assert (tmp_path / "baseline_small_bs8_seed0.ckpt.unusable").read_bytes() == content
    assert not again.checkpoint.exists()


def test_malicious_checkpoint_does_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (pytest.fail, ("the checkpoint ran",))

    keeper = keep(tmp_path, [row(1)], "running")
    torch.save({"experiment": {}, "rows": [], "state": Malicious()}, keeper.checkpoint)
    with pytest.warns(UserWarning, match="cannot be used"):
        assert Keeper(experiment(), tmp_path).resume() is None


def test_csv_without_sidecar(tmp_path):
    """A result whose sidecar was not copied along stands; going on with it is refused."""
    keep(tmp_path, [row(1), row(2)], epochs=2)
    (tmp_path / "baseline_small_bs8_seed0.json").unlink()
    assert Keeper(experiment(epochs=2), tmp_path).finished
    with pytest.raises(UserError, match="2 of 3 epochs and no sidecar"):
        Keeper(experiment(), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99, "status": "x", "experiment": {}}'])
def test_sidecar_that_is_none(tmp_path, content):
    (tmp_path / "baseline_small_bs8_seed0.json").write_text(content)
    with pytest.raises(UserError, match=r"seed0\.json"):
        Keeper(experiment(), tmp_path)


def test_newer_format_is_not_guessed_at(tmp_path):
    keeper = keep(tmp_path, [row(1)])
    sidecar = json.loads(keeper.sidecar.read_text())
    keeper.sidecar.write_text(json.dumps(sidecar | {"format": 99}))
    with pytest.raises(UserError, match="has format 99, this batchscale knows 1"):
        Keeper(experiment(), tmp_path)


def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    records.write_whole(path, b"old")
    for call in ("fsync",):
        with monkeypatch.context() as patch:
            patch.setattr(records.os, call, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(UserError, match="No space left on device"):
                records.write_whole(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        Keeper(experiment(), tmp_path / "file").start()


def test_load_sorts_and_types(tmp_path):
    keep(tmp_path, [row(1, seed=1), row(2, seed=1)], seed=1)
    keep(tmp_path, [row(1), row(2)])
    table = load(tmp_path)
    assert table[["seed", "epoch"]].values.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert pd.api.types.is_integer_dtype(table["updates"])
    assert same(Record(**table.to_dict("records")[0]), row(1))
