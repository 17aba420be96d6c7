"""What a small and a large minibatch's network get wrong, where their weights were kept.

found = mistakes(Study.load("data"), "data", data_root="datasets")
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batchscale.experiment import Experiment
from batchscale.paths import typed
from batchscale.records.record import WEIGHTS
from batchscale.records.study import Study

if TYPE_CHECKING:
    from batchscale.training.datasets import Dataset


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Classes that two networks predict for the test images.

    Attributes:
        images: uint8 or float32 in 0-1 `(n, h, w, c)`.
        labels, small, large: true class and the predictions of the two networks, int64 `(n,)`.
        classes: names of the classes.
        runs: the experiments of the two.
    """

    images: np.ndarray
    labels: np.ndarray
    small: np.ndarray
    large: np.ndarray
    classes: tuple[str, ...]
    runs: tuple[Experiment, Experiment]


def mistakes(study: Study, data_dir: str | os.PathLike, data_root: str | os.PathLike | None = None) -> Mistakes | None:
    """Predictions of the smallest and of the largest minibatch of a study among the runs whose weights are kept.

    Returns:
        None where fewer than two batch sizes have weights, see `Options.keep_weights`, or the images are missing.

    Raises:
        UserError: the weights do not fit the network, or a file cannot be read.
    """
    folder = typed(data_dir, "data_dir")
    weights = {run: folder / f"{run.stem}{WEIGHTS}" for run in (Experiment(**each) for each in study.settings.values())}
    kept = [run for run, path in weights.items() if path.is_file()]
    pair = [choose(kept, key=lambda run: (run.batch_size, run.name, run.seed)) for choose in (min, max)] if kept else []
    if not pair or pair[0].batch_size == pair[1].batch_size:
        return None
    from batchscale.training import datasets

    if not datasets.is_available(pair[0].dataset, data_root):
        return None
    data = datasets.load(pair[0].dataset, data_root)
    small, large = (_predictions(run, weights[run], data) for run in pair)
    return Mistakes(data.test_images.numpy(), data.test_labels.numpy(), small, large, data.classes, tuple(pair))


def _predictions(experiment: Experiment, weights: Path, data: "Dataset") -> np.ndarray:
    from batchscale.records.checkpoint import read_checkpoint
    from batchscale.training.loop import Training

    training = Training(experiment, data)
    training.load_state_dict({**training.state_dict(), "model": read_checkpoint(weights)[1]})
    return training.predictions(training.data.test_images).cpu().numpy()
