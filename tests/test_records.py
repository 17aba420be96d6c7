"""What is written reads back the same; what belongs to another experiment is refused; nothing is half-written."""

import errno
import hashlib
import io
import json
import math
import os
import re
import warnings
from dataclasses import asdict, astuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from permissions import as_any_user

from batchscale.epoch import COLUMNS, Epoch
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records import provenance
from batchscale.records.checkpoint import FORMAT, NotLoadable
from batchscale.records.files import ReadError, temporary_of
from batchscale.records.record import Record
from batchscale.records.tables import digest, load, read_csv, sidecars, to_csv

HEADER = ",".join(COLUMNS)


def row(epoch: int = 1, **fields) -> Epoch:
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
    return Epoch(**(values | fields))


def experiment(**fields) -> Experiment:
    return Experiment(**{"batch_size": 8, "epochs": 3, **fields})


def keep(folder, rows, status="complete", parameters=None, **fields) -> Record:
    record = Record(experiment(**fields), folder)
    record.start(parameters=parameters)
    for each in rows:
        record.add(each, {"updates": each.updates})
    if status != "running":
        record.finish(status)
    return record


def same(ours: Epoch, theirs: Epoch) -> bool:
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
run = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 2**40),
        "experiment": st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True),
        "seed": st.integers(0, 2**62),
    }
)
measured = st.fixed_dictionaries(
    {
        "accuracy": st.floats(0, 1),
        "updates": st.integers(1, 2**50),
        "noise_scale": finite | st.just(math.nan),
        **{
            name: finite
            for name in COLUMNS
            if name not in ("batch_size", "epoch", "experiment", "seed", "accuracy", "updates", "noise_scale")
        },
    }
)


@st.composite
def runs(draw) -> list[Epoch]:
    """The rows of one run, epochs from 1."""
    fields, epochs = draw(run), draw(st.lists(measured, min_size=1, max_size=4))
    return [Epoch(epoch=number, **fields, **values) for number, values in enumerate(epochs, 1)]


@pytest.fixture(scope="module")
def any_csv(tmp_path_factory):
    return tmp_path_factory.mktemp("csv") / "any.csv"


def epochs_in(path) -> list[Epoch]:
    return [Epoch.of(values) for values in read_csv(path).to_dict("records")]


@given(rows=runs())
def test_reads_back_exactly(any_csv, rows):
    any_csv.write_text(to_csv(rows), encoding="utf-8")
    read = epochs_in(any_csv)
    assert len(read) == len(rows)
    assert all(same(ours, theirs) for ours, theirs in zip(read, rows, strict=True))


@settings(max_examples=30)
@given(rows=runs(), cut=st.floats(0, 1))
def test_a_prefix_of_a_csv_gives_whole_rows_or_is_refused(any_csv, rows, cut):
    """Every line end and a few other places: no row is invented from half of one."""
    content = to_csv(rows).encode()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for length in {*ends, *(end - 1 for end in ends), int(cut * len(content))}:
        any_csv.write_bytes(content[:length])
        if length in ends:
            read = epochs_in(any_csv)
            assert len(read) == ends.index(length)
            assert all(same(ours, theirs) for ours, theirs in zip(read, rows, strict=False))
        else:
            with pytest.raises(UserError, match=r"any\.csv"):
                read_csv(any_csv)


def test_every_prefix_of_a_csv(any_csv):
    content = to_csv([row(1), row(2, noise_scale=12.5)]).encode()
    for length in range(len(content)):
        any_csv.write_bytes(content[:length])
        if length and content[length - 1] == ord("\n"):
            assert len(read_csv(any_csv)) == content[:length].count(b"\n") - 1
        else:
            with pytest.raises(UserError, match=r"any\.csv"):
                read_csv(any_csv)


@given(content=st.binary(max_size=300) | st.text(alphabet='8,.1e-\n\r"a', max_size=60).map(str.encode))
def test_rubbish_is_refused_in_one_line(any_csv, content):
    for start in (b"", b"batch_size,epoch,accuracy,generalization_error,running_time\n"):
        any_csv.write_bytes(start + content)
        message, frame = "", None
        try:
            frame = read_csv(any_csv)
        except UserError as refused:
            message = str(refused)
        assert "\n" not in message
        assert message or all(epochs.tolist() == [*range(1, len(epochs) + 1)] for _, epochs in by_run(frame))


def by_run(frame):
    return frame.groupby(["experiment", "batch_size", "seed"])["epoch"]


