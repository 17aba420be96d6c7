"""An update recorded once as a CUDA graph and replayed: one launch in place of some hundred.

For small minibatches, whose kernels take longer to launch than to run. Not measured yet on any GPU, and therefore used
only where BATCHSCALE_CUDA_GRAPH=1 is set.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor

LARGEST_BATCH_SIZE = 256  # Assumption: above it kernels run for longer than they take to launch; not measured
WARM_UP_UPDATES = 3  # as torch's documentation has it: libraries set themselves up in them


def is_wanted(device: torch.device, batch_size: int) -> bool:
    """Whether updates of that many images are to be replayed on that device."""
    wanted = os.environ.get("BATCHSCALE_CUDA_GRAPH") == "1"
    return wanted and device.type == "cuda" and batch_size <= LARGEST_BATCH_SIZE


class Replayed:
    """A function of one tensor, always of the same shape, that reads and writes tensors at fixed addresses.

    The first calls run it as it is, but on a stream of their own, then it is recorded, which runs nothing, and from
    there on replayed. What it does besides, in Python, happens in none of the replays. Random numbers are those of the
    same calls without a graph: a replay takes them from the generator of the device, where that stands then.
    """

    def __init__(self, function: Callable[[Tensor], None]):
        self._function, self._graph, self._calls = function, None, 0
        self._argument: Tensor | None = None

    def __call__(self, argument: Tensor) -> None:
        self._calls += 1
        if self._argument is None:
            self._argument = argument.clone()
        self._argument.copy_(argument)
        if self._calls <= WARM_UP_UPDATES:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._function(self._argument)
            torch.cuda.current_stream().wait_stream(stream)
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._function(self._argument)
        self._graph.replay()
