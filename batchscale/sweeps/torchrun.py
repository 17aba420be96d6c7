"""Runs under torchrun: the first worker leads, and the others train the experiments that it sends them."""

import functools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from batchscale import streams
from batchscale.errors import UserError, first_line
from batchscale.records import provenance

if TYPE_CHECKING:
    from torch.distributed import Store

    from batchscale.training.workers import Group

VARIABLES = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NOTICE_SECONDS = 5  # until a worker that is still alone says what it waits for
JOIN_SECONDS = 300  # until it ends; importing torch from a slow disk takes a minute or two
_ALONE = "if torchrun did not start this process, run `unset TORCHELASTIC_RUN_ID`, and it trains alone"


def under_torchrun() -> bool:
    """Whether torchrun started this process. A set of variables that is incomplete is a left-over."""
    return all(os.environ.get(name) for name in VARIABLES)


@functools.cache
def group() -> "Group":
    """The workers that torchrun started, or this process alone.

    Raises:
        UserError: torchrun's variables contradict each other, or the other workers do not come.
        WorkerLost: another worker ended at once.
    """
    import torch
    from torch import distributed

    from batchscale.training.workers import Group

    if not under_torchrun():
        return Group()
    rank, count, local_rank = _place()
    if count == 1:
        return Group()
    store, ours = _joined(rank, count), Group(rank, count, local_rank)
    with ours.communicating():
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backends, store=store, rank=rank, world_size=count)
    return ours


def _place() -> tuple[int, int, int]:
    """Rank, number of workers, and rank on this machine, from the environment."""
    numbers = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not os.environ[name].isdecimal():
            raise UserError(f"{name} is {os.environ[name]!r}, which is not a whole number; {_ALONE}")
        numbers.append(int(os.environ[name]))
    rank, count, local_rank, port = numbers
    for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank)):
        if value >= count:
            raise UserError(f"{name} is {value} but WORLD_SIZE is {count}; ranks begin at 0 and are lower: {_ALONE}")
    if not 0 < port < 2**16:
        raise UserError(f"MASTER_PORT is {port}; it must be from 1 to {2**16 - 1}: {_ALONE}")
    return rank, count, local_rank


def _joined(rank: int, count: int) -> "Store":
    """The store of torch.distributed, once all workers have met there. Waits in Python, so that Ctrl-C ends it."""
    from torch.distributed import PrefixStore, TCPStore, constants

    from batchscale.training.memory import reason

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    attempts = _attempts(f"worker {rank} of {count}", f"{host}:{port}")
    while not (is_host or _answers(host, port)):  # the store's own attempts would print pages of C++
        next(attempts)
    try:
        store = TCPStore(host, port, None, is_host, constants.default_pg_timeout, wait_for_workers=False)
        store = PrefixStore(f"batchscale/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        store.set(f"{rank}", "here")
        while not store.check([f"{each}" for each in range(count)]):
            next(attempts)
    except RuntimeError as error:  # the port is taken, or the host ended
        why = reason(error)
        raise UserError(f"worker {rank} cannot meet the others at {host}:{port} ({why}); {_ALONE}") from error
    return store


def _attempts(who: str, where: str) -> Iterator[None]:
    """Pause between attempts, say what is waited for, and give up in the end."""
    begun, is_told = time.monotonic(), False
    while (waited := time.monotonic() - begun) < JOIN_SECONDS:
        if waited >= NOTICE_SECONDS and not is_told:
            is_told = True
            print(f"{who} waits for the others at {where}; {_ALONE}", file=streams.ERR, flush=True)
        time.sleep(0.1)
        yield
    raise UserError(f"{who} has waited {JOIN_SECONDS} s for the others at {where}; {_ALONE}")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError:
        return False
    return True


def lead(command: Callable[[], int]) -> int:
    """Run `command` in the first worker while the others follow, and exit with its exit code."""
    if not under_torchrun():
        return command()
    try:
        ours = group()
        if ours.count == 1:
            return command()
        code = _follow(ours) if ours.rank > 0 else command()
        if ours.rank == 0 and not ours.is_out_of_step:
            ours.broadcast(None)
    except UserError as error:  # WorkerLost among them
        print(f"error: {error}", file=streams.ERR)
        code = 2
    streams.OUT.flush()
    streams.ERR.flush()
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
            experiment, data_root, state, made_of = task
            training = Training(experiment, datasets.load(experiment.dataset, data_root, progress=False), group=ours)
            differing = provenance.difference(made_of, provenance.made_of(training))
            if differing is not None:
                raise UserError("worker 0 has other {} ({}); every worker needs the same".format(*differing))
            if state is not None:
                training.load_state_dict(state)
            for _ in training.epochs():
                pass
            is_training = False
    except WorkerLost:  # the first worker reports it, unless that one is lost or already done
        return int(is_training)
    except Exception as error:  # OutOfMemory, or a network that fails in this worker only
        print(f"error: worker {ours.rank}: {first_line(error)}", file=streams.ERR, flush=True)
        return 2
    return 0
