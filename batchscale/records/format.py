"""The format of sidecars and checkpoints."""

FORMAT = 2