def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path):
    text = "batch_size,epoch,accuracy,generalization_error,running_time\r\n8,1,0.5,0.1,12.5\r\n\r\n8,2,0.6,0.1,25\r\n"
    (tmp_path / "mine_bs8.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(tmp_path)["accuracy"].tolist() == [0.5, 0.6]


@pytest.mark.parametrize("value", ["", "nan", "inf", "None"])
def test_what_a_record_may_lack_when_it_is_analysed(tmp_path, value):
    """Anything but clock and accuracy; to be continued, it must be as it was written."""
    path = tmp_path / "baseline_small_bs8_seed0.csv"
    rows = pd.read_csv(io.StringIO(to_csv([row(1), row(2)])), dtype=str)
    for column in ("generalization_error", "running_time", "test_loss"):
        path.write_text(rows.assign(**{column: value}).to_csv(index=False, lineterminator="\n"))
        assert load(tmp_path)[column].isna().all()
        if value or column != "test_loss":
            with pytest.raises(UserError, match=f"{column} is '{value}', which is not a .*; restore the file"):
                read_csv(path)
    for column in ("accuracy", "epoch"):
        path.write_text(rows.assign(**{column: value}).to_csv(index=False, lineterminator="\n"))
        with pytest.raises(UserError, match=f"{column} is '{value}', which is not a .*; restore the file"):
            load(tmp_path)


def test_names_that_look_like_other_things_stay_names(tmp_path):
    path = tmp_path / "nan_bs8_seed0.csv"
    path.write_text(to_csv([row(experiment="nan"), row(experiment="1e5")]))
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


def test_nothing_there(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        table = load(folder)
        assert table.empty
        assert list(table.columns) == list(COLUMNS)


def test_sidecar_holds_the_experiment(tmp_path):
    record = Record(experiment(), tmp_path)
    record.start(parameters=7)
    sidecar = json.loads((tmp_path / "baseline_small_bs8_seed0.json").read_text())
    assert sidecar["status"] == "running"
    assert Experiment(**sidecar["experiment"]) == experiment()
    assert sidecar["versions"]["torch"] == torch.__version__.split("+")[0]
    assert sidecar["parameters"] == 7


def test_another_experiment_under_the_same_name_is_refused(tmp_path):
    keep(tmp_path, [row()])
    with pytest.raises(UserError) as refused:
        Record(experiment(base_lr=0.02, width=0.5), tmp_path)
    assert "base_lr is 0.002 there but 0.02 was asked for, width is 0.25 there but 0.5 was" in str(refused.value)
    for field, other in (("decay", "linear"), ("optimizer", "adamw"), ("augment", "flip")):
        default = getattr(experiment(), field)
        with pytest.raises(UserError, match=f"{field} is {default} there but {other} was asked for"):
            Record(experiment(**{field: other}), tmp_path)


@pytest.mark.parametrize("status", ["running", "complete"])
@pytest.mark.parametrize("epochs", [2, 5])
def test_with_a_decay_the_number_of_epochs_is_part_of_the_identity(tmp_path, status, epochs):
    """Neither extended nor cut; at a constant rate it may be both."""
    rows = [row(1), row(2), row(3)][: 3 if status == "complete" else 1]
    keep(tmp_path / "decays", rows, status, decay="linear")
    before = contents(tmp_path / "decays")
    with pytest.raises(UserError) as refused:
        Record(experiment(decay="linear", epochs=epochs), tmp_path / "decays")
    assert f"epochs is 3 there but {epochs} was asked for (with a decay every rate depends on the epochs)" in str(
        refused.value
    )
    assert contents(tmp_path / "decays") == before
    assert len(Record(experiment(decay="linear"), tmp_path / "decays").rows) == len(rows)
    keep(tmp_path / "constant", rows, status)
    assert len(Record(experiment(epochs=epochs), tmp_path / "constant").rows) == len(rows)


def test_a_sidecar_of_an_older_version_means_what_was_done_then(tmp_path):
    """Without decay, optimizer and augment it is a run of SGD at a constant rate on unchanged images."""
    record = keep(tmp_path, [row(1)], "running")
    content = json.loads(record.sidecar.read_text())
    for field in ("decay", "optimizer", "augment"):
        del content["experiment"][field]
    record.sidecar.write_text(json.dumps(content))
    saved = torch.load(record.checkpoint, weights_only=True)
    for field in ("decay", "optimizer", "augment"):
        del saved["experiment"][field]
    torch.save(saved, record.checkpoint)
    assert Record(experiment(), tmp_path, notice=pytest.fail).resume() == {"updates": 187}
    with pytest.raises(UserError, match="decay is none there but cosine was asked for"):
        Record(experiment(decay="cosine"), tmp_path)
    Record(experiment(epochs=50, device="cpu"), tmp_path)  # the same run, longer or elsewhere


def test_what_is_finished(tmp_path):
    assert not Record(experiment(), tmp_path).finished
    keep(tmp_path, [row(1), row(2)], "running")
    assert not Record(experiment(), tmp_path).finished
    keep(tmp_path / "b", [row(1), row(2), row(3)])
    assert Record(experiment(), tmp_path / "b").finished
    assert Record(experiment(epochs=2), tmp_path / "b").finished
    assert not Record(experiment(epochs=4), tmp_path / "b").finished
    keep(tmp_path / "c", [row(1)], "diverged")
    assert Record(experiment(), tmp_path / "c").finished
    assert len(Record(experiment(), tmp_path / "c").rows) == 1


def test_killed_between_the_last_row_and_the_status(tmp_path):
    keep(tmp_path, [row(1), row(2), row(3)], "running")
    record = Record(experiment(), tmp_path)
    assert not record.finished
    assert record.resume() == {"updates": 561}
    record.start()
    record.finish("complete")
    assert Record(experiment(), tmp_path).finished
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".csv", ".json"]


def test_killed_between_checkpoint_and_csv(tmp_path):
    """The checkpoint is one row ahead: the row comes from there."""
    record = keep(tmp_path, [row(1)], "running")
    record.rows.append(row(2))
    record.save_state({"updates": 374})
    again = Record(experiment(), tmp_path)
    assert len(again.rows) == 1
    assert again.resume() == {"updates": 374}
    assert all(same(ours, theirs) for ours, theirs in zip(again.rows, [row(1), row(2)], strict=True))


def test_rows_stay_while_a_longer_run_passes_them_again(tmp_path):
    keep(tmp_path, [row(1), row(2), row(3)])
    before = (tmp_path / "baseline_small_bs8_seed0.csv").read_bytes()
    record = Record(experiment(epochs=4), tmp_path)
    notice = (
        "the record is complete at 3 epochs, but its last state was not kept; training starts again from epoch 1, "
        "and the CSV recorded so far is kept as baseline_small_bs8_seed0.csv.replaced"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(notice)}$"):
        assert record.resume() is None
    assert record.resume() is None  # said once
    record.start()
    for epoch in (1, 2):
        record.add(row(epoch, running_time=99.0), {})
    assert (tmp_path / "baseline_small_bs8_seed0.csv").read_bytes() == before
    for epoch in (3, 4):
        record.add(row(epoch, running_time=99.0), {})
    assert load(tmp_path)["running_time"].tolist() == [99.0] * 4
    assert (tmp_path / "baseline_small_bs8_seed0.csv.replaced").read_bytes() == before
    assert json.loads((tmp_path / "baseline_small_bs8_seed0.json.replaced").read_text())["experiment"]["epochs"] == 3


def test_nothing_that_was_replaced_is_overwritten(tmp_path):
    """Killed before the first save and started again, it is the same copy; the next time it is another one."""
    keep(tmp_path, [row(1)], epochs=1)
    contents = {}
    for epochs, suffix in ((2, ""), (3, "2")):
        contents[f"baseline_small_bs8_seed0.csv.replaced{suffix}"] = Record(
            experiment(epochs=1), tmp_path
        ).csv.read_bytes()
        for _ in range(2):
            record = Record(experiment(epochs=epochs), tmp_path)
            with pytest.warns(UserWarning, match=f"is kept as {record.csv.name}.replaced{suffix}$"):
                assert record.resume() is None
            record.start()
        for epoch in range(1, epochs + 1):
            record.add(row(epoch, running_time=float(epochs)), {"updates": 187 * epoch})
        record.finish("complete")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv.replaced*")} == contents
    assert {path.name for path in record.files if "json.replaced" in path.name} == {
        "baseline_small_bs8_seed0.json.replaced",
        "baseline_small_bs8_seed0.json.replaced2",
    }


def longer(folder, epochs: int, keep_state: bool = True) -> Record:
    """Train one epoch after another from the recorded state, without a notice, and close the record."""
    record = Record(experiment(epochs=epochs), folder)
    record.resume()
    record.start()
    for epoch in range(len(record.rows) + 1, epochs + 1):
        record.add(row(epoch), {"updates": 187 * epoch})
    record.finish("complete", keep_state=keep_state)
    return Record(experiment(epochs=epochs), folder)


def test_a_kept_state_is_gone_on_from(tmp_path):
    record = longer(tmp_path, 2)
    assert record.finished
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "baseline_small_bs8_seed0.csv",
        "baseline_small_bs8_seed0.final.ckpt",
        "baseline_small_bs8_seed0.json",
    ]
    assert not Record(experiment(epochs=4), tmp_path).finished
    assert Record(experiment(epochs=4), tmp_path).updates_kept() == 374
    assert len(longer(tmp_path, 4, keep_state=False).rows) == 4  # once kept, it is kept up to date
    assert longer(tmp_path, 5).finished
    assert not list(tmp_path.glob("*replaced*"))
    before = record.csv.read_bytes()
    longer(tmp_path / "whole", 5, keep_state=False)
    assert before == (tmp_path / "whole" / record.csv.name).read_bytes()
    assert not list((tmp_path / "whole").glob("*.ckpt*"))


