"""Logs as other tools write them become records: what was guessed is shown, and nothing is overwritten."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import FIRST_EDITION, PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscale import cli
from batchscale.analysis import sentences
from batchscale.errors import UserError
from batchscale.records import Study
from batchscale.records.imports import Choices, plan

try:
    import tensorboard  # noqa: F401
except ImportError:
    needs_tensorboard = pytest.mark.skip(reason='pip install "batchscale[tensorboard]"')
else:
    needs_tensorboard = pytest.mark.filterwarnings("ignore")  # protobuf's and NumPy's, of other people's making

# Lightning 2: training steps every two batches, validation and the epoch's means at its end; 4 batches an epoch.
LIGHTNING = """epoch,lr,step,train_loss_epoch,train_loss_step,val_acc,val_loss
,0.1,1,,,,
0,,1,,2.25,,
0,,3,,,0.25,2.125
0,,3,2.25,,,
,0.1,5,,,,
1,,5,,1.75,,
1,,7,,,0.5,1.5
1,,7,1.625,,,
"""
KERAS = """epoch,accuracy,loss,val_accuracy,val_loss
0,0.125,2.25,0.25,2.125
1,0.375,1.75,0.5,1.5
"""
# A column for each run, and two with its bounds.
WANDB = "".join(
    ",".join(f'"{field}"' for field in fields) + "\n"
    for fields in [
        ("Step", *(f"{run} - val/acc{bound}" for run in ("lr-0.1 bs256", "bs32") for bound in ("", "__MIN", "__MAX"))),
        ("40", "0.25", "0.25", "0.25", "", "", ""),
        ("80", "0.5", "0.5", "0.5", "", "", ""),
        ("320", "", "", "", "0.375", "0.375", "0.375"),
        ("640", "", "", "", "0.625", "0.625", "0.625"),
    ]
)
TRAINER_STATE = {
    "best_metric": None,
    "epoch": 2.0,
    "eval_steps": 4,
    "global_step": 8,
    "log_history": [
        {"epoch": 0.5, "grad_norm": 1.5, "learning_rate": 0.1, "loss": 2.25, "step": 2},
        {"epoch": 1.0, "grad_norm": 1.5, "learning_rate": 0.05, "loss": 1.75, "step": 4},
        {"epoch": 1.0, "eval_accuracy": 0.25, "eval_loss": 2.125, "eval_runtime": 0.1, "step": 4},
        {"epoch": 1.5, "grad_norm": 1.5, "learning_rate": 0.02, "loss": 1.5, "step": 6},
        {"epoch": 2.0, "grad_norm": 1.5, "learning_rate": 0.0, "loss": 1.25, "step": 8},
        {"epoch": 2.0, "eval_accuracy": 0.5, "eval_loss": 1.5, "eval_runtime": 0.1, "step": 8},
        {
            "epoch": 2.0,
            "step": 8,
            "train_loss": 1.6875,
            "train_runtime": 2.0,
            "train_samples_per_second": 128.0,
            "train_steps_per_second": 4.0,
        },
    ],
    "max_steps": 8,
    "num_train_epochs": 2,
    "train_batch_size": 32,
}


def put(path: Path, content: str | bytes | dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def imported(tmp_path: Path, *sources: Path, **choices) -> tuple[list[list], str]:
    """What `Study.load` reads of the records that are written, without what is missing, and what was shown."""
    planned = plan(sources, Choices(**{"name": "mine", **choices}))
    folder = tmp_path / "records"
    folder.mkdir(exist_ok=True)
    for name, content in planned.contents.items():
        (folder / name).write_bytes(content)
    return Study.load(folder).epochs, str(planned)


def rows(epochs: pd.DataFrame, *columns: str) -> list[list]:
    return epochs[list(columns)].astype(object).where(epochs[list(columns)].notna(), None).values.tolist()


CURVE = ("batch_size", "seed", "epoch", "updates", "accuracy", "train_accuracy", "train_loss", "test_loss")


def test_lightning(tmp_path):
    """Its rows part training and validation, its steps are numbers of batches from 0, and settings lie beside."""
    log = put(tmp_path / "lightning_logs/version_0/metrics.csv", LIGHTNING)
    put(log.with_name("hparams.yaml"), "batch_size: 64\nlr: 0.1\n")
    epochs, shown = imported(tmp_path, tmp_path / "lightning_logs")
    assert rows(epochs, *CURVE) == [[64, 0, 1, 4, 0.25, None, 2.25, 2.125], [64, 0, 2, 8, 0.5, None, 1.625, 1.5]]
    assert "version_0/metrics.csv: read as Lightning's CSVLogger" in shown
    assert "accuracy = val_acc" in shown
    assert "updates are step + 1" in shown
    assert "epochs are counted from 0 there, and from 1 here" in shown
    assert "batch_size is from hparams.yaml" in shown
    assert f"mine_bs64_seed0.csv: 2 evaluations, accuracy 0.5 at the end, from {log}" in shown


def test_lightning_validates_several_times_an_epoch_and_tests_once(tmp_path):
    text = "epoch,step,test_acc,val_acc\n0,1,,0.25\n0,3,,0.5\n1,5,,0.75\n1,7,,0.875\n2,8,0.75,\n"
    epochs, shown = imported(tmp_path, put(tmp_path / "b16/metrics.csv", text))
    assert rows(epochs, "batch_size", "epoch", "updates", "accuracy") == [
        [16, None, 2, 0.25],
        [16, None, 4, 0.5],
        [16, None, 6, 0.75],
        [16, None, 8, 0.875],
    ]
    assert "accuracy is that of the validation set, not test_acc" in shown
    assert "several evaluations have the same epoch: they are ordered by updates" in shown
    assert "batch size is from the path" in shown


def test_keras(tmp_path):
    epochs, shown = imported(tmp_path, put(tmp_path / "batch_size=128/seed3/training.log", KERAS))
    assert rows(epochs, *CURVE) == [
        [128, 3, 1, None, 0.25, 0.125, 2.25, 2.125],
        [128, 3, 2, None, 0.5, 0.375, 1.75, 1.5],
    ]
    assert (
        epochs["generalization_error"].isna().all()
    )  # its training accuracy is a mean over the epoch, in training mode
    assert "read as Keras's CSVLogger" in shown
    assert "train_accuracy = accuracy" in shown


def test_a_chart_of_weights_and_biases_holds_several_runs(tmp_path):
    epochs, shown = imported(tmp_path, put(tmp_path / "wandb_export_2026-11-25T10_07_23.csv", WANDB))
    assert rows(epochs, "batch_size", "updates", "accuracy") == [
        [32, 320, 0.375],
        [32, 640, 0.625],
        [256, 40, 0.25],
        [256, 80, 0.5],
    ]
    assert "(lr-0.1 bs256) and 1 more: read as a chart of Weights & Biases" in shown


def test_its_step_counts_what_was_logged(tmp_path):
    """Once an epoch: 0, 1, 2. Nobody evaluates after every update."""
    text = '"Step","bs32 - test_acc"\n"0","0.25"\n"1","0.5"\n"2","0.75"\n'
    epochs, shown = imported(tmp_path, put(tmp_path / "export.csv", text))
    assert rows(epochs, "epoch", "updates", "accuracy") == [[1, None, 0.25], [2, None, 0.5], [3, None, 0.75]]
    assert "Step rises by 1 from evaluation to evaluation: it counts epochs, not updates" in shown


def test_the_table_of_runs_of_weights_and_biases_is_one_of_final_accuracies(tmp_path):
    text = '"Name","State","batch_size","val_acc"\n"a","finished","32","0.75"\n"b","finished","32","0.5"\n'
    text += '"c","finished","64","0.625"\n'
    epochs, shown = imported(tmp_path, put(tmp_path / "wandb.csv", text))
    expected = [[32, 0, None, None, 0.75], [32, 1, None, None, 0.5], [64, 0, None, None, 0.625]]
    assert rows(epochs, "batch_size", "seed", "epoch", "updates", "accuracy") == expected
    assert "a row is the final accuracy of a run" in shown


def test_trainer_state(tmp_path):
    """The last checkpoint of each output folder, or the folder's own file; events below it are the same run."""
    for name in ("a/checkpoint-4", "a/checkpoint-8", "b/checkpoint-8", "b"):
        history = TRAINER_STATE["log_history"][: 3 if name.endswith("4") else 7]
        put(tmp_path / "out" / name / "trainer_state.json", TRAINER_STATE | {"log_history": history})
    put(tmp_path / "out/a/runs/Nov25_10-00/events.out.tfevents.1.host.1.0", b"")
    epochs, shown = imported(tmp_path, tmp_path / "out")
    one = [[1, 4, 0.25, None, 1.75, 2.125], [2, 8, 0.5, None, 1.25, 1.5]]
    assert rows(epochs, *CURVE) == [[32, seed, *row] for seed in (0, 1) for row in one]
    assert epochs["learning_rate"].tolist() == [0.05, 0.0] * 2
    assert "train_batch_size is that of one process, without gradient accumulation" in shown
    assert "seeds are numbered in the order of the logs" in shown


