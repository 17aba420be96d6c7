"""How well does `advise` predict the breaking point in accuracy, and at what share of the cost of measuring it?

    python benchmarks/prediction.py measure               # whole runs under runs/prediction/, two hours on one core
    python benchmarks/prediction.py predict --minutes 1   # and the table, from these and from data/constant_rate/
    python benchmarks/prediction.py table                 # of the predictions made last

It needs CIFAR-10. A workload is a network, data and optimizer; its reference has a batch size of 8. Measured is the
breaking point in accuracy of the scaled rule with gradual warm-up, as `analyse` finds it; its cost is the training time
of the runs. Predicted is the estimate of `advise` for the same rule; its cost is everything that `advise` took.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

from batchscale import sweeps
from batchscale.analysis import findings, json_object
from batchscale.analysis.words import duration, images, interval
from batchscale.experiment import Experiment
from batchscale.records import Study

FOLDER = Path("runs") / "prediction"
MODE = "gradual_warmup_scaled_lr"
CIFAR10_PART = {"dataset": "workloads:cifar10_part", "epochs": 10}


@dataclass(frozen=True)
class Workload:
    """What is trained, and how much accuracy may be lost: twice the deviation between seeds, roughly."""

    settings: dict
    tolerance: float = 0.02
    name: str = MODE
    small: tuple[int, ...] = (8, 16)
    large: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    recorded: Path | None = None  # folder of records that are there already
    minutes: float | None = None  # other than asked for
    common: dict = field(default_factory=lambda: {"decay": "linear", "warmup_epochs": 1, "warmup": "gradual"})

    @property
    def experiment(self) -> Experiment:
        return Experiment(**{"batch_size": 8, "lr_scaling": "linear"} | self.common | self.settings)


WORKLOADS = {
    "CIFAR-10, width 0.25": Workload(
        {"dataset": "cifar10"},
        tolerance=0.01,
        recorded=Path("data/constant_rate"),
        minutes=12,
        common={"warmup": "gradual"},
    ),
    "digits": Workload({"dataset": "digits", "epochs": 20, "warmup_epochs": 2}, tolerance=0.01, small=(4, 8, 16)),
    "another network: residual, group norm": Workload(CIFAR10_PART | {"model": "workloads:Residual", "base_lr": 0.01}),
    "another network: perceptron": Workload(CIFAR10_PART | {"model": "workloads:Perceptron"}),
    "another base rate: 0.008": Workload(CIFAR10_PART | {"width": 0.125, "base_lr": 0.008}),
    "another optimizer: AdamW, square root": Workload(
        CIFAR10_PART | {"width": 0.125, "base_lr": 0.0005, "optimizer": "adamw", "lr_scaling": "sqrt"}, name="root"
    ),
}


def folder_of(name: str) -> Path:
    return FOLDER / "".join(letter if letter.isalnum() else "_" for letter in name)


def measure(workload: Workload, folder: Path) -> None:
    """Whole runs of the reference and of the mode, three seeds each."""
    given = workload.common | workload.settings
    rule = {"lr_scaling": workload.experiment.lr_scaling, "warmup": "gradual"}
    del given["warmup"]
    runs = [
        *sweeps.grid("baseline_small", workload.small, [0, 1, 2], **{**given, "lr_scaling": "none"}),
        *sweeps.grid(workload.name, workload.large, [0, 1, 2], **given | rule),
    ]
    sweeps.run(runs, data_dir=folder)


def row(name: str, workload: Workload) -> str:
    folder = folder_of(name)
    study = Study.load(workload.recorded or folder)
    found = findings.analyse(study, tolerance=workload.tolerance).modes[workload.name]
    measured = found.breaking_points["accuracy"]
    runs = study.only([run for run in study.sidecars if run[0] in (workload.name, "baseline_small")])
    cost = runs.epochs.groupby(["experiment", "batch_size", "seed"])["running_time"].max().sum()
    advice = json.loads((folder / "predicted.json").read_text(encoding="utf-8"))
    rule = advice["rules"][workload.experiment.lr_scaling]
    scales = [each["noise_scale"] for each in advice["noise_scale"] if each["noise_scale"] is not None]
    ratio = "" if None in (rule["estimate"], measured.estimate) else f"{rule['estimate'] / measured.estimate:.2f}"
    predicted = f"{images(rule['estimate'])} ({interval(rule['low'], rule['high'])})"
    return (
        f"| {name} | {predicted} | {images(measured.estimate)} ({interval(*measured.interval)}) | {ratio} | "
        f"{', '.join(map(images, scales))} | {duration(advice['seconds'])} of {duration(cost)}, "
        f"{advice['seconds'] / cost:.1%} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "predict", "table"))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    arguments = parser.parse_args()
    chosen = {name: each for name, each in WORKLOADS.items() if arguments.only in name}
    for name, workload in chosen.items():
        if arguments.what == "measure" and workload.recorded is None:
            measure(workload, folder_of(name))
        if arguments.what == "predict":
            advice = sweeps.advise(workload.experiment, minutes=workload.minutes or arguments.minutes)
            folder_of(name).mkdir(parents=True, exist_ok=True)
            text = json.dumps(json_object.advice_object(advice), indent=1)
            (folder_of(name) / "predicted.json").write_text(text, encoding="utf-8")
    print("| workload | predicted | measured | ratio | noise scale | cost |\n|---|---|---|---|---|---|")
    for name, workload in chosen.items():
        if (folder_of(name) / "predicted.json").exists():
            print(row(name, workload))
