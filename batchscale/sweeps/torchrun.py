"""Where torchrun started several processes: the first one leads, the others train what it tells them to."""

import functools
import os
import signal
import sys
from collections.abc import Callable

import torch
from torch import distributed

from batchscale.errors import first_line
from batchscale.training.workers import Group, WorkerLost


def under_torchrun() -> bool:
    """Whether torchrun started this process, as one of several or alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@functools.cache
def group() -> Group:
    """The processes that torchrun started, or this one alone."""
    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        return Group()
    ours = Group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    with ours.told():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return ours


def lead(command: Callable[[], int]) -> int:
    """Run `command` in the first worker, whose trainings the others follow, and end with its exit code."""
    try:
        ours = group()
        if ours.count == 1:
            return command()
        code = _follow(ours) if ours.rank > 0 else command()
        if ours.rank == 0 and not ours.is_out_of_step:
            ours.from_first(None)
    except WorkerLost as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written and closed. gloo's threads, where they still run when Python takes itself apart, now and then abort
    # the process, also after destroy_process_group.
    os._exit(code)


def _follow(ours: Group) -> int:
    """Train what the first worker says, until it says no more."""
    from batchscale.training import datasets
    from batchscale.training.loop import Training

    for number in (signal.SIGINT, signal.SIGTERM):  # the first worker answers these, for all
        signal.signal(number, signal.SIG_IGN)
    is_training = False
    try:
        while (task := ours.from_first(None)) is not None:
            is_training = True
            experiment, data_root, state = task
            training = Training(experiment, datasets.load(experiment.dataset, data_root, progress=False), group=ours)
            if state is not None:
                training.load_state_dict(state)
            for _ in training.epochs():
                pass
            is_training = False
    except WorkerLost:  # the first worker says so, or is itself the one; or it had no more to say
        return int(is_training)
    except Exception as error:  # OutOfMemory, a network that fails here alone, ...
        print(f"error: worker {ours.rank}: {first_line(error)}", file=sys.stderr, flush=True)
        return 2
    return 0
