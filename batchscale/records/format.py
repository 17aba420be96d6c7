"""The format version of sidecars and checkpoints."""

FORMAT = 2
