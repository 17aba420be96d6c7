"""Workers of one experiment, forked from a server that has imported torch."""

import os
import socket
from collections.abc import Callable

import torch
from kills import context


def _main(task: Callable, arguments: tuple, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # as torchrun does
    torch.set_num_threads(1)
    from batchscale.sweeps import torchrun

    task(torchrun.group(), *arguments)


def together(count: int, task: Callable, *arguments) -> None:
    """Call `task(group, *arguments)` in `count` workers, and wait for them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost"}
    processes = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
        processes.append(context.Process(target=_main, args=(task, arguments, shared | own)))
        processes[-1].start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * count