def test_trainer_state_of_several_processes(tmp_path):
    """Its rates say how many samples an update had."""
    last = TRAINER_STATE["log_history"][-1] | {"train_samples_per_second": 1024.0}
    state = TRAINER_STATE | {"log_history": [*TRAINER_STATE["log_history"][:-1], last]}
    log = put(tmp_path / "trainer_state.json", state)
    with pytest.raises(
        UserError, match=r"does not say its batch size \(train_batch_size is 32, but .* about 256 samples"
    ):
        plan([log], Choices(name="mine"))
    epochs, _ = imported(tmp_path, log, batch_size="256")
    assert set(epochs["batch_size"]) == {256}


@needs_tensorboard
def test_tensorboard(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "runs/bs64_seed1") as writer:
        for epoch, (accuracy, wall) in enumerate([(0.1, 110), (0.6, 120), (0.7, 130)]):
            writer.add_scalar("Accuracy/test", accuracy, epoch, walltime=wall)
            writer.add_scalar("Loss/test", 1 - accuracy, epoch, walltime=wall)
            for update in range(4):
                writer.add_scalar("Loss/train", 9.0, 4 * epoch + update, walltime=wall - 5)
    epochs, shown = imported(tmp_path, tmp_path / "runs")
    expected = [
        [64, 1, 1, None, 0.1, None, None, 0.9],
        [64, 1, 2, None, 0.6, None, None, 0.4],
        [64, 1, 3, None, 0.7, None, None, 0.3],
    ]
    assert rows(epochs, *CURVE) == expected
    assert "step rises by 1 from evaluation to evaluation" in shown
    assert "read as TensorBoard's events" in shown


