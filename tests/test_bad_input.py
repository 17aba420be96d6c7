"""Whatever a user may get wrong, in one table: an exit code and one line that says what is wrong and what to do."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from conftest import CIFAR10, needs_cifar10
from test_records import HEADER

from batchscale import cli
from batchscale.records.checkpoint import FORMAT

STEM = "baseline_small_bs64_seed0"
LOG = "batch_size,epoch,accuracy"
GOAL = "batch_size,target,updates_to_target"
FIVE = "batch_size,epoch,accuracy,generalization_error,running_time"


def csv(*lines: str, header: str = FIVE, end: str = "\n", ending: str = "\n", start: bytes = b""):
    """Writes the record's CSV, from its lines."""
    return lambda folder: (folder / f"{STEM}.csv").write_bytes(start + (end.join([header, *lines]) + ending).encode())


def log(*lines: str, header: str = "batch_size,epoch,accuracy", end: str = "\n", ending: str = "\n"):
    """Writes a log of somebody else's, from its lines."""
    return lambda folder: (folder / "log.csv").write_text(end.join([header, *lines]) + ending)


def two_logs(folder: Path) -> None:
    for name in ("log", "other"):
        (folder / f"{name}.csv").write_text("batch_size,epoch,accuracy\n8,1,0.5\n")


def sidecar(content: str | dict, **changes):
    """Writes the record's sidecar: a text, or what a run of these flags has, changed."""

    def write(folder: Path) -> None:
        if isinstance(content, dict):
            cli.main([*TRAIN, "--batch-size", "64", "--data-dir", str(folder)])
            kept = json.loads((folder / f"{STEM}.json").read_text())
            kept["experiment"] |= content
            (folder / f"{STEM}.json").write_text(json.dumps(kept | changes))
        else:
            (folder / f"{STEM}.json").write_text(content)

    return write


def copied(ending: str, *names: str):
    """Writes the record's CSV and a copy with this ending; or, twice, a log that says which run it holds."""
    logged = csv("64,1,0.5,0.1,1,mine,0", header=f"{FIVE},experiment,seed") if names else csv("64,1,0.5,0.1,1")

    def write(folder: Path) -> None:
        logged(folder)
        written = folder / f"{STEM}.csv"
        for name in names or [f"{STEM}{ending}"]:
            shutil.copy(written, folder / name)
        if names:
            written.rename(folder / "mine_bs64_seed0.csv")

    return write


