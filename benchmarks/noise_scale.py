"""How precise is the noise scale, and what does it cost, for which micro-batch size?

    OMP_NUM_THREADS=1 python benchmarks/noise_scale.py --data-root datasets

Trains the study's network (width 0.25, B = 128, linear rule with warm-up), and after some of the epochs measures its
noise scale on many disjoint sets of training images, each split into micro-batches of one size and then of another. One
line per size shows the means of 𝒢² and 𝒮 over the sets, with their standard errors, and their quotient. It goes on with
the single measurements of B: their median, their standard deviation, the median standard error that they claim, the
fraction within one such error of the quotient, and how many were not measurable. It ends with the seconds per
measurement, also in percent of the epoch.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchscale.experiment import Experiment
from batchscale.training import datasets, noise_scale
from batchscale.training.loop import Training
from batchscale.training.randomness import epoch_seed, permutation

HEADER = (
    "B_s",
    "M",
    "𝒢²",
    "± SEM",
    "𝒮",
    "± SEM",
    "𝒮/𝒢²",
    "median B",
    "spread",
    "claimed",
    "within",
    "NaN",
    "s",
    "% epoch",
)


class InEvalMode(nn.Module):
    """A network that stays in eval mode: batch norm by running statistics, no dropout."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def train(self, mode=True):
        return super().train(False)

    def forward(self, images):
        return self.model(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5], help="epochs after which to measure")
    parser.add_argument("--images", type=int, default=1280, help="training images in one measurement")
    parser.add_argument("--micro-batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 640])
    parser.add_argument("--repeats", type=int, default=32, help="measurements of each size, on disjoint images")
    parser.add_argument("--eval-mode", action="store_true", help="running statistics in batch norm and no dropout")
    arguments = parser.parse_args()
    experiment = Experiment(
        name="gradual_warmup_scaled_lr",
        batch_size=arguments.batch_size,
        epochs=max(2, *arguments.epochs),
        lr_scaling="linear",
        warmup="gradual",
        dataset=arguments.dataset,
        width=arguments.width,
        device="cpu",
    )
    training = Training(experiment, datasets.load(arguments.dataset, arguments.data_root))
    print(f"{experiment}, width {experiment.width}, {arguments.images} images, {torch.get_num_threads()} threads")
    for record in training.epochs():
        if record.epoch in arguments.epochs:
            print(
                f"\nepoch {record.epoch}: accuracy {record.accuracy:.3f}, {record.epoch_time:.1f} s; "
                f"mean and spread over {arguments.repeats} measurements",
                flush=True,
            )
            compare(training, record, arguments)


def compare(training: Training, record, arguments) -> None:
    n = len(training.data.train_images)
    order = permutation(n, training.experiment.seed, record.epoch + 1)
    repeats = min(arguments.repeats, n // arguments.images)

    model = InEvalMode(training.model) if arguments.eval_mode else training.model

    def loss(part):
        images, labels = training.data.batch(part)
        return functional.cross_entropy(model(images), labels)

    print("".join(f"{title:>10}" for title in HEADER))
    for size in arguments.micro_batch_sizes:
        estimates, seconds = [], []
        for repeat in range(repeats):
            indices = order[repeat * arguments.images : (repeat + 1) * arguments.images]
            started = time.perf_counter()
            estimates.append(
                noise_scale.measure(
                    model,
                    loss,
                    indices,
                    random_seed=epoch_seed(repeat, record.epoch),
                    micro_batch_size=size,
                    micro_batches=len(indices) // size,
                )
            )
            seconds.append(time.perf_counter() - started)
        g = np.array([estimate.squared_gradient_norm for estimate in estimates])
        s = np.array([estimate.trace_covariance for estimate in estimates])
        b = np.array([estimate.noise_scale for estimate in estimates])
        errors = np.array([estimate.standard_error for estimate in estimates])
        measurable = b[~np.isnan(b)]
        pooled = s.mean() / g.mean()
        # The spread from the delta method about the pooled value, as a few near-zero 𝒢² would dominate a variance of b.
        spread = (s - pooled * g).std(ddof=1) / g.mean()
        known = ~np.isnan(errors)
        claimed = np.median(errors[known]) if known.any() else np.nan
        within = (np.abs(b - pooled) < errors)[known].mean() if known.any() else np.nan
        sem = np.sqrt(repeats)
        print(
            f"{size:>10}{estimates[0].big_batch_size // size:>10}{g.mean():>10.4f}{g.std(ddof=1) / sem:>10.4f}"
            f"{s.mean():>10.3f}{s.std(ddof=1) / sem:>10.3f}{pooled:>10.1f}{np.median(measurable):>10.1f}{spread:>10.1f}"
            f"{claimed:>10.1f}{within:>10.2f}{np.isnan(b).sum():>10}{np.median(seconds):>10.3f}"
            f"{100 * np.median(seconds) / record.epoch_time:>10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