@needs_tensorboard
def test_tensorboard_of_keras(tmp_path):
    """A folder for each half of a run, and scalars as tensors."""
    import numpy as np
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    for half, accuracies in (("train", [0.5, 0.75]), ("validation", [0.25, 0.375])):
        writer = EventFileWriter(str(tmp_path / "logs" / "bs8" / half))
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1)
        for epoch, accuracy in enumerate(accuracies):
            tensor = make_tensor_proto(np.float32(accuracy))
            value = Summary.Value(tag="epoch_accuracy", tensor=tensor, metadata=metadata)
            writer.add_event(Event(wall_time=100 + epoch, step=epoch, summary=Summary(value=[value])))
        writer.close()
    epochs, shown = imported(tmp_path, tmp_path / "logs")
    assert rows(epochs, "batch_size", "epoch", "accuracy") == [[8, 1, 0.25], [8, 2, 0.375]]
    assert "accuracy = validation/epoch_accuracy" in shown


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    events = put(tmp_path / "bs8/events.out.tfevents.1.host.1.0", b"")
    with pytest.raises(
        UserError, match=r'bs8 holds event files of TensorBoard; .* pip install "batchscale\[tensorboard\]"'
    ):
        plan([events], Choices(name="mine"))


@needs_tensorboard
@pytest.mark.parametrize("content", [b"", b"rubbish" * 9])
def test_events_without_a_scalar(tmp_path, content):
    events = put(tmp_path / "bs8/events.out.tfevents.1.host.1.0", content)
    with pytest.raises(UserError, match="has no accuracy among its columns"):
        plan([events], Choices(name="mine"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epoch;batch_size;acc\n1;8;0,25\n2;8;0,5\n", ["separated by semicolons", "commas in numbers are decimal"]),
        ("epoch\tbatch_size\tacc\n1\t8\t25 %\n2\t8\t50 %\n", ["separated by tabs", "% sign are divided by 100"]),
        ("epoch,batch_size,acc\n1,8,25\n2,8,50", ["in percent: divided by 100"]),
        ('epoch,batch_size,acc\n1,8,"0,25"\n2,8,"0,5"\n', ["commas in numbers are decimal"]),
        (b"\xef\xbb\xbfepoch|batch_size|acc\r\n1|8|0.25\r\n2|8|.5\r\n", ["separated by bars"]),
        ("sep=;\r\nEpoch;BatchSize;Acc\r\n0;8;0,25\r\n1;8;0,5\r\n".encode("utf-16"), ["separated by semicolons"]),
        ("epoch;bs;Präzision;acc\n1;8;0,1;0,25\n2;8;0,1;0,5\n".encode("cp1252"), ["read as Windows-1252"]),
        ("# epoch bs acc\n1.0 8 2.5e-1\n2.0 8 5.0e-1\n", ["separated by blanks"]),
        ("epoch,bs,acc,loss\n1,8,0.25,nan\n2,8,0.5,inf\n3,8,,None\n", ["acc"]),
        ("Iteration,bs,error_rate\n10,8,0.75\n20,8,0.5\n", ["error = error_rate"]),
        (
            "epoch,batch_size,best_acc,MulticlassAccuracy,top5_acc\n1,8,9,0.25,0.9\n2,8,9,0.5,1\n",
            ["= MulticlassAccuracy"],
        ),
    ],
)
def test_tables_of_all_kinds(tmp_path, content, said):
    choices = {"columns": {"error": "error_rate"}} if "error" in str(content) else {}
    epochs, shown = imported(tmp_path, put(tmp_path / "log.txt", content), **choices)
    assert rows(epochs, "batch_size", "accuracy") == [[8, 0.25], [8, 0.5]]
    assert [text for text in said if text not in shown] == []