@pytest.mark.parametrize("epochs", [3, 5])
def test_killed_before_the_last_state_was_kept(tmp_path, epochs):
    """The status is written and the checkpoint has its old name: it is kept by whoever goes on or closes the record."""
    keep(tmp_path, [row(1), row(2), row(3)])
    keep(tmp_path / "b", [row(1), row(2), row(3)], "running")
    record = Record(experiment(), tmp_path)
    (tmp_path / "b" / record.checkpoint.name).rename(record.checkpoint)
    assert not Record(experiment(), tmp_path).finished
    if epochs == 3:
        Record(experiment(), tmp_path).finish(keep_state=True)
    assert Record(experiment(epochs=5), tmp_path).updates_kept() == 561
    assert len(longer(tmp_path, 5).rows) == 5


def test_a_state_of_fewer_epochs_is_not_kept_as_the_last(tmp_path):
    record = longer(tmp_path, 3)
    kept = record.final.read_bytes()
    keep(tmp_path / "b", [row(1)], "running")
    (tmp_path / "b" / record.checkpoint.name).rename(record.checkpoint)
    Record(experiment(), tmp_path).finish(keep_state=True)
    assert Record(experiment(), tmp_path).finished
    assert record.final.read_bytes() == kept


def test_a_damaged_last_state_is_set_aside(tmp_path):
    record = longer(tmp_path, 2)
    record.final.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"cannot be used|complete at 2 epochs, but its last state was not kept"):
        assert Record(experiment(), tmp_path).resume() is None
    assert (tmp_path / "baseline_small_bs8_seed0.final.ckpt.unusable").read_bytes() == b"damaged"


