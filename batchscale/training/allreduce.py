"""The time of an all-reduce between processes of this machine, with gloo, which workers without GPUs use.

    times = measure()                                   # pairs of bytes and seconds
    projection.fit_interconnect(times, WORKERS, "…")

The measurement takes some seconds and includes the load of other programs.
"""

import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from statistics import median

from batchscale.errors import UserError

WORKERS = 2
SIZES = (4, 4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20)  # bytes
_ROUNDS, _REPEATS = 20, 5


def measure() -> list[tuple[int, float]]:
    """Pairs of message size in bytes and time of an all-reduce in seconds, the median over rounds.

    Raises:
        UserError: this build of PyTorch lacks gloo, or the processes cannot connect.
    """
    import torch.multiprocessing
    from torch import distributed

    if not (distributed.is_available() and distributed.is_gloo_available()):
        raise UserError("this torch has no gloo to measure an all-reduce with; give --latency and --bandwidth")
    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.multiprocessing.spawn(_process, (folder,), nprocs=WORKERS, daemon=True)
        except Exception as error:  # anything: it happened in another process, which has ended
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise UserError(
                f"an all-reduce between two processes here failed ({reason}); give --latency and --bandwidth"
            ) from error
        seconds = json.loads((Path(folder) / "seconds.json").read_text())
    return list(zip(SIZES, seconds, strict=True))


def _process(rank: int, folder: str) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    store = distributed.FileStore(str(Path(folder) / "store"), WORKERS)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORKERS, timeout=timedelta(seconds=60))
    buffers = [torch.zeros(size // 4) for size in SIZES]

    def seconds(buffer: torch.Tensor) -> float:
        distributed.barrier()
        started = time.perf_counter()
        for _ in range(_REPEATS):
            distributed.all_reduce(buffer)
        return (time.perf_counter() - started) / _REPEATS

    rounds = [[seconds(buffer) for buffer in buffers] for _ in range(_ROUNDS + 1)]
    distributed.destroy_process_group()
    if rank == 0:
        medians = [median(times) for times in zip(*rounds[1:], strict=True)]  # the first round opens connections
        (Path(folder) / "seconds.json").write_text(json.dumps(medians))