def test_steps_to_a_target_need_no_curve(tmp_path):
    """Target given as a number; a size that never reached it; percent."""
    log = put(tmp_path / "steps.csv", "bs,steps\n8,4000\n16,2100\n16,2300\n32,\n")
    planned = plan(
        [log],
        Choices(name="mine", columns={"updates_to_target": "steps", "target": "70", "updates": ""}, is_percent=True),
    )
    (tmp_path / "records").mkdir()
    for name, content in planned.contents.items():
        (tmp_path / "records" / name).write_bytes(content)
    study = Study.load(tmp_path / "records")
    found = rows(study.goals, "batch_size", "seed", "target", "updates")
    assert found == [[8, 0, 0.7, 4000], [16, 0, 0.7, 2100], [16, 1, 0.7, 2300], [32, 0, 0.7, None]]
    assert study.epochs.empty
    assert "mine_bs16_seed1.csv: updates to 1 target" in str(planned)


def test_one_table_of_both(tmp_path):
    log = put(
        tmp_path / "both.csv",
        "batch_size,accuracy,target,updates_to_target,updates\n8,0.75,0.5,100,900\n16,0.25,0.5,,450\n",
    )
    epochs, _ = imported(tmp_path, log)
    goals = Study.load(tmp_path / "records").goals
    assert rows(epochs, "batch_size", "updates", "accuracy") == [[8, None, 0.75], [16, None, 0.25]]
    assert rows(goals, "batch_size", "updates", "updates_trained") == [[8, 100, 900], [16, None, 450]]


def test_batch_size_and_seed_from_everywhere(tmp_path):
    text = "epoch,acc,B,run\n1,0.5,4,7\n"
    log = put(tmp_path / "exp12/net_n96.csv", text)
    for batch_size, seed, expected in [
        ("48", "5", (48, 5)),
        ("B", "run", (4, 7)),
        ("n{}.csv", "exp{}", (96, 12)),
        ("n{}", None, (96, 0)),
    ]:
        (run,) = plan([log], Choices(name="mine", batch_size=batch_size, seed=seed)).runs
        assert run.run == ("mine", *expected)


def test_the_path_may_say_several_batch_sizes(tmp_path):
    """The one furthest down counts; of two in one name the user says which."""
    text = "epoch,acc\n1,0.5\n"
    (run,) = plan([put(tmp_path / "bs8-sweep/bs16/seed3/vit_b32.csv", text)], Choices(name="mine")).runs
    assert run.run == ("mine", 16, 3)
    log = put(tmp_path / "x/bs8-of-bs16.csv", text)
    with pytest.raises(UserError, match=r"bs8-of-bs16.csv names the batch size 8 and 16; say which with --batch-size"):
        plan([log], Choices(name="mine"))
    (run,) = plan([log], Choices(name="mine", batch_size="of-bs{}")).runs
    assert run.run == ("mine", 16, 0)
    with pytest.raises(UserError, match=r"does not match n{}, the pattern of the batch size; {} stands for its number"):
        plan([log], Choices(name="mine", batch_size="n{}"))


