"""What is written reads back the same; what belongs to another experiment is refused; nothing is half-written."""

import hashlib
import json
import math
import re
from dataclasses import asdict, astuple

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscale.epoch import COLUMNS, Epoch
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records.checkpoint import FORMAT
from batchscale.records.files import temporary_of
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