class Malicious:
    """Pickled, it is a call that leaves a trace."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def malicious(in_zip: bool):
    def write(folder: Path) -> None:
        sidecar({}, status="running")(folder)
        (folder / f"{STEM}.csv").unlink()
        if in_zip:
            import torch

            torch.save({"format": 2, "state": Malicious(folder / "it ran")}, folder / f"{STEM}.ckpt")
        else:
            (folder / f"{STEM}.ckpt").write_bytes(pickle.dumps(Malicious(folder / "it ran")))

    return write


def weights(folder: Path, *names: str) -> None:
    """Those of `networks:linear` on digits, where the names are its own."""
    import torch

    torch.save({name: torch.zeros((10, 3072)[: 1 + ("weight" in name)]) for name in names}, folder / "weights.pt")


def newer(folder: Path) -> None:
    """A checkpoint of a batchscale to come."""
    import torch

    torch.save({"format": 99}, folder / "newer.ckpt")


def corrupt_cifar10(folder: Path) -> None:
    shutil.copytree(CIFAR10 / "cifar-10-batches-py", folder / "images" / "cifar-10-batches-py")
    batch = folder / "images" / "cifar-10-batches-py" / "data_batch_3"
    content = bytearray(batch.read_bytes())
    content[1_000_000] ^= 1
    batch.chmod(0o644)
    batch.write_bytes(content)


TRAIN = ["train", "--dataset", "digits", "--width", "0.1", "--train-size", "128", "--epochs", "2"]
OWN = ["train", "--batch-size", "2", "--model", "networks:linear", "--width", "1", "--dataset"]
IMPORT = ["import", "{}/log.csv", "--to", "{}/new", "--name", "a"]
STATE = ["import", "{}/trainer_state.json", *IMPORT[2:]]
ADVISE = ["advise", "--dataset", "digits", "--train-size", "160", "--model", "networks:linear", "--minutes", "0.2"]
OWN_NETWORK = ["project", "{}", "--latency"]
LINK = ["--latency", "1", "--bandwidth", "1"]
CIFAR = ["train", "--batch-size", "64", "--data-root"]

# What is there beforehand, the command ({} is its folder), its exit code and a part of the line that it prints.
BAD = [
    # commands and flags
    (None, [], 2, "Expected one of {train, sweep, find, "),
    (None, ["fly"], 2, "fly"),
    (None, ["train"], 2, "--batch-size"),
    (None, [*TRAIN, "--batch-size", "8", "--bose-lr", "1"], 2, "--bose-lr"),
    (None, [*TRAIN, "--batch-size", "0"], 2, "batch_size is 0; it must be a whole number of at least 1"),
    (None, [*TRAIN, "--batch-size", "-1"], 2, "batch_size is -1; it must be a whole number of at least 1"),
    (None, [*TRAIN, "--batch-size", "2.5"], 2, "Error parsing --batch-size"),
    (None, [*TRAIN, "--batch-size", "abc"], 2, "Error parsing --batch-size"),
    (None, [*TRAIN, "--batch-size", "129"], 2, "batch_size is 129 but digits has 128 training images here"),
    (None, [*TRAIN, "--batch-size", "8", "--train-size", "1501"], 2, "train_size is 1501 but digits has 1500"),
    (None, [*TRAIN, "--batch-size", "8", "--micro-batch-size", "9"], 2, "micro_batch_size is 9 but batch_size is 8"),
    (None, [*TRAIN, "--batch-size", "8", "--epochs", "0"], 2, "epochs is 0"),
    (None, [*TRAIN, "--batch-size", "8", "--seed", "-1"], 2, "seed is -1"),
    (None, [*TRAIN, "--batch-size", "8", "--reference-batch-size", "0"], 2, "reference_batch_size is 0"),
    (
        None,
        [*TRAIN, "--batch-size", "16", "--warmup", "gradual", "--warmup-epochs", "3"],
        2,
        "warmup_epochs is 3.0 but epochs is 2",
    ),
    (None, [*TRAIN, "--batch-size", "8", "--warmup-epochs", "-1"], 2, "warmup_epochs is -1.0; it must be a finite"),
    (None, [*TRAIN, "--batch-size", "8", "--warmup", "slow"], 2, "invalid choice 'slow'"),
    (None, [*TRAIN, "--batch-size", "8", "--lr-scaling", "cubic"], 2, "invalid choice 'cubic'"),
    (None, [*TRAIN, "--batch-size", "8", "--base-lr", "nan"], 2, "base_lr is nan; it must be a finite number, above 0"),
    (None, [*TRAIN, "--batch-size", "8", "--base-lr", "inf"], 2, "base_lr is inf"),
    (None, [*TRAIN, "--batch-size", "8", "--base-lr", "-0.1"], 2, "base_lr is -0.1"),
    (None, [*TRAIN, "--batch-size", "8", "--momentum", "1"], 2, "momentum is 1.0"),
    (None, [*TRAIN, "--batch-size", "8", "--weight-decay", "-1"], 2, "weight_decay is -1.0"),
    (None, [*TRAIN, "--batch-size", "8", "--width", "0.001"], 2, "width is 0.001, which leaves a layer without a"),
    (None, [*TRAIN, "--batch-size", "8", "--width", "0"], 2, "width is 0.0"),
    (None, [*TRAIN, "--batch-size", "8", "--name", "../evil"], 2, "name is '../evil'"),
    (None, [*TRAIN, "--batch-size", "8", "--device", "gpu"], 2, "device is 'gpu', which cannot be used here"),
    (None, [*TRAIN, "--batch-size", "8", "--save-seconds", "-1"], 2, "save_seconds is -1.0"),
    (None, ["sweep", *TRAIN[1:], "--small", "8", "--workers", "0"], 2, "workers is 0"),
    (
        None,
        ["sweep", *TRAIN[1:], "--small", "8", "129", "--names", "baseline_small"],
        2,
        "batch_size is 129 but digits",
    ),
    (None, ["sweep", *TRAIN[1:], "--shard", "0/4"], 2, "shard is '0/4'; it must be i/n with i from 1 to n"),
    (None, ["sweep", *TRAIN[1:], "--gpus-per-run", "1"], 2, "require engine ray, but engine is processes; set"),
    (None, ["sweep", *TRAIN[1:], "--engine", "cloud"], 2, "invalid choice 'cloud'"),
    (None, ["find", *TRAIN[1:]], 2, "neither hours nor within is given; give a budget (hours 3), a width"),
    (None, ["find", *TRAIN[1:], "--hours", "-1"], 2, "hours is -1.0; it must be a number above 0"),
    (None, ["find", *TRAIN[1:], "--hours", "nan"], 2, "hours is nan; it must be a number above 0"),
    (None, ["find", *TRAIN[1:], "--within", "1"], 2, "within is 1.0; it must be a number above 1"),
    (None, ["find", *TRAIN[1:], "--within", "2", "--tolerance", "0"], 2, "tolerance is 0.0; it must be a fraction"),
    (None, ["find", *TRAIN[1:], "--within", "2", "--names", "baseline_small"], 2, "name a mode to compare with"),
    (None, ["find", *TRAIN[1:], "--within", "2", "--names", "../evil"], 2, "name is '../evil'"),
    (None, ["find", *TRAIN[1:], "--within", "2", "--small", "129"], 2, "small is 129; it must be batch sizes from 1"),
    (None, ["find", *TRAIN[1:], "--within", "2", "--largest", "8"], 2, "largest is 8; it must be a batch size above 8"),
    (None, ["find", *TRAIN[1:], "--within", "2", "--epochs", "0"], 2, "epochs is 0"),
    (None, ["find", *TRAIN[1:], "--within", "2", "--workers", "0"], 2, "workers is 0"),
    (
        None,
        ["find", *TRAIN[1:], "--hours", "0.0005", "--epochs", "9999"],
        2,
        "hours is 0.0005, but the shortest run of the reference, at batch size ",
    ),
    (
        None,
        ["find", *TRAIN[1:], "--hours", "0.01", "--small", "8", "--base-lr", "1e12"],
        2,
        "the reference does not train: baseline_small diverges at every batch size, with base_lr 1e+12; choose a lower",
    ),
    # networks
    (None, [*TRAIN, "--batch-size", "8", "--model", "models"], 2, "it must have the form module:name"),
    (None, [*TRAIN, "--batch-size", "8", "--model", "nowhere:CNN"], 2, "nowhere cannot be imported; start from the"),
    (None, [*TRAIN, "--batch-size", "8", "--model", "models:RNN"], 2, "models.py has no RNN; name one"),
    (None, [*TRAIN, "--batch-size", "8", "--model", "math:pi"], 2, "which is a float and cannot be called"),
    (None, [*TRAIN, "--batch-size", "8", "--model", "networks:linear"], 2, "networks:linear takes no width"),
    (
        None,
        [*TRAIN, "--batch-size", "8", "--width", "1", "--model", "networks:cannot_be_built"],
        2,
        "ZeroDivisionError: cannot build (",
    ),
    (
        None,
        [*TRAIN, "--batch-size", "8", "--width", "1", "--model", "networks:one_class_too_many"],
        2,
        "logits of shape (2, 11) for 2 images of digits; they must have shape (2, 10)",
    ),
    (
        None,
        [*TRAIN, "--batch-size", "8", "--width", "1", "--model", "networks:not_a_network"],
        2,
        "it returned a dict, which is no torch.nn.Module",
    ),
    (
        None,
        [*TRAIN, "--batch-size", "8", "--width", "1", "--model", "networks:fails_in_training"],
        2,
        "failed in training, after update 0: ValueError: too much of a good thing (",
    ),
    # images
    (None, ["train", "--batch-size", "8", "--dataset", "imagenet"], 2, "dataset is 'imagenet'; it must be cifar10,"),
    (None, [*OWN, "networks:data_that_fails"], 2, "dataset networks:data_that_fails failed: FileNotFoundError"),
    (None, [*OWN, "networks:data_of_words"], 2, "the train images are <U12 of shape (); they must be uint8"),
    (None, [*OWN, "networks:data_with_negative_labels"], 2, "the train labels have -1 at index 2; they must be"),
    (None, [*OWN, "networks:data_with_missing_labels"], 2, "the train labels have nan at index 2; they must be whole"),
    (None, [*OWN, "networks:linear"], 2, "dataset networks:linear failed: TypeError"),
    (lambda folder: (folder / "images").touch(), [*CIFAR, "{}/images"], 2, "images, which is a file; it must be the"),
    (None, [*CIFAR, "{}/missing"], 2, "{}/missing"),
    (corrupt_cifar10, [*CIFAR, "{}/images"], 2, "{}/images/cifar-10-batches-py is incomplete or damaged; cannot down"),
    # records: the CSV
    (csv("64,1,0.5,0.1", header=FIVE.rpartition(",")[0]), None, 2, "has no column running_time; it must begin with"),
    (csv("64,one,0.5,0.1,1"), None, 2, f"{STEM}.csv, line 2: epoch is 'one', which is not a number; restore the file"),
    (csv("64,1,high,0.1,1"), None, 2, "accuracy is 'high', which is not a number"),
    (csv("64,1,62.1,0.1,1"), None, 2, "accuracy is '62.1', which is not in 0-1"),
    (csv("64,1,NaN,0.1,1"), None, 2, "accuracy is 'NaN', which is not a finite number"),
    (csv("64,1,,0.1,1"), None, 2, "accuracy is '', which is not a number"),
    (csv("64,1.5,0.5,0.1,1"), None, 2, "epoch is '1.5', which is not a whole number from 1"),
    (csv("64,1,0.5,0.1,1", "64,1,0.6,0.1,2"), None, 2, "has the epochs 1, 1; they must be 1, 2, 3 and so on"),
    (csv("64,1,0.5,0.1,1", "64,3,0.6,0.1,2"), None, 2, "has the epochs 1, 3; they must be 1, 2, 3 and so on"),
    (csv("64,2,0.5,0.1,1"), None, 2, "has the epochs 2; they must be"),
    (csv("32,1,0.5,0.1,1"), None, 2, "has batch_size 32, its name says 64"),
    (csv("64,1,0.5,0.1,1", "64,2,0.6"), None, 2, "line 3: 3 fields where the header has 5; complete the line"),
    (
        csv("64,1,0.5,0.1,1", "64,2,0.6,0.1,12", ending=""),
        None,
        2,
        "ends within a line; end the last line if it is whole",
    ),
    (csv("64,1,0.5,0.1,1,7"), None, 2, "line 2: 6 fields where the header has 5"),
    (csv("64,1,0.5,0.1,1,2", header=f"{FIVE},epoch"), None, 2, "names a column twice"),
    (csv(header="", ending=""), None, 2, "is empty; restore it or move it away"),
    (csv(start=b"\xff\xfe\x00"), None, 2, "cannot be read as CSV ('utf-8' codec can't decode"),
    (lambda folder: (folder / f"{STEM}.csv").mkdir(), None, 2, "cannot be read as CSV ([Errno 21] Is a directory"),
    (csv("64,1,0.5,0.1,1"), None, 2, "has 1 of 2 epochs and no sidecar"),
    (csv("64,1,0.5,0.1,1", "64,2,0.5,0.1,2", start=b"\xef\xbb\xbf"), None, 0, "1 of 1 recorded already"),
    (csv("64,1,0.5,0.1,1", "64,2,0.5,0.1,2", end="\r\n", ending="\r\n"), None, 0, "1 of 1 recorded already"),
    # ... the sidecar
    (sidecar("{"), None, 2, f"{STEM}.json is not the sidecar of a record"),
    (sidecar("[1, 2]"), None, 2, "is not the sidecar of a record"),
    (sidecar("[" * 100_000), None, 2, "is not the sidecar of a record"),
    (sidecar('{"format": 2, "status": "fine", "experiment": {"epochs": 2}}'), None, 2, "(status 'fine', format 2)"),
    (sidecar({}, format=99), None, 2, f"has format 99, this batchscale reads {FORMAT}; upgrade batchscale"),
    (sidecar({"base_lr": 0.5, "width": 1}), None, 2, "base_lr is 0.5 there but 0.002 was asked for, width is 1 there"),
    # ... the checkpoint
    (malicious(in_zip=True), None, 0, f"{STEM}.ckpt cannot be used ("),
    (
        malicious(in_zip=False),
        None,
        0,
        f"{STEM}.ckpt cannot be used (File is not a zip file); it is now {STEM}.ckpt.un",
    ),
    # analysis
    (None, ["analyse", "{}/missing"], 2, "there is no folder {}/missing; name the one that holds the CSVs"),
    (csv("64,1,62.1,0.1,1"), ["analyse", "{}"], 2, "accuracy is '62.1', which is not in 0-1; import it: python -m ba"),
    # ... of the logs of others
    (
        log("0,0.5", header="epoch,acc"),
        ["analyse", "{}"],
        2,
        "batch_size or accuracy, it has epoch, acc; import it: py",
    ),
    (
        log("8;1;0,5", header="bs;epoch;acc"),
        ["analyse", "{}"],
        2,
        "log.csv, line 2: 2 fields where the header has 1; imp",
    ),
    (
        log("8,1,0.5", "8,1,0.6"),
        ["analyse", "{}"],
        2,
        "line 3: log B=8 seed 0 has epoch 1 twice; tell runs apart by a co",
    ),
    (
        log("8,1,", "8,2,nan"),
        ["analyse", "{}"],
        2,
        "line 2: log B=8 seed 0 has no accuracy; complete the row or remove",
    ),
    (log("8,1,0.5", "8,,0.6"), ["analyse", "{}"], 2, "line 3: log B=8 seed 0 has no epoch; complete the row or remove"),
    (
        log("8,-1,0.5"),
        ["analyse", "{}"],
        2,
        "line 2: epoch is '-1', which is below 0; correct it, or import it: python",
    ),
    (
        log("8,1,high"),
        ["analyse", "{}"],
        2,
        "line 2: accuracy is 'high', which is not a number; correct it, or import it",
    ),
    (log("8,1,70.5"), ["analyse", "{}"], 2, "/log.csv --to DIR --name NAME --percent"),
    (
        log("8,0.5", "8,", header="batch_size,accuracy"),
        ["analyse", "{}"],
        2,
        "line 3: log B=8 seed 1 has no accuracy; com",
    ),
    (
        log("8,1,0.5,9", "8,2,0.6,9", header=f"{LOG},updates"),
        ["analyse", "{}"],
        2,
        "updates does not grow; it must count",
    ),
    (
        log("8,1,0.5,9", "8,2,0.6,8", header=f"{LOG},running_time"),
        ["analyse", "{}"],
        2,
        "running_time does not grow; it",
    ),
    (
        log("8,9", header="batch_size,updates_to_target"),
        ["analyse", "{}"],
        2,
        "has no column target, it has batch_size, u",
    ),
    (log("8,0.5,0", header=GOAL), ["analyse", "{}"], 2, "updates_to_target is '0', which is not above 0; correct it"),
    (
        log("8,,10", header=GOAL),
        ["analyse", "{}"],
        2,
        "line 2: log B=8 seed 0 has no target; correct the row or remove it",
    ),
    (
        log("8,0.5,9,1", header=f"{GOAL},epoch"),
        ["analyse", "{}"],
        2,
        "has both epoch and updates_to_target, but results",
    ),
    (
        log("8,0.5,9,1", "8,0.5,8,1", header=f"{GOAL},seed"),
        ["analyse", "{}"],
        2,
        "line 3: log B=8 seed 1 has target 0.5",
    ),
    (copied(" (1).csv"), ["analyse", "{}"], 2, f"{{}}/{STEM} (1).csv is named as a copy of {{}}/{STEM}.csv, and no"),
    (copied(".csv.csv"), ["analyse", "{}"], 2, f"{{}}/{STEM}.csv.csv is named as a copy of {{}}/{STEM}.csv, and no"),
    (copied("", "mine.csv"), ["project", "{}"], 2, "{}/mine.csv and {}/mine_bs64_seed0.csv hold the same run, mine"),
    (None, ["analyse", "{}", "--tolerance", "2"], 2, "tolerance is 2.0; it must be a fraction"),
    (None, ["analyse", "{}", "--target", "0"], 2, "target is 0.0; it must be a fraction"),
    # explore
    (None, ["explore", "{}/missing"], 2, "there is no folder {}/missing; name the one that holds the CSVs"),
    (None, ["explore", "{}", "-o", "{}"], 2, "output is {}, which is a folder; name a file, as in {}/explorer.html"),
    (
        log("8,1,0.5"),
        ["explore", "{}", "-o", "{}/log.csv/a.html"],
        2,
        "output is {}/log.csv/a.html, but {}/log.csv cannot be written (File exists); name another file",
    ),
    (log("8,1,0.5"), ["explore", "{}", "-o", "{}/a.html", "--tolerance", "1"], 2, "tolerance is 1.0; it must be a fr"),
    (
        log("8,1,0.5"),
        ["explore", "{}", "-o", "{}/a.html", "--reference", "nobody"],
        2,
        "there is no run of nobody in",
    ),
    # import
    (
        None,
        ["import", "--to", "{}/new", "--name", "a"],
        2,
        "there is no run in no file; name a log with rows to import",
    ),
    (
        None,
        [*IMPORT[:1], "{}/missing", *IMPORT[2:]],
        2,
        "there is no file or folder {}/missing; name the log to import",
    ),
    (
        None,
        [*IMPORT[:1], "{}", *IMPORT[2:]],
        2,
        "{} holds no log that is known (trainer_state.json, metrics.csv, events",
    ),
    (
        log("1,0.5", header="epoch,acc"),
        IMPORT,
        2,
        "{}/log.csv does not say its batch size; give --batch-size as a number",
    ),
    (
        log("1,0.5", header="epoch,acc"),
        [*IMPORT, "--batch-size", "B"],
        2,
        "log.csv has no column B for the batch size, it",
    ),
    (
        log("1,0.5", header="epoch,acc"),
        [*IMPORT, "--batch-size", "0"],
        2,
        "batch_size is '0', which is not a whole number f",
    ),
    (
        log("8,1,0.5", header="bs,epoch,loss"),
        IMPORT,
        2,
        "has no accuracy among its columns bs, epoch, loss; name it: --co",
    ),
    (
        log("8,1,0.5"),
        [*IMPORT, "--columns", "accuracy=top1"],
        2,
        "has no column top1 for accuracy, it has batch_size, epo",
    ),
    (
        log("8,1,0.5"),
        [*IMPORT, "--columns", "top1"],
        2,
        "columns has 'top1'; it must have the form ours=theirs, as in acc",
    ),
    (
        log("8,1,0.5"),
        [*IMPORT, "--columns", "top1=acc"],
        2,
        "columns names top1, which is no column of a record; there ar",
    ),
    (log("8,1,0.5"), [*IMPORT[:-1], "../evil"], 2, "name is '../evil'; it begins a file name"),
    (
        log("8,1,0.5"),
        IMPORT[:-2],
        2,
        "does not say what its runs are called; give --name NAME, or --columns experiment=COLUMN",
    ),
    (
        log("8,1,0.5,0.6", header="bs,epoch,val_acc,val/accuracy"),
        IMPORT,
        2,
        "has two columns that may be accuracy, val_acc and val/accuracy; choose one, as in --columns accuracy='val_a",
    ),
    (
        log("8,1,0.5,16", header="bs,epoch,acc,config/bs"),
        IMPORT,
        2,
        "has two columns that may be batch_size, bs and config/bs; choose one, as in --batch-size 'bs'",
    ),
    (
        log("8,1,high"),
        IMPORT,
        2,
        "line 2: accuracy is 'high', which is not a number; correct it, or choose other columns",
    ),
    (
        log("8,1,900"),
        IMPORT,
        2,
        "line 2: accuracy is '9', which is not in 0-1; correct it, or choose other columns with",
    ),
    (
        log("8,1,0.5", "8,1,0.6"),
        IMPORT,
        2,
        "line 3: a B=8 seed 0 has epoch 1 twice; tell runs apart by a column seed or",
    ),
    (log("8,1,0.5", "8,2"), IMPORT, 2, "{}/log.csv, line 3: 2 fields where the header has 3; correct it"),
    (log("8,1,0.5", header="epoch,epoch,acc"), IMPORT, 2, "log.csv has two columns epoch; rename one of them"),
    (
        log(header="nothing"),
        IMPORT,
        2,
        "{}/log.csv is no table of several columns; give a CSV with a header, or name another",
    ),
    (log(header=LOG), IMPORT, 2, "{}/log.csv has a header and no rows; name a log that has some"),
    (
        lambda folder: (folder / "trainer_state.json").write_text("[]"),
        STATE,
        2,
        "json is no trainer_state.json of Hug",
    ),
    (
        two_logs,
        ["import", "{}/other.csv", *IMPORT[1:], "--seed", "1"],
        2,
        "{}/other.csv and {}/log.csv would both be written as a_bs8",
    ),
    (
        None,
        ["import", "~nobody_here/a", *IMPORT[2:]],
        2,
        "source is ~nobody_here/a, but there is no home folder for ~nobo",
    ),
    # advice
    (None, [*ADVISE, "--minutes", "0"], 2, "minutes is 0.0; it must be a number above 0"),
    (None, [*ADVISE, "--minutes", "nan"], 2, "minutes is nan; it must be a number above 0"),
    (None, [*ADVISE, "--minutes", "0.0001"], 2, "already; give it more minutes"),
    (None, [*ADVISE, "--train-size", "159"], 2, "reference_batch_size is 8 and there are 159 training images; b"),
    (None, [*ADVISE, "--base-lr", "1000"], 2, "the reference does not train: its loss was 2.4"),
    (None, [*ADVISE, "--lr-scaling", "cubic"], 2, "invalid choice 'cubic'"),
    (None, [*ADVISE, "--epochs", "1"], 2, "warmup_epochs is 2.0 but epochs is 1"),
    (None, [*ADVISE, "--model", "networks:fails_in_training"], 2, "fails_in_training failed in training, after upd"),
    (None, [*ADVISE, "--device", "gpu"], 2, "device is 'gpu', which cannot be used here"),
    (None, [*ADVISE, "--batch-size", "8"], 2, "--batch-size"),
    (lambda folder: (folder / "a").touch(), [*ADVISE, "--data-dir", "{}/a"], 2, "{}/a cannot be written"),
    (None, [*ADVISE, "--data-dir", "~nobody_here"], 2, "data_dir is ~nobody_here, but there is no home folder for"),
    # projection
    (None, ["project"], 2, "Missing from python -m batchscale project: DIR"),
    (None, ["project", "{}/missing"], 2, "there is no folder {}/missing; name the one that holds the CSVs"),
    (csv("64,1,62.1,0.1,1"), ["project", "{}"], 2, "accuracy is '62.1', which is not in 0-1"),
    (None, ["project", "{}", "--target", "76"], 2, "target is 76.0; it must be a fraction, above 0 and at most 1"),
    (None, ["project", "{}", "--latency", "1"], 2, "latency and bandwidth belong together; give both, or neither to"),
    (None, [*OWN_NETWORK, "-1", "--bandwidth", "1"], 2, "latency is -1.0; it must be a number of microseconds, 0 or"),
    (None, [*OWN_NETWORK, "inf", "--bandwidth", "1"], 2, "latency is inf; it must be a number of microseconds, 0 or"),
    (None, [*OWN_NETWORK, "1", "--bandwidth", "0"], 2, "bandwidth is 0.0; it must be a number of Gbit/s, above 0"),
    (None, [*OWN_NETWORK, "1", "--bandwidth", "nan"], 2, "bandwidth is nan; it must be a number of Gbit/s, above 0"),
    (None, ["project", "{}", "--parameters", "0"], 2, "parameters is 0; it must be at least 1"),
    (None, ["project", "{}", "--figure", "{}/a.docx"], 2, "{}/a.docx cannot be written (Format 'docx' is not"),
    (None, ["project", "{}", "--figure", "{}/no/a.png"], 2, "{}/no/a.png cannot be written ([Errno 2] No such file"),
    # paths
    (None, [*TRAIN, "--batch-size", "64", "--data-dir", "~nobody_here/x"], 2, "data_dir is ~nobody_here/x, but there"),
    (None, [*TRAIN, "--batch-size", "64", "--scratch-dir", "~nobody_here"], 2, "scratch_dir is ~nobody_here, but"),
    (None, [*CIFAR, "~nobody_here/x"], 2, "data_root is ~nobody_here/x, but there is no home folder for ~nobody_here;"),
    (None, ["analyse", "~nobody_here"], 2, "data_dir is ~nobody_here, but there is no home folder for ~nobody_here; w"),
    (None, ["project", "{}", "--figure", "~nobody_here/a.png", *LINK], 2, "figure is ~nobody_here/a.png, but there is"),
    (None, ["noise-scale", "~nobody_here/a"], 2, "checkpoint is ~nobody_here/a, but there is no home folder for ~nob"),
    (None, ["study", "--out", "~nobody_here/a"], 2, "out is ~nobody_here/a, but there is no home folder for ~nobody_h"),
    (None, ["study", "--out", "{}", "--data-root", "~nobody_here"], 2, "data_root is ~nobody_here, but there is no ho"),
    (None, ["analyse", "a" * 300], 2, "..., which cannot be used (File name too long); choose another"),
    (None, [*TRAIN, "--batch-size", "64", "--data-dir", "b" * 300], 2, "bbb ..., which cannot be used (File name too"),
    # noise scale
    (None, ["noise-scale", "{}/a.ckpt"], 2, "there is no file {}/a.ckpt; an unfinished run has a checkpoint {name}_bs"),
    (None, ["noise-scale", "{}"], 2, "is neither a checkpoint nor a file of weights ([Errno 21] Is a directory"),
    (csv(), ["noise-scale", f"{{}}/{STEM}.csv"], 2, "nor a file of weights (File is not a zip file); give the"),
    (malicious(in_zip=True), ["noise-scale", f"{{}}/{STEM}.ckpt"], 2, "it holds something other than numbers and t"),
    (newer, ["noise-scale", "{}/newer.ckpt"], 2, f"it has format 99, this batchscale reads {FORMAT}"),
    (
        lambda folder: weights(folder, "0.weight"),
        ["noise-scale", "{}/weights.pt", "--dataset", "digits"],
        2,
        "the saved state does not fit the network models:CNN (",
    ),
    (
        lambda folder: weights(folder, "1.weight", "1.bias"),
        ["noise-scale", "{}/weights.pt", "--dataset", "digits", "--model", "networks:linear", "--images", "9000"],
        2,
        "images is 9000; it must be from 24 (three micro-batches) to 1500",
    ),
    # folders
    (lambda folder: (folder / "data").touch(), [*TRAIN, "--batch-size", "64", "--data-dir", "{}/data"], 2, "cannot be"),
    (lambda folder: (folder / "out").touch(), ["study", "--out", "{}/out"], 2, "out cannot be written (File exists)"),
]


@pytest.mark.parametrize(("prepare", "arguments", "code", "message"), BAD, ids=[row[3] for row in BAD])
def test_bad_input(tmp_path, capsys, monkeypatch, prepare, arguments, code, message):
    monkeypatch.setenv("BATCHSCALE_CIFAR10_URLS", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nobody there
    if prepare is corrupt_cifar10 and not (CIFAR10 / "cifar-10-batches-py").is_dir():
        pytest.skip(needs_cifar10.kwargs["reason"])
    if prepare is not None:
        prepare(tmp_path)
        capsys.readouterr()
    arguments = [*TRAIN, "--batch-size", "64"] if arguments is None else arguments
    arguments = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    if arguments and arguments[0] in ("train", "sweep", "find") and "--data-dir" not in arguments:
        arguments += ["--data-dir", str(tmp_path)]
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert not (tmp_path / "it ran").exists()
    if code:
        *before, error = captured.err.splitlines()
        assert error.startswith("error: ")
        assert not [line for line in before if line.startswith("error")]
        assert message.replace("{}", str(tmp_path)) in error
    else:
        assert message in captured.out


def test_table_is_long():
    assert len(BAD) >= 40
    assert HEADER.startswith(FIVE)
