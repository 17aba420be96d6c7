"""batchscale: how large can a minibatch get before it stops paying, for which learning-rate rule?

The flow is one way: experiment -> (schedules, datasets, model) -> training -> records -> analysis -> plots.
Importing the package imports none of its modules, so that `python -m batchscale --help` answers at once.
"""

__version__ = "0.1.0"
