"""One experiment on several processes, on one machine or on many, as torchrun starts them.

    torchrun --nproc-per-node 2 -m batchscale train --batch-size 1024 --data-root datasets

Every worker holds the network and all images and takes its share of each minibatch; DistributedDataParallel averages
the gradients. The first worker is the program that a single process would be: it alone reads flags, records and answers
signals. The others follow: they train what it tells them to, and end when it does.
"""

import contextlib
import inspect
import os
import re
from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from batchscale.errors import UserError, first_line

_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


class WorkerLost(UserError):
    """Another process of the group is gone, or cannot be reached."""

    def __init__(self, error: BaseException):
        reason = re.sub(r"^\[.*?\] ", "", first_line(error)).partition(". ")[0]  # without the place in gloo's source
        super().__init__(
            f"a worker is gone ({reason}); start again, with as many workers as you like, to go on from what was saved"
        )


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process of the group is gone; gloo has no type of its own for it."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


class Group:
    """The processes that train one experiment together; by default one alone, for which nothing here does anything.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are.
        in_step: the others wait for what the first one says; not so while all train, or once one has left that, or is
            gone.

    Every method but `share` has to be called by all of them, in the same order.

    Raises:
        WorkerLost: one of them is gone.
    """

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count, self.in_step = rank, count, True

    @property
    def is_out_of_step(self) -> bool:
        return self.count > 1 and not self.in_step

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What is done together: an error in it is a worker that is gone, to whom nothing can be said any more."""
        try:
            yield
        except RuntimeError as error:
            self.in_step = False
            raise WorkerLost(error) from error

    def share(self, length: int) -> slice:
        """This worker's places among `length`: shares follow one another, none is lost or repeated."""
        return slice(self.rank * length // self.count, (self.rank + 1) * length // self.count)

    def own(self, device: torch.device) -> torch.device:
        """This worker's device of that kind: on a machine with several GPUs each worker has one.

        Raises:
            UserError: there are fewer GPUs than workers, or such a device cannot be shared out.
        """
        if self.count == 1 or device.type == "cpu":
            return device
        number, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if device.type != "cuda":
            raise UserError(f"device is {device.type}, on which several workers cannot train; try --device cpu")
        if number >= there:
            raise UserError(f"there are {there} GPUs here but more workers; take --nproc-per-node {there}")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
        return device

    def replicated(self, model: nn.Module) -> nn.Module:
        """The network to train: after its backward pass gradients are means over the workers."""
        if self.count == 1:
            return model
        known = inspect.signature(DistributedDataParallel).parameters
        kept = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # of older torch
        with self.told():
            return DistributedDataParallel(model, gradient_as_bucket_view=True, **{kept: False})

    def accumulating(self, replica: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
        """Forward and backward pass of one of several micro-batches: the last one has the gradients averaged."""
        return contextlib.nullcontext() if is_last or self.count == 1 else replica.no_sync()

    def summed(self, values: Tensor) -> Tensor:
        """The sum over the workers, in place."""
        if self.count > 1:
            with self.told():
                distributed.all_reduce(values)
        return values

    def from_first(self, value):
        """What the first worker gives, for all of them."""
        if self.count == 1:
            return value
        box = [value]
        with self.told():
            distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def wait(self) -> None:
        """Until all of them are here."""
        self.summed(torch.zeros(()))


class RunningStatistics:
    """Batch norm's running statistics, as one process has them that sees the workers' micro-batches one after another.

    In each update a worker's P micro-batches multiply a statistic by d = (1 − momentum)^P and add some c. One process
    that sees those of workers 0 … N−1 in turn arrives at r ← d^N r + Σ_w d^(N−1−w) c_w. That is linear, so each worker
    keeps its own terms, worker 0 with the r of the beginning, and they are summed only when somebody needs the total.

    Raises:
        UserError: batch norm has momentum=None, a cumulative average.
    """

    def __init__(self, model: nn.Module, group: Group):
        self.group, self._decays = group, None
        norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and norm.running_mean is not None]
        if group.count > 1 and any(norm.momentum is None for norm in norms):
            raise UserError("batch norm has momentum=None, which several workers cannot share; give it a number")
        self._norms = norms if group.count > 1 else []
        averaged = {id(buffer) for norm in self._norms for buffer in norm.buffers(recurse=False)}
        buffers = list(model.buffers()) if group.count > 1 else []
        self._others = [buffer for buffer in buffers if id(buffer) not in averaged]

    def part(self) -> None:
        """From the total on all workers to the terms of each."""
        if self.group.rank > 0:
            for norm in self._norms:
                norm.reset_running_stats()
                norm.running_var.zero_()
        self._decays = None

    def before_update(self, micro_batches: int) -> None:
        """Each worker is about to see that many."""
        self._decay(self.group.count - 1)
        self._decays = [(1 - norm.momentum) ** micro_batches for norm in self._norms]

    def add_up(self) -> None:
        """From the terms of each worker to the total on all of them. Buffers of another kind are the first worker's."""
        self._decay(self.group.count - 1 - self.group.rank)
        self._decays = None
        for norm in self._norms:
            for buffer in norm.buffers(recurse=False):
                self.group.summed(buffer)
        for buffer in self._others:
            with self.group.told():
                distributed.broadcast(buffer, src=0)

    def _decay(self, workers: int) -> None:
        """... while so many others are seen."""
        for norm, decay in zip(self._norms, self._decays or (), strict=False):
            norm.running_mean.mul_(decay**workers)
            norm.running_var.mul_(decay**workers)
