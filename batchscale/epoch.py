"""One epoch of a run: a row of its CSV."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What is recorded after one epoch; the columns of a CSV, in this order. The first five are the study's.

    Every column after these five has a default, which means "not measured", so that a record written before a column
    existed can still be read and continued.
    """

    batch_size: int
    epoch: int  # 1-based
    accuracy: float  # fraction of the test set classified correctly, eval mode
    generalization_error: float  # train_accuracy - accuracy
    running_time: float  # seconds of training since the first update; evaluation and saving excluded
    experiment: str = ""  # name of the mode
    seed: int = 0
    updates: float = math.nan  # optimizer updates since the start of the run
    learning_rate: float = math.nan  # of the epoch's last update
    train_accuracy: float = math.nan  # on a fixed subset of 10 000 training images, eval mode, same weights
    train_loss: float = math.nan  # mean cross-entropy on that subset
    test_loss: float = math.nan  # mean cross-entropy on the test set
    epoch_time: float = math.nan  # seconds of training in this epoch
    images_per_second: float = math.nan  # training images divided by epoch_time
    noise_scale: float = math.nan  # gradient noise scale in images; NaN: not measured or not measurable

    @classmethod
    def of(cls, values: Mapping) -> "Epoch":
        """The epoch with these values by column.

        Raises:
            ValueError: a column is unknown, so that dropping it would lose something, or one of the study's is missing.
        """
        unknown = [column for column in values if column not in COLUMNS]
        missing = [column for column in STUDY_COLUMNS if column not in values]
        if unknown or missing:
            raise ValueError(f"unknown columns: {unknown}, missing columns: {missing}")
        return cls(**values)


COLUMNS = tuple(field.name for field in dataclasses.fields(Epoch))
STUDY_COLUMNS = COLUMNS[:5]
