"""batchscale: how large can a minibatch get before it stops paying, for which learning-rate rule?

The rooms, from the top down: `sweeps` (many runs), then `training` (one run) and `records` (its files), then the flat
files `experiment`, `modes`, `schedules`, `epoch` and `errors`. `analysis` turns records into verdicts, words and
figures. Importing the package imports none of them, so that `python -m batchscale --help` answers at once.
"""

__version__ = "0.1.0"