def without_column(record: Record, column: str) -> None:
    """Rewrite CSV and checkpoint of a record as if that column had never existed."""
    csv = pd.read_csv(record.csv).drop(columns=column)
    record.csv.write_text(csv.to_csv(index=False, lineterminator="\n"))
    saved = torch.load(record.checkpoint, weights_only=True)
    for values in saved["rows"]:
        del values[column]
    torch.save(saved, record.checkpoint)


@pytest.mark.parametrize("column", COLUMNS[7:])
def test_a_run_begun_before_a_column_existed_goes_on(tmp_path, column):
    record = keep(tmp_path, [row(1, noise_scale=3.0), row(2, noise_scale=3.0)], "running")
    without_column(record, column)
    record.previous.unlink()
    assert len(longer(tmp_path, 3).rows) == 3
    values = pd.read_csv(record.csv)[column].tolist()
    assert all(map(math.isnan, values[:2]))
    assert list(pd.read_csv(record.csv).columns) == list(COLUMNS)
    not_measured = {name for name, value in asdict(row(3)).items() if value != value}
    assert {name for name in COLUMNS if pd.read_csv(record.csv)[name].isna().any()} == not_measured | {column}


def test_a_column_of_a_later_version_is_not_dropped(tmp_path):
    record = keep(tmp_path, [row(1)], "running")
    before = record.csv.read_text()
    with_column = before.replace("\n", ",surprise\n", 1).replace(",\n", ",,7\n")
    record.csv.write_text(with_column)
    with pytest.raises(UserError, match="has columns that this batchscale does not know: surprise; upgrade batchscale"):
        Record(experiment(), tmp_path)
    assert Record(experiment(epochs=1), tmp_path).trained  # as a result it stands
    record.csv.write_text(before)
    record.previous.unlink(missing_ok=True)
    saved = torch.load(record.checkpoint, weights_only=True)
    saved["rows"][0]["surprise"] = 7
    torch.save(saved, record.checkpoint)
    with pytest.warns(
        UserWarning, match=r"cannot be used \(unknown columns: \['surprise'\].*unusable|starts again from"
    ):
        assert Record(experiment(), tmp_path).resume() is None
    assert torch.load(f"{record.checkpoint}.unusable", weights_only=True)["rows"][0]["surprise"] == 7


def saved_thrice(folder) -> Record:
    """A run with two rows and a checkpoint after 187, 374 and 400 updates; the last two are there."""
    record = keep(folder, [row(1), row(2)], "running")
    record.save_state({"updates": 400, "weights": torch.arange(1000.0)})
    return record