def test_a_folder_is_searched_for_the_logs_of_runs(tmp_path):
    """Tables of other kinds count where there is nothing else."""
    put(tmp_path / "summary.csv", "a,b\n1,2\n")
    for size in (16, 8, 128):
        put(tmp_path / f"bs{size}/version_0/metrics.csv", LIGHTNING)
    epochs, _ = imported(tmp_path, tmp_path)
    assert sorted(set(epochs["batch_size"])) == [8, 16, 128]
    for size in (8, 16):
        put(tmp_path / f"tables/bs{size}.tsv", KERAS.replace(",", "\t"))
    planned = plan([tmp_path / "tables"], Choices(name="mine"))
    assert f"{tmp_path}/tables/bs8.tsv and 1 more: read as Keras's CSVLogger" in str(planned)
    assert list(planned.contents) == ["mine_bs8_seed0.csv", "mine_bs16_seed0.csv"]


def test_of_two_batch_sizes_the_user_says_which(tmp_path):
    text = "epoch,acc,batch_size,config/batch_size\n1,0.5,8,{}\n"
    log = put(tmp_path / "a.csv", text.format(16))
    with pytest.raises(UserError, match="two columns that may be batch_size, batch_size and config/batch_size; choose"):
        plan([log], Choices(name="mine"))
    for choice, expected in (("config/batch_size", 16), ("batch_size", 8), ("32", 32)):
        (run,) = plan([log], Choices(name="mine", batch_size=choice)).runs
        assert run.run == ("mine", expected, 0)
    (run,) = plan([put(log, text.format(8))], Choices(name="mine")).runs  # they agree
    assert run.run == ("mine", 8, 0)
    finals = put(tmp_path / "finals.csv", "n,acc\n8,0.5\n16,0.25\n")
    assert len(plan([finals], Choices(name="mine", batch_size="n")).runs) == 2


def test_modes_from_a_column(tmp_path):
    log = put(tmp_path / "a.csv", "experiment,bs,epoch,acc\nlinear,8,1,0.5\nsqrt,8,1,0.25\n")
    epochs, _ = imported(tmp_path, log, name=None)
    assert rows(epochs, "experiment", "accuracy") == [["linear", 0.5], ["sqrt", 0.25]]
    with pytest.raises(UserError, match="has the experiments linear and sqrt, but name is mine; leave out --name"):
        plan([log], Choices(name="mine"))


def test_records_of_our_own_are_the_same_again(tmp_path):
    data = FIRST_EDITION
    planned = plan([data / "scaled_lr_bs256_seed1.csv"], Choices())
    (content,) = planned.contents.values()
    again, before = pd.read_csv(io.BytesIO(content)), pd.read_csv(data / "scaled_lr_bs256_seed1.csv")
    pd.testing.assert_frame_equal(again, before[list(again)])


@settings(deadline=None)  # files are written
@given(
    accuracies=st.lists(st.floats(0, 1), min_size=1, max_size=5), size=st.integers(1, 2**40), every=st.integers(1, 5)
)
def test_what_is_imported_is_what_was_logged(tmp_path_factory, accuracies, size, every):
    folder = tmp_path_factory.mktemp("any")
    lines = [f"{every * number};{size};{accuracy!r}" for number, accuracy in enumerate(accuracies, 1)]
    log = put(folder / "log.csv", "\n".join(["epoch;bs;acc", *lines, ""]))
    epochs, _ = imported(folder, log)
    assert epochs["accuracy"].tolist() == accuracies
    assert epochs["epoch"].tolist() == [every * number for number in range(1, len(accuracies) + 1)]
    assert set(epochs["batch_size"]) == {size}


@given(
    content=st.binary(max_size=200)
    | st.text(alphabet='8,;.%1e-\n\r\t" aN', max_size=80).map(lambda text: f"epoch,bs,acc\n{text}".encode())
    | st.text(alphabet='{}[]",:0e.-epochlog_ist', max_size=80).map(str.encode)
)
@pytest.mark.parametrize("name", ["log.csv", "metrics.csv", "trainer_state.json"])
def test_rubbish_is_refused_in_one_line(tmp_path_factory, name, content):
    log = put(tmp_path_factory.getbasetemp() / "rubbish" / name, content)
    message, planned = "", None
    try:
        planned = plan([log], Choices(name="mine", batch_size="8"))
    except UserError as refused:
        message = str(refused)
    assert "\n" not in message
    assert message or planned.contents


