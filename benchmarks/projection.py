"""Does `project` predict what one worker and two take here?

    python benchmarks/projection.py --data-root datasets                     # CIFAR-10, width 0.25, some minutes
    python benchmarks/projection.py --dataset digits --batch-sizes 64 256    # quick

Each worker is a process with one thread. In every round it trains with one worker at B/2 and 2B, which is what the
predictions are made from, then at B with one worker and with two, which is what they are compared with, and measures
an all-reduce. Predicted is ⌊n/B⌋ · (compute(B/N) + all-reduce(N, bytes)). All times are those of the fastest epoch, or
round of an all-reduce: two cores are needed, and what else uses them makes times longer, never shorter.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchscale.analysis.projection import compute_seconds, fit_interconnect, ring_allreduce_seconds
from batchscale.records.study import Study
from batchscale.training import allreduce

PROJECT = Path(__file__).resolve().parents[1]


def train(folder: Path, workers: int, size: int, seed: int, settings: list[str]) -> None:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)] if workers > 1 else []
    which = ["--name", f"of_{workers}", "--batch-size", str(size), "--seed", str(seed), "--data-dir", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, *several, "-m", "batchscale", "train", *which, "--device", "cpu", *settings]
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--train-size", type=int, default=None, help="default: 2048 images, of digits all")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256], help="B; 4 B apart")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    images = arguments.train_size or (None if arguments.dataset == "digits" else 2048)
    settings = ["--dataset", arguments.dataset, "--width", str(arguments.width), "--epochs", str(arguments.epochs)]
    settings += ["--train-size", str(images)] if images else []
    settings += ["--data-root", arguments.data_root] if arguments.data_root else []
    alone = sorted({part for size in arguments.batch_sizes for part in (size // 2, 2 * size)})
    with tempfile.TemporaryDirectory() as folder:
        folder, times = Path(folder), []
        for seed in range(arguments.rounds):
            for size in alone:
                train(folder, 1, size, seed, settings)
            for size in arguments.batch_sizes:
                for workers in (1, 2):
                    train(folder, workers, size, seed, settings)
            times.append(allreduce.measure())
        study = Study.load(folder)
    (parameters,) = {content["parameters"] for content in study.sidecars.values()}
    updates = {size: content["updates_per_epoch"] for (_, size, _), content in study.sidecars.items()}
    link = fit_interconnect([min(of_size) for of_size in zip(*times, strict=True)], allreduce.WORKERS, "")
    print(f"all-reduce: {1e6 * link.latency:.0f} µs, {8e-9 * link.bandwidth:.2f} Gbit/s; {4e-6 * parameters:.2f} MB")
    epochs = study.epochs
    seconds = epochs["epoch_time"] * epochs["epoch"] / epochs["updates"]
    fastest = seconds.groupby([epochs["experiment"], epochs["batch_size"]]).min()
    rows = []
    for size in arguments.batch_sizes:
        for workers in (1, 2):
            compute = compute_seconds(size / workers, fastest["of_1"].loc[alone])
            exchange = ring_allreduce_seconds(workers, 4 * parameters, link.latency, link.bandwidth)
            predicted, measured = updates[size] * (compute + exchange), updates[size] * fastest[f"of_{workers}", size]
            rows.append((size, workers, 1e3 * compute, 1e3 * exchange, predicted, measured, predicted / measured))
    columns = ["B", "workers", "compute ms", "all-reduce ms", "predicted s", "measured s", "ratio"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