def damaged(content: bytes, damage: str, folder) -> bytes:
    if damage == "another experiment":
        other = Record(experiment(width=0.5), folder / "other")
        other.start()
        other.save_state({"updates": 1})
        return other.checkpoint.read_bytes()
    if damage == "flipped":  # in a tensor, where torch.load does not look
        place = content.index(torch.arange(1000.0).numpy().tobytes()[400:800])
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    return {"empty": b"", "torn": content[: len(content) // 2], "foreign": b"hello"}[damage]


DAMAGES = ["empty", "torn", "flipped", "foreign", "another experiment"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path, damage):
    record = saved_thrice(tmp_path)
    content = damaged(record.checkpoint.read_bytes(), damage, tmp_path)
    record.checkpoint.write_bytes(content)
    again = Record(experiment(), tmp_path)
    with pytest.warns(UserWarning, match=r"cannot be used \(.+\); it is now baseline_small_bs8_seed0.ckpt.unusable"):
        assert again.resume() == {"updates": 374}
    assert len(again.rows) == 2
    assert (tmp_path / "baseline_small_bs8_seed0.ckpt.unusable").read_bytes() == content
    assert not again.checkpoint.exists()


def test_two_damaged_checkpoints_are_both_kept_and_the_rows_stay(tmp_path):
    record = saved_thrice(tmp_path)
    before = record.csv.read_bytes()
    record.checkpoint.write_bytes(b"one")
    record.previous.write_bytes(b"two")
    again = Record(experiment(), tmp_path)
    starts_again = "the CSV has 2 epochs, but the last usable checkpoint has 0; training starts again from epoch 1"
    with pytest.warns(UserWarning, match=f"cannot be used|{starts_again}") as said:
        assert again.resume() is None
    assert len(said) == 3
    again.start()
    again.add(row(1, running_time=99.0), {"updates": 187})
    again.checkpoint.write_bytes(b"three")
    with pytest.warns(UserWarning, match=f"unusable2|{starts_again}"):
        assert Record(experiment(), tmp_path).resume() is None
    assert record.csv.read_bytes() == before
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*unusable*")}
    stem = "baseline_small_bs8_seed0.ckpt"
    assert kept == {
        f"{stem}.unusable": b"one",
        f"{stem}.previous.unusable": b"two",
        f"{stem}.unusable2": b"three",
    }


def equal(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(torch.as_tensor(ours[k]), torch.as_tensor(theirs[k])) for k in ours
    )


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_no_wrong_state_from_a_flipped_bit_or_a_prefix(tmp_path_factory, place, bit, cut):
    """Wherever it is damaged, a checkpoint is refused or gives what was saved (some bytes of a zip mean nothing)."""
    folder = tmp_path_factory.mktemp("flip")
    record = keep(folder, [row(1)], "running")
    state = {"updates": 200, "weights": torch.arange(50.0)}
    record.save_state(state)
    record.previous.unlink()
    content = bytearray(record.checkpoint.read_bytes())
    offset = int(place * len(content))
    if cut:
        content = content[:offset]
    else:
        content[offset] ^= 1 << bit
    record.checkpoint.write_bytes(content)
    again = Record(experiment(), folder, notice=lambda text: None)
    resumed = again.resume()
    if resumed is None:
        assert again.rows == []
        assert not again.checkpoint.exists()
        assert len(list(folder.glob("*.unusable"))) == 1
    else:
        assert not cut
        assert equal(resumed, state)
        assert [same(ours, row(1)) for ours in again.rows] == [True]


def test_malicious_checkpoint_does_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (pytest.fail, ("the checkpoint ran",))

    record = keep(tmp_path, [], "running")
    torch.save({"format": FORMAT, "experiment": {}, "rows": [], "state": Malicious()}, record.checkpoint)
    with pytest.warns(UserWarning, match="cannot be used"):
        assert Record(experiment(), tmp_path).resume() is None


@pytest.mark.parametrize("left", ["checkpoint", "previous"])
def test_killed_before_the_checkpoints_were_removed(tmp_path, left):
    record = keep(tmp_path, [row(1), row(2), row(3)])
    getattr(record, left).write_bytes(b"left over")
    again = Record(experiment(), tmp_path)
    assert again.trained
    assert not again.finished
    again.finish()
    assert Record(experiment(), tmp_path).finished
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".csv", ".json"]


def test_killed_before_the_status_was_written_and_without_a_checkpoint(tmp_path):
    record = keep(tmp_path, [row(1), row(2), row(3)], "running", parameters=7)
    record.checkpoint.unlink()
    record.previous.unlink()
    again = Record(experiment(), tmp_path)
    assert again.trained
    assert not again.finished
    again.finish()
    sidecar = json.loads(again.sidecar.read_text())
    assert (sidecar["status"], sidecar["parameters"]) == ("complete", 7)


def test_half_written_files_of_a_killed_process_are_cleared(tmp_path):
    record = keep(tmp_path, [row(1)], "running")
    for path in (record.csv, record.checkpoint, record.previous, record.sidecar):
        temporary_of(path).write_bytes(b"half")
    again = Record(experiment(), tmp_path)
    again.resume()
    again.start()
    again.finish("diverged")
    assert not list(tmp_path.glob(".*"))


def test_csv_without_sidecar(tmp_path):
    """A result whose sidecar was not copied along stands; going on with it is refused."""
    keep(tmp_path, [row(1), row(2)], epochs=2)
    (tmp_path / "baseline_small_bs8_seed0.json").unlink()
    (tmp_path / "baseline_small_bs8_seed0.ckpt").write_bytes(b"left over")
    assert Record(experiment(epochs=2), tmp_path).finished
    with pytest.raises(UserError, match="2 of 3 epochs and no sidecar"):
        Record(experiment(), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99, "status": "x", "experiment": {}}'])
def test_sidecar_that_is_none(tmp_path, content):
    (tmp_path / "baseline_small_bs8_seed0.json").write_text(content)
    with pytest.raises(UserError, match=r"seed0\.json"):
        Record(experiment(), tmp_path)


def test_every_prefix_of_a_sidecar_is_refused(tmp_path):
    record = keep(tmp_path, [row(1)])
    content = record.sidecar.read_bytes()
    for length in range(len(content) - 1):  # the last byte is the end of the last line
        record.sidecar.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"seed0\.json is not the sidecar of a record"):
            Record(experiment(), tmp_path)


