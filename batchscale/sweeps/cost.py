"""What a run costs, from the times of updates that were measured once."""

from dataclasses import dataclass

from batchscale.analysis.advice import update_seconds


@dataclass(frozen=True)
class Cost:
    """Seconds of a run: epochs · (⌊n/B⌋ · t(B) + evaluation), with t as `advice.update_seconds` interpolates it."""

    seconds: tuple[tuple[int, float], ...]  # of an update by batch size, rising
    evaluation: float  # seconds of the measurements after an epoch
    epochs: int
    images: int

    def __call__(self, name: str, batch_size: int) -> float:
        update = update_seconds(self.seconds, batch_size)
        return self.epochs * (self.images // batch_size * update + self.evaluation)
