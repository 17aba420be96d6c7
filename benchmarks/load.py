"""How long do many runs take? Four modes of training, ten epochs a run, with sidecars.

    python benchmarks/load.py                                      # 1 000, 4 000 and 10 000 runs; some minutes
    python benchmarks/load.py --runs 10000 --sizes 250             # 10 seeds at each of 250 batch sizes
    python benchmarks/load.py --runs 40 --epochs 25000             # few runs, but long ones

Prints seconds for each number of runs: to read the folder, to analyse it, and to put the findings into words and JSON;
then those of the whole command `analyse`, with the start of Python and its imports. In parentheses stands the
processor time, which depends less on what else the machine does.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchscale.analysis import findings, json_object, terminal
from batchscale.epoch import COLUMNS
from batchscale.experiment import Experiment
from batchscale.modes import MODES
from batchscale.records import Study

IMAGES, TEST_IMAGES = 50_000, 10_000


def write(folder: Path, runs: int, sizes: int, epochs: int) -> None:
    """CSV and sidecar of that many runs, at `sizes` batch sizes for each mode; accuracies are multiples of 1/10000."""
    generator = np.random.default_rng(0)
    for number in range(runs):
        mode = list(MODES.values())[number % len(MODES)]
        place, seed = number // len(MODES) % sizes, number // len(MODES) // sizes
        size = (2 if mode.role == "reference" else 64) + place
        experiment = Experiment(name=mode.name, batch_size=size, seed=seed, epochs=epochs, **mode.rule)
        sidecar = {"format": 2, "status": "complete", "experiment": asdict(experiment)}
        sidecar["device"] = {"type": "cpu", "name": "a processor", "threads": 1}
        (folder / f"{experiment.stem}.json").write_text(json.dumps(sidecar, indent=2))
        steps = IMAGES // size
        lines = [",".join(COLUMNS)]
        for epoch in range(1, epochs + 1):
            accuracy = 0.8 * epoch / (epoch + 0.2 * math.log2(size)) + generator.normal(0, 0.005)
            shown, (error, loss, noise) = round(accuracy * TEST_IMAGES) / TEST_IMAGES, generator.random(3).tolist()
            seconds = 0.004 * steps * epoch * (1 + 0.1 * loss)
            values = (size, epoch, shown, error, seconds, mode.name, seed, steps * epoch, 0.002, shown + error / 10)
            lines.append(",".join(map(str, (*values, loss, loss, seconds / epoch, IMAGES / seconds, 1e3 * noise))))
        (folder / f"{experiment.stem}.csv").write_text("\n".join([*lines, ""]))


def timed(work: Callable):
    """What a function returns, and its seconds on the clock and of the processor, in words."""
    start, before = time.perf_counter(), os.times()
    found, seconds, after = work(), time.perf_counter() - start, os.times()
    return found, f"{seconds:.2f} ({sum(after[:4]) - sum(before[:4]):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1_000, 4_000, 10_000])
    parser.add_argument("--sizes", type=int, default=25, help="batch sizes of each mode")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    print("".join(f"{head:>16}" for head in ("runs", "read", "analyse", "words", "JSON", "whole command")))
    for runs in arguments.runs:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), runs, arguments.sizes, arguments.epochs)
            study, read = timed(lambda folder=folder: Study.load(folder))
            found, analysed = timed(lambda study=study: findings.analyse(study))
            _, words = timed(lambda found=found: terminal.text(found))
            _, as_json = timed(lambda found=found: json.dumps(json_object.json_object(found)))
            command = [sys.executable, "-m", "batchscale", "analyse", folder]
            _, whole = timed(lambda command=command: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
        print("".join(f"{cell:>16}" for cell in (runs, read, analysed, words, as_json, whole)), flush=True)


if __name__ == "__main__":
    main()