def test_newer_format_is_not_guessed_at(tmp_path):
    record = keep(tmp_path, [row(1)])
    sidecar = json.loads(record.sidecar.read_text())
    record.sidecar.write_text(json.dumps(sidecar | {"format": 99}))
    with pytest.raises(UserError, match="has format 99, this batchscale reads 2"):
        Record(experiment(), tmp_path)


def test_load_sorts_and_types(tmp_path):
    keep(tmp_path, [row(1, seed=1), row(2, seed=1)], seed=1)
    keep(tmp_path, [row(1), row(2)])
    table = load(tmp_path)
    assert table[["seed", "epoch"]].values.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert pd.api.types.is_integer_dtype(table["updates"])
    assert same(Epoch(**table.to_dict("records")[0]), row(1))


def test_digest_is_that_of_sha256sum(tmp_path):
    """Names and bytes of the CSVs and nothing else: the value of `sha256sum *.csv | sha256sum`."""
    assert digest(tmp_path / "none") == digest(tmp_path) == hashlib.sha256().hexdigest()
    for name, content in (("a_bs2_seed0.csv", b"2\n"), ("B_bs2_seed0.csv", b"1\n")):
        (tmp_path / name).write_bytes(content)
    lines = (
        "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865  B_bs2_seed0.csv\n"
        "53c234e5e8472b6ac51c1ae1cab3fe06fad053beb8ebfd8977b010655bfdd3c3  a_bs2_seed0.csv\n"
    )
    known = digest(tmp_path)
    assert known == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "a_bs2_seed0.json").write_text("{}")
    (tmp_path / "learning_rate_check").mkdir()
    assert digest(tmp_path) == known
    (tmp_path / "a_bs2_seed0.csv").rename(tmp_path / "c_bs2_seed0.csv")
    renamed = digest(tmp_path)
    (tmp_path / "c_bs2_seed0.csv").write_text("3\n")
    assert len({known, renamed, digest(tmp_path)}) == 3


def test_sidecars_that_can_be_read(tmp_path):
    keep(tmp_path, [], parameters=7)
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"experiment": {"name": "x"}}'), ("d", "null")):
        (tmp_path / f"{name}.json").write_text(text)
    assert [content["parameters"] for content in sidecars(tmp_path)] == [7]
    assert sidecars(tmp_path / "none") == []


MADE_OF = {
    "data": {"name": "my:load", "train_images": 160, "test_images": 40, "digest": "a" * 64},
    "network": {"conv.weight": "6x3x5x5", "fc.weight": "84x10"},
}


def other(key: str, **changes) -> dict:
    """`MADE_OF` with something else; None removes an entry."""
    kept = {name: value for name, value in (MADE_OF[key] | changes).items() if value is not None}
    return MADE_OF | {key: kept}


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


OTHERS = [
    (other("data", train_images=320), "other data: my:load has 160 train images there but 320 now; undo the change, "),
    (other("data", test_images=41), "other data: my:load has 40 test images there but 41 now"),
    (other("data", digest="b" * 64), "digest aaaaaaaaaaaa there but bbbbbbbbbbbb now, with equal numbers of images"),
    (other("network", **{"fc.weight": "120x10"}), "another network: parameter fc.weight is 84x10 there but 120x10 now"),
    (other("network", **{"fc.weight": None}), "parameter fc.weight is 84x10 there but missing now"),
    (other("network", **{"fc.bias": "10"}), "parameter fc.bias is missing there but 10 now"),
]


@pytest.mark.parametrize("status", ["running", "complete"])
@pytest.mark.parametrize("known", ["sidecar", "checkpoint"])
@pytest.mark.parametrize(("made_of", "message"), OTHERS, ids=[message for _, message in OTHERS])
def test_other_data_or_another_network_is_refused(tmp_path, made_of, message, known, status):
    """By the sidecar, and by a checkpoint whose sidecar is lost; before anything is set aside or written."""
    record = Record(experiment(epochs=2), tmp_path)
    record.resume(MADE_OF)
    record.start(**MADE_OF)
    for epoch in (1, 2):
        record.add(row(epoch), {"updates": 187 * epoch})
    if status == "complete":
        record.finish(keep_state=True)
    if known == "checkpoint":
        record.csv.unlink()
        record.sidecar.unlink()
    before = contents(tmp_path)
    again = Record(experiment(epochs=3), tmp_path, notice=pytest.fail)
    with pytest.raises(UserError) as refused:
        again.resume(made_of)
    assert message in str(refused.value)
    ours = record.csv if known == "sidecar" else record.final if status == "complete" else record.checkpoint
    assert str(refused.value).startswith(f"{ours} belongs to ")
    assert contents(tmp_path) == before
    assert Record(experiment(epochs=3), tmp_path, notice=pytest.fail).resume(MADE_OF) == {"updates": 374}


