"""Workers: processes that train one experiment together, connected by torch.distributed.

Every worker holds the network and all images, and takes its share of each minibatch; DistributedDataParallel averages
the gradients. Worker 0 leads, and `broadcast` sends the others what it decides.
"""

import contextlib
import inspect
import re
from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from batchscale.errors import UserError, first_line

_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


class WorkerLost(UserError):
    """Another worker ended or cannot be reached."""

    def __init__(self, error: BaseException):
        reason = re.sub(r"^\[.*?\] ", "", first_line(error)).partition(". ")[0]  # without the line in gloo's source
        super().__init__(f"lost a worker ({reason}); start again, with any number of workers, to resume")


def is_lost(error: BaseException) -> bool:
    """Whether an error reports a lost worker. gloo raises a plain RuntimeError, so the message decides."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


class Group:
    """The workers of one experiment, seen from one of them. By default there is one worker, which communicates nothing.

    All workers call the methods in the same order, except `share` and `own_device`, which do not communicate.

    Attributes:
        rank, count: 0-based number of this worker, and number of all workers.
        local_rank: 0-based number of this worker among those on its machine; by default `rank`.
        in_step: whether the other workers wait for a message of worker 0. False while all of them train, and once one
            has left the training or is lost.

    Raises:
        WorkerLost: another worker ended or cannot be reached.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int | None = None):
        self.rank, self.count, self.in_step = rank, count, True
        self.local_rank = rank if local_rank is None else local_rank

    @property
    def is_out_of_step(self) -> bool:
        """Whether worker 0 can no longer send the others a message."""
        return self.count > 1 and not self.in_step

    @contextlib.contextmanager
    def communicating(self) -> Iterator[None]:
        """Inside, a RuntimeError means that a worker is lost, and no message reaches the others any more."""
        try:
            yield
        except RuntimeError as error:
            self.in_step = False
            raise WorkerLost(error) from error

    def share(self, length: int) -> slice:
        """This worker's part of `length` items. The shares are contiguous and disjoint and cover all items."""
        return slice(self.rank * length // self.count, (self.rank + 1) * length // self.count)

    def own_device(self, device: torch.device) -> torch.device:
        """This worker's device of the same type: the CPU, or one GPU per worker of a machine.

        Raises:
            UserError: the machine has fewer GPUs than workers, or several workers cannot use such a device.
        """
        if self.count == 1 or device.type == "cpu":
            return device
        if device.type != "cuda":
            raise UserError(f"device is {device.type}, which several workers cannot share; use --device cpu")
        gpus = torch.cuda.device_count()
        if self.local_rank >= gpus:
            raise UserError(f"there are {gpus} GPUs here but more workers; use --nproc-per-node {gpus}")
        device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(device)
        return device

    def replicate(self, model: nn.Module) -> nn.Module:
        """The network to train. Its backward pass averages the gradients over the workers."""
        if self.count == 1:
            return model
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # in older releases
        with self.communicating():
            return DistributedDataParallel(model, gradient_as_bucket_view=True, **{name: False})

    def accumulating(self, replica: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
        """Context for the passes over one of several micro-batches. The last one averages the summed gradients."""
        return contextlib.nullcontext() if is_last or self.count == 1 else replica.no_sync()

    def all_reduce(self, values: Tensor) -> Tensor:
        """Replace `values` by their sum over the workers, in place."""
        if self.count > 1:
            with self.communicating():
                distributed.all_reduce(values)
        return values

    def broadcast(self, value):
        """The `value` of worker 0, on every worker. Any object that pickle can copy."""
        if self.count == 1:
            return value
        box = [value]
        with self.communicating():
            distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def barrier(self) -> None:
        """Wait until every worker has called this."""
        self.all_reduce(torch.zeros(()))


class RunningStatistics:
    """Batch norm's running statistics, equal to those of one process that sees all workers' micro-batches in turn.

    In each update a worker's P micro-batches multiply a statistic r by d = (1 − momentum)^P and add some c. A process
    that sees those of workers 0 … N−1 in turn arrives at r ← d^N r + Σ_w d^(N−1−w) c_w. This is linear in r and c, so
    each worker keeps its own terms, worker 0 with the initial r. `merge` sums them when somebody needs the total.

    Raises:
        UserError: batch norm has momentum=None, a cumulative average.
    """

    def __init__(self, model: nn.Module, group: Group):
        self.group, self._decays = group, None
        modules, buffers = (model.modules(), model.buffers()) if group.count > 1 else ((), ())
        self._norms = [norm for norm in modules if isinstance(norm, _BatchNorm) and norm.running_mean is not None]
        if any(norm.momentum is None for norm in self._norms):
            raise UserError("batch norm has momentum=None, which several workers cannot share; set a number")
        averaged = {id(buffer) for norm in self._norms for buffer in norm.buffers(recurse=False)}
        self._others = [buffer for buffer in buffers if id(buffer) not in averaged]

    def split(self) -> None:
        """From the total, on every worker, to the terms of each worker."""
        if self.group.rank > 0:
            for norm in self._norms:
                norm.reset_running_stats()
                norm.running_var.zero_()
        self._decays = None

    def before_update(self, micro_batches: int) -> None:
        """Announce an update in which every worker sees this number of micro-batches."""
        self._decay(self.group.count - 1)
        self._decays = [(1 - norm.momentum) ** micro_batches for norm in self._norms]

    def merge(self) -> None:
        """From the terms of each worker to the total, on every worker. Buffers of another kind are worker 0's."""
        self._decay(self.group.count - 1 - self.group.rank)
        self._decays = None
        for norm in self._norms:
            for buffer in norm.buffers(recurse=False):
                self.group.all_reduce(buffer)
        for buffer in self._others:
            with self.group.communicating():
                distributed.broadcast(buffer, src=0)

    def _decay(self, workers: int) -> None:
        """Decay this worker's terms as the micro-batches of that many other workers do."""
        for norm, decay in zip(self._norms, self._decays or (), strict=False):
            norm.running_mean.mul_(decay**workers)
            norm.running_var.mul_(decay**workers)
