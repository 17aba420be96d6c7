"""Workers: processes that train one experiment together, connected by torch.distributed.

Every worker holds the network and all images, and takes its share of each minibatch; `SharedNetwork` then combines the
gradients. Worker 0 leads, and `broadcast` sends the others what it decides.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from batchscale.errors import UserError, failure, first_line

MESSAGE_BYTES = 2**25  # near the 25 MiB of DistributedDataParallel

_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


class WorkerLost(UserError):
    """Another worker ended or cannot be reached."""

    def __init__(self, error: BaseException):
        reason = re.sub(r"^\[.*?\] ", "", first_line(error)).partition(". ")[0]  # without the line in gloo's source
        super().__init__(f"lost a worker ({reason}); start again, with any number of workers, to resume")


def is_lost(error: BaseException) -> bool:
    """Whether an error reports a lost worker. gloo raises a plain RuntimeError, so the message decides."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    )


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
        """Inside, a RuntimeError means that no message reaches the other workers any more: one is lost, or it fails."""
        try:
            yield
        except RuntimeError as error:
            self.in_step = False
            if is_lost(error):
                raise WorkerLost(error) from error
            raise UserError(f"the workers cannot exchange a message: {failure(error)}") from error

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

    def all_reduce(self, values: Tensor) -> Tensor:
        """Replace `values` by their sum over the workers, in place."""
        if self.count > 1:
            with self.communicating():
                distributed.all_reduce(values)
        return values

    def sum_all(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over the workers, in place, in messages of about `MESSAGE_BYTES`."""
        messages: list[list[Tensor]] = []
        latest: dict[tuple, tuple[list[Tensor], int]] = {}  # by dtype and device: a message, and its room in bytes
        for tensor in tensors:
            tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            kind = tensor.dtype, tensor.device
            message, room = latest.get(kind, (None, 0))
            if message is None or tensor.nbytes > room:
                message, room = [], MESSAGE_BYTES
                messages.append(message)
            message.append(tensor)
            latest[kind] = message, room - tensor.nbytes
        for message in messages:
            total = self.all_reduce(torch.cat([tensor.reshape(-1) for tensor in message]))
            for tensor, part in zip(message, total.split([tensor.numel() for tensor in message]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, values: Tensor) -> Tensor:
        """The `values` of all workers, `(count, n)`, from a tensor `(n,)` on the CPU."""
        everyone = [torch.empty_like(values) for _ in range(self.count)]
        with self.communicating():
            distributed.all_gather(everyone, values)
        return torch.stack(everyone)

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


class SharedNetwork:
    """A network of which every worker holds a copy. After `combine`, all copies are that of one process.

    That process sees the micro-batches of workers 0 … N−1 in turn. Its gradient is the mean of theirs; a parameter that
    none of them reached has none. A batch or instance norm that saw P micro-batches of worker w in train mode has
    multiplied its running statistic r by d_w = (1 − momentum)^P and added c_w = r_w − d_w·r: the process arrives at

        r ← r·∏_w d_w + Σ_w c_w·∏_{v>w} d_v

    P may differ between norms, workers and updates: a norm in eval mode has P = 0, one in a block that is used twice 2.

    Raises:
        UserError: a norm has momentum=None, a cumulative average.
    """

    def __init__(self, model: nn.Module, group: Group):
        self.model, self.group = model, group
        norms = [module for module in model.modules() if isinstance(module, _NormBase)] if group.count > 1 else []
        # SyncBatchNorm sees the images of all workers itself.
        norms = [norm for norm in norms if not isinstance(norm, nn.SyncBatchNorm)]
        self._norms = [norm for norm in norms if norm.running_mean is not None]
        if any(norm.momentum is None for norm in self._norms):
            raise UserError("a norm has momentum=None, which several workers cannot share; set a number")
        self._passes = dict.fromkeys(self._norms, 0)  # in train mode, since the last `combine`
        self._before: list[Tensor] = []
        for norm in self._norms:
            norm.register_forward_hook(self._count)

    def _count(self, norm: _NormBase, *_) -> None:
        self._passes[norm] += norm.training

    def begin(self) -> None:
        """Give every worker the parameters and buffers of worker 0."""
        self._share([*self.model.parameters(), *self.model.buffers()])

    def before_update(self) -> None:
        """Announce the passes of an update."""
        self._passes = dict.fromkeys(self._norms, 0)
        self._before = [statistic.clone() for statistic in _statistics(self._norms)]

    def combine(self) -> None:
        """Combine gradients and batch norm's statistics after the passes of an update."""
        if self.group.count == 1:
            return
        parameters = list(self.model.parameters())
        own = [parameter.grad is not None for parameter in parameters] + list(self._passes.values())
        everyone = self.group.gather(torch.tensor(own, dtype=torch.int64))
        is_reached, passes = everyone[:, : len(parameters)].any(dim=0), everyone[:, len(parameters) :]
        reached = [parameter for parameter, is_used in zip(parameters, is_reached.tolist(), strict=True) if is_used]
        for parameter in reached:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = parameter.grad.to_dense()
        gradients = [parameter.grad for parameter in reached]
        with torch.no_grad():
            if gradients:
                torch._foreach_div_(gradients, self.group.count)
            terms = self._split_statistics(passes)
            self.group.sum_all([*gradients, *terms])
            for statistic, total, term in zip(_statistics(self._norms), self._before, terms, strict=True):
                statistic.copy_(total.add_(term))

    def _split_statistics(self, passes: Tensor) -> list[Tensor]:
        """Decay r in `_before` to r·∏_w d_w, and return c_w·∏_{v>w} d_v of this worker, for every running statistic.

        Args:
            passes: number of passes in train mode, int64 `(workers, norms)`.
        """
        rank, terms, before = self.group.rank, [], iter(self._before)
        for norm, of_norm in zip(self._norms, passes.T.tolist(), strict=True):
            if isinstance(norm, _BatchNorm):  # instance norm does not count
                norm.num_batches_tracked += sum(of_norm) - of_norm[rank]
            keep = 1 - norm.momentum
            for statistic in _statistics([norm]):
                total = next(before)
                terms.append((statistic - keep ** of_norm[rank] * total).mul_(keep ** sum(of_norm[rank + 1 :])))
                total.mul_(keep ** sum(of_norm))
        return terms

    def share_buffers(self) -> None:
        """Give every worker the other buffers of worker 0, such as those that the network's forward pass replaces."""
        norms = {id(buffer) for norm in self._norms for buffer in norm.buffers(recurse=False)}
        self._share([buffer for buffer in self.model.buffers() if id(buffer) not in norms])

    def _share(self, tensors: list[Tensor]) -> None:
        if tensors and self.group.count > 1:
            given = self.group.broadcast([tensor.detach().cpu() for tensor in tensors])
            with torch.no_grad():
                for ours, theirs in zip(tensors, given, strict=True):
                    ours.copy_(theirs)


def _statistics(norms: Iterable[_NormBase]) -> list[Tensor]:
    return [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
