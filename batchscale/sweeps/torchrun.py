"""Runs under torchrun: the first worker leads, and the others train the experiments that it sends them."""

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from batchscale.errors import first_line

if TYPE_CHECKING:
    from batchscale.training.workers import Group


def under_torchrun() -> bool:
    """Whether torchrun started this process, alone or as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@functools.cache
def group() -> "Group":
    """The workers that torchrun started, or this process alone."""
    import torch
    from torch import distributed

    from batchscale.training.workers import Group

    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        return Group()
    ours = Group(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    with ours.communicating():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return ours


def lead(command: Callable[[], int]) -> int:
    """Run `command` in the first worker while the others follow, and exit with its exit code."""
    from batchscale.training.workers import WorkerLost

    try:
        ours = group()
        if ours.count == 1:
            return command()
        code = _follow(ours) if ours.rank > 0 else command()
        if ours.rank == 0 and not ours.is_out_of_step:
            ours.broadcast(None)
    except WorkerLost as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    # All files are written and closed. gloo's threads occasionally abort the process if they still run while Python
    # shuts down, even after destroy_process_group.
    os._exit(code)


def _follow(ours: "Group") -> int:
    """Train what the first worker sends until it sends None; returns the exit code."""
    from batchscale.training import datasets
    from batchscale.training.loop import Training
    from batchscale.training.workers import WorkerLost

    for number in (signal.SIGINT, signal.SIGTERM):  # the first worker handles these for all
        signal.signal(number, signal.SIG_IGN)
    is_training = False
    try:
        while (task := ours.broadcast(None)) is not None:
            is_training = True
            experiment, data_root, state = task
            training = Training(experiment, datasets.load(experiment.dataset, data_root, progress=False), group=ours)
            if state is not None:
                training.load_state_dict(state)
            for _ in training.epochs():
                pass
            is_training = False
    except WorkerLost:  # the first worker reports it, unless that one is lost or already done
        return int(is_training)
    except Exception as error:  # OutOfMemory, or a network that fails in this worker only
        print(f"error: worker {ours.rank}: {first_line(error)}", file=sys.stderr, flush=True)
        return 2
    return 0