def test_data_and_network_of_an_older_record_are_noted_from_now_on(tmp_path):
    keep(tmp_path, [row(1)], "running")
    record = Record(experiment(), tmp_path)
    assert record.resume(MADE_OF) == {"updates": 187}
    record.start(**MADE_OF)
    record.save_state({"updates": 200})
    assert json.loads(record.sidecar.read_text())["data"] == MADE_OF["data"]
    assert torch.load(record.checkpoint, weights_only=True)["network"] == MADE_OF["network"]
    with pytest.raises(UserError, match=r"parameter fc\.weight is 84x10 there but missing now"):
        Record(experiment(), tmp_path).resume(other("network", **{"fc.weight": None}))


class Foo:
    pass


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"model": {"_extra_state": Foo()}}, 'model state "_extra_state" holds a Foo, .*from get_extra_state'),
        ({"model": {"a._extra_state": {"seen": [1, {2: Foo()}]}}}, 'model state "a._extra_state.seen.1.2" holds a Foo'),
        ({"model": {"_extra_state": lambda: None}}, 'model state "_extra_state" holds a function'),
        ({"model": {"_extra_state": {np.float64(2): 1}}}, 'model state "_extra_state.2.0" holds a float64'),
        (
            {"optimizer": {"state": {0: {"step": np.float64(1)}}}},
            'optimizer state "0.step" holds a float64, .*use tensors',
        ),
        ({"seen": np.arange(3)}, "seen holds a ndarray"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, part, message):
    record = keep(tmp_path, [row(1)], "running")
    before = contents(tmp_path)
    for save in (record.save_state, record.as_loaded):
        with pytest.raises(NotLoadable, match=message):
            save({"updates": 200, **part})
    assert contents(tmp_path) == before


def test_what_is_saved_is_loaded_back(tmp_path):
    record = keep(tmp_path, [row(1, noise_scale=math.nan)], "running")
    weights = torch.nn.Parameter(torch.arange(3.0))
    extra = {"text": "a", "none": None, "list": [1, 2.5, True], "tuple": (1, ()), "nan": math.nan}
    state = {"updates": 200, "model": {"weights": weights, "sparse": torch.eye(2).to_sparse(), "_extra_state": extra}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of sparse tensors
        record.save_state(state)
        for loaded in (record.as_loaded(state), Record(experiment(), tmp_path).resume()):
            assert torch.equal(loaded["model"]["weights"], weights)
            assert torch.equal(loaded["model"]["sparse"].to_dense(), torch.eye(2))
            assert str(loaded["model"]["_extra_state"]) == str(extra)


@pytest.mark.parametrize("name", ["csv", "json", "ckpt", "ckpt.previous", "final.ckpt"])
def test_a_file_that_may_not_be_read_stays_as_it_is(tmp_path, name):
    """It may be whole: it is neither set aside nor replaced."""
    record = longer(tmp_path, 2)
    for left in (record.checkpoint, record.previous):
        left.write_bytes(record.final.read_bytes())
    path, before = tmp_path / f"baseline_small_bs8_seed0.{name}", contents(tmp_path)
    path.chmod(0)
    with as_any_user(), pytest.raises(ReadError) as refused:
        Record(experiment(), tmp_path, notice=pytest.fail).resume()
    assert str(refused.value) == (
        f"{path} cannot be read (Permission denied); ask its owner for permission or choose another data_dir"
    )
    path.chmod(0o600)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("mode", [0o000, 0o600])
def test_a_folder_that_may_not_be_searched(tmp_path, mode):
    keep(tmp_path / "data", [row(1)])
    (tmp_path / "data").chmod(mode)
    for folder in (tmp_path / "data", tmp_path / "data" / "below"):
        with as_any_user(), pytest.raises(ReadError, match=r"seed0.json cannot be read \(Permission denied\); ask its"):
            Record(experiment(), folder)
    (tmp_path / "data").chmod(0o700)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.EIO, os.strerror(errno.EIO)),
            r"cannot be read \(Input/output error\); check the disk or the conn",
        ),
        (MemoryError("out of it"), r"ckpt does not fit in memory \(out of it\); free some"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_set_aside(tmp_path, monkeypatch, error, message):
    record = keep(tmp_path, [row(1)], "running")
    before = contents(tmp_path)

    def fail(path):
        raise error

    again = Record(experiment(), tmp_path, notice=pytest.fail)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError, match=message):
            again.resume()
    assert contents(tmp_path) == before
    assert record.checkpoint.exists()


def part(since: int, threads: int = 1, kind: str = "cpu", workers: int = 1, torch: str = "2.4") -> dict:
    device = {"type": kind, "name": f"a {kind}", "threads": threads}
    return {"from_update": since, "device": device, "workers": workers, "torch": torch}