def command(*arguments) -> int:
    return cli.main(["import", *map(str, arguments)])


def test_help_needs_no_pandas():
    code = "import sys\nfrom batchscale.cli import main\ntry:\n    main(['import', '--help'])\n"
    code += "finally:\n    assert not {'torch', 'pandas', 'tensorboard'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "SOURCE [SOURCE ...]" in done.stdout


def test_shown_and_then_written(tmp_path, capsys):
    log = put(tmp_path / "bs128.csv", KERAS)
    arguments = [log, "--to", tmp_path / "new" / "records", "--name", "baseline_small"]
    assert command(*arguments, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "accuracy = val_accuracy" in shown
    assert not (tmp_path / "new").exists()
    assert command(*arguments) == 0
    folder = tmp_path / "new" / "records"
    assert (
        capsys.readouterr().out == f"{shown}1 record written to {folder}; now: python -m batchscale analyse {folder}\n"
    )
    assert [path.name for path in folder.iterdir()] == ["baseline_small_bs128_seed0.csv"]
    written = (folder / "baseline_small_bs128_seed0.csv").read_text()
    assert written.splitlines()[0] == "batch_size,epoch,accuracy,experiment,seed,train_accuracy,train_loss,test_loss"
    assert "128,1,0.25,baseline_small,0,0.125,2.25,2.125" in written


def test_an_import_claims_no_settings(tmp_path):
    """Nor does the log that names some: nothing checks what its words mean."""
    log = put(tmp_path / "log.csv", "batch_size,epoch,accuracy,optimizer,decay,seed\n64,1,0.5,adamw,cosine,0\n")
    assert cli.main(["import", str(log), "--to", str(tmp_path / "out"), "--name", "mine"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine_bs64_seed0.csv"]
    study = Study.load(tmp_path / "out")
    assert study.settings == {}
    assert study.setting("optimizer") is study.setting("decay") is study.setting("augment") is None
    assert sentences.settings(study) == "settings not recorded: these CSVs have no sidecars"


def test_nothing_is_overwritten_and_nothing_written_beside_it(tmp_path, capsys):
    for size in (8, 16, 32):
        put(tmp_path / f"logs/bs{size}.csv", KERAS)
    there = put(tmp_path / "records/mine_bs16_seed0.csv", "somebody's")
    arguments = [tmp_path / "logs", "--to", tmp_path / "records", "--name", "mine"]
    for options in ([], ["--dry-run"]):
        assert command(*arguments, *options) == 2
        error = f"error: {there} is there already; nothing was written: choose another --to, --name or --seed"
        assert capsys.readouterr().err.startswith(error)
        assert [path.read_text() for path in (tmp_path / "records").iterdir()] == ["somebody's"]


def test_percent_is_judged_over_all_logs(tmp_path):
    """One percent, in a log of a run that learnt nothing, is no accuracy of 1."""
    logs = [put(tmp_path / f"bs{size}.csv", f"epoch,acc\n1,{best}\n") for size, best in ((8, 70.5), (4096, 1.0))]
    with pytest.raises(
        UserError, match=r"bs8.csv has accuracies above 1, .* those of .*bs4096.csv reach 1 at most; add --p"
    ):
        plan(logs, Choices(name="mine"))
    epochs, _ = imported(tmp_path, *logs, is_percent=True)
    assert epochs["accuracy"].tolist() == [0.705, 0.01]


def test_a_step_that_begins_again_is_no_number_of_updates(tmp_path):
    log = put(tmp_path / "a.csv", "epoch,step,bs,acc\n1,90,8,0.5\n2,90,8,0.6\n")
    epochs, shown = imported(tmp_path, log)
    assert rows(epochs, "epoch", "updates") == [[1, None], [2, None]]
    assert "step falls or repeats" in shown


def test_a_time_that_falls_is_none(tmp_path):
    log = put(tmp_path / "a.csv", "epoch,bs,acc,_runtime\n1,8,0.5,10\n2,8,0.6,9\n")
    epochs, shown = imported(tmp_path, log)
    assert epochs["running_time"].isna().all()
    assert "_runtime falls: it is no running time, and is left out" in shown
    assert math.isnan(epochs["updates"].iloc[0])