class TestParts:
    """What the sidecar notes of a run in several sittings."""

    def sitting(self, monkeypatch, updates: int, noted: dict, threads: int = 1, workers: int = 1) -> dict:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(provenance, "cpu", lambda: "a cpu")
        monkeypatch.setattr(provenance.metadata, "version", lambda package: "2.4")
        training = SimpleNamespace(
            experiment=experiment(batch_size=8),
            updates=updates,
            device=torch.device("cpu"),
            group=SimpleNamespace(count=workers),
            model=torch.nn.Linear(1, 1),
            updates_per_epoch=10,
            data=SimpleNamespace(train_images=[0] * 80, test_images=[0] * 8),
            ghost_batches=[(0, 8 // workers)],
        )
        return provenance.facts(training, noted)

    def test_one_for_each_change_of_threads_and_workers(self, monkeypatch):
        noted = {}
        for updates, threads, workers in [(0, 1, 1), (5, 1, 1), (7, 2, 1), (9, 2, 1), (20, 2, 2), (22, 2, 2)]:
            noted = self.sitting(monkeypatch, updates, noted, threads, workers)
        assert noted["parts"] == [part(0), part(7, 2), part(20, 2, workers=2)]
        assert (noted["device"]["threads"], noted["workers"]) == (2, 2)
        # Continued from an earlier checkpoint, and begun again: later parts are forgotten.
        assert self.sitting(monkeypatch, 8, noted, 2)["parts"] == [part(0), part(7, 2)]
        assert self.sitting(monkeypatch, 7, noted, 1)["parts"] == [part(0)]
        assert self.sitting(monkeypatch, 0, noted, 4)["parts"] == [part(0, 4)]

    def test_of_an_older_sidecar(self, monkeypatch):
        older = {"device": part(0)["device"], "workers": 1, "versions": {"torch": "2.4"}}
        assert self.sitting(monkeypatch, 5, older)["parts"] == [part(0)]
        assert self.sitting(monkeypatch, 5, older, 2)["parts"] == [part(0), part(5, 2)]
        assert self.sitting(monkeypatch, 5, {})["parts"] == [part(5)]  # the sidecar is lost

    @pytest.mark.parametrize(
        ("now", "changes"),
        [
            (part(7, 2), "threads: 2 instead of 1"),
            (part(7, workers=2), "workers: 2 instead of 1"),
            (part(7, 8, "cuda"), "device: cuda, a cuda instead of cpu, a cpu"),
            (part(7, torch="2.14"), "torch: 2.14 instead of 2.4"),
        ],
    )
    def test_a_change_is_said_once(self, now, changes):
        facts = {"parts": [part(0), now], "ghost_batch": [{"from_update": 0, "images": 8}]}
        before = {"parts": [part(0)]}
        (line,) = provenance.notices(facts, before, 8)
        assert line.startswith(f"continuing after update 7 under other conditions ({changes}): sums are rounded in ano")
        assert provenance.notices(facts, facts, 8) == []

    def test_threads_beside_a_gpu_change_no_number(self):
        facts = {"parts": [part(0, 1, "cuda"), part(7, 2, "cuda")], "ghost_batch": [{"from_update": 0, "images": 8}]}
        assert provenance.notices(facts, {}, 8) == []


@pytest.mark.parametrize(
    ("batch_size", "sizes", "workers", "expected"),
    [
        (128, [(0, 128)], [(0, 1)], [(0, 128, None)]),
        (129, [(0, 128)], [(0, 1)], [(0, 128, 1)]),
        (130, [(0, 44)], [(0, 1)], [(0, 44, 42)]),  # 44 + 44 + 42
        (129, [(0, 128), (30, 43)], [(0, 1)], [(0, 128, 1), (30, 43, None)]),  # memory ran out
        (260, [(0, 64)], [(0, 1), (9, 2), (12, 1)], [(0, 64, 4), (9, 64, 2), (12, 64, 4)]),  # other shares
        (256, [(0, 64)], [(0, 1), (9, 2)], [(0, 64, None)]),
        (260, [(0, 64)], [(9, 2)], [(0, 64, 2)]),  # how it began is not known
    ],
)
def test_ghost_batches_by_hand(batch_size, sizes, workers, expected):
    parts = [part(since, workers=count) for since, count in workers]
    items = provenance.ghost_batch(batch_size, sizes, parts)
    assert [(item["from_update"], item["images"], item.get("last")) for item in items] == expected


@pytest.mark.parametrize(
    ("batch_size", "images", "last", "advice"),
    [
        (129, 128, 1, "has 1 of 128 images, .* use --micro-batch-size 43, which divides 129 more evenly"),
        (192, 128, 64, "has 64 of 128 images, .* use --micro-batch-size 96,"),
        (131, 128, 3, "use --micro-batch-size 66,"),  # a prime: 66 + 65
        (191, 128, 63, "use --micro-batch-size 96,"),
        (193, 128, 65, None),
        (128, 128, None, None),
    ],
)
def test_a_small_last_micro_batch_is_told_with_a_better_size(batch_size, images, last, advice):
    ghost = {"from_update": 0, "images": images} | ({"last": last} if last else {})
    facts = {"parts": [part(0)], "ghost_batch": [ghost]}
    lines = provenance.notices(facts, {}, batch_size)
    assert len(lines) == (advice is not None)
    if advice:
        assert re.search(advice, lines[0])
    assert provenance.notices(facts, facts, batch_size) == []
