"""How many images per second does a GPU train, for which batch size: as it is, compiled, as one CUDA graph?

    python benchmarks/gpu.py
    python benchmarks/gpu.py --data-root datasets --out notebook.csv    # the loop of the usual notebook, on CIFAR-10

Every contender has the network, the data and the optimizer of a `Training`, on random images:

* loop: the update of batchscale, as every run does it.
* bf16: the same with `--precision bf16`.
* compiled: the same with `torch.compile(model)`, compiled for one batch size at a time.
* compiled, graphs: with `torch.compile(model, mode="reduce-overhead")`.
* one graph: forward, backward and optimizer captured in one CUDA graph. Its rate stays as it was when it was captured.

Contenders of one batch size take turns, three blocks each, and their medians count. Then several processes train on the
GPU at the same time. The results go to standard output and to `gpu.csv`.
"""

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchscale.experiment import Experiment
from batchscale.training import datasets
from batchscale.training.loop import Training

HERE = Path(__file__).resolve().parent
BATCH_SIZES = (2, 8, 32, 128, 512, 2048, 8192)
BLOCK_SECONDS = 0.3
AT_ONCE = (1, 4, 8, 16)
Row = dict[str, float | int | str]


def training(batch_size: int, **settings) -> Training:
    """Of the study's network at full width, on noise. The rate is too small to change a weight."""
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randint(256, (n, 32, 32, 3), generator=generator, dtype=torch.uint8) for n in (16384, 500)]
    labels = [torch.arange(len(images)) % 10 for images in noise]
    data = datasets.of("noise", (noise[0], labels[0], noise[1], labels[1]))
    return Training(Experiment(batch_size=batch_size, width=1, base_lr=1e-30, device="cuda", **settings), data)


def contender(name: str, batch_size: int) -> Callable[[], None]:
    """One update."""
    train = training(batch_size, precision="bf16" if name == "bf16" else "fp32")
    minibatch = train.order(1)[:batch_size]
    train.model.train()
    if name in ("compiled", "compiled, graphs"):
        train.model = torch.compile(train.model, mode="reduce-overhead" if "graphs" in name else None, dynamic=False)
    if name == "one graph":
        return captured(lambda: train.update(minibatch))
    return lambda: train.update(minibatch)


def captured(update: Callable[[], None]) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            update()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    return functools.partial(_replay, graph, update)


def _replay(graph: torch.cuda.CUDAGraph, update: Callable[[], None]) -> None:
    """With the update, which owns the network whose memory the graph uses."""
    graph.replay()


def seconds(update: Callable[[], None], updates: int) -> float:
    """Per update."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(updates):
        update()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / updates


def warmed(name: str, batch_size: int) -> tuple[Callable[[], None], int]:
    """A contender that has compiled, and how many of its updates fill a block."""
    update = contender(name, batch_size)
    seconds(update, 5)
    return update, max(2, round(BLOCK_SECONDS / seconds(update, 5)))


def compile_ahead(size: int) -> None:
    """In a process of its own: what is compiled stays in the cache of torch."""
    for name in ("compiled", "compiled, graphs"):
        with contextlib.suppress(Exception):  # it fails again where it is measured
            seconds(contender(name, size), 1)


def compile_all_ahead() -> list[Row]:
    with ProcessPoolExecutor(len(BATCH_SIZES), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(compile_ahead, BATCH_SIZES))
    return []


def one_at_a_time() -> list[Row]:
    rows = []
    for size in BATCH_SIZES:
        ready = {}
        torch.compiler.reset()  # beyond eight compiled networks it would go on without compiling
        for name in ("loop", "bf16", "compiled", "compiled, graphs", "one graph"):
            try:
                ready[name] = warmed(name, size)
            except Exception as error:  # a contender that fails is a result
                print(f"{name}, B = {size}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
        times = {name: [seconds(*each) for _ in range(3)] for name, each in ready.items()}
        rows += [row(size, name, size / median(each)) for name, each in times.items()]
        print(f"B = {size}", {name: f"{size / median(each):.0f}" for name, each in times.items()}, flush=True)
    return rows


def at_once(sizes: tuple[int, ...] = (32, 1024)) -> list[Row]:
    """Images per second of all processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(max(AT_ONCE)), context.SimpleQueue()
    processes = [context.Process(target=_one_of, args=(i, sizes, barrier, rates)) for i in range(max(AT_ONCE))]
    for process in processes:
        process.start()
    found = [rates.get() for _ in range(sum(AT_ONCE) * len(sizes))]
    for process in processes:
        process.join()
    totals = pd.DataFrame(found, columns=["size", "count", "rate"]).groupby(["size", "count"]).rate.sum()
    print(totals.to_string(), flush=True)
    return [row(size, f"loop, {count} at once", rate) for (size, count), rate in totals.items()]


def _one_of(number: int, sizes: tuple[int, ...], barrier, rates) -> None:
    torch.set_num_threads(1)
    ready = {size: warmed("loop", size) for size in sizes}
    for size, count in itertools.product(sizes, AT_ONCE):
        update = ready[size][0]
        barrier.wait()
        if number < count:
            started, updates = time.perf_counter(), 0
            while time.perf_counter() - started < 1.5:
                seconds(update, 5)
                updates += 5
            rates.put((size, count, updates * size / (time.perf_counter() - started)))
        barrier.wait()


def notebook(data_root: str, batch_size: int = 128) -> list[Row]:
    """A DataLoader with two workers over torchvision's images, and `loss.item()` at each step."""
    from speed import Case, loader, notebook_step

    case, updates, started = Case(1, batch_size), 0, 0.0
    model, step = notebook_step(case)
    model.cuda()
    for number, (inputs, labels) in enumerate(loader(case, data_root, 2)):
        if number == 20:
            started, updates = time.perf_counter(), 0
        step(inputs.cuda(), labels.cuda())
        updates += 1
    rate = batch_size * updates / (time.perf_counter() - started)
    print(f"notebook, B = {batch_size}: {rate:.0f} images/s", flush=True)
    return [row(batch_size, "notebook", rate)]


def row(batch_size: int, name: str, rate: float) -> Row:
    return {"batch_size": batch_size, "contender": name, "images_per_second": round(rate)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", help="folder of CIFAR-10: measure the notebook's loop alone")
    parser.add_argument("--out", type=Path, default=HERE / "gpu.csv")
    arguments = parser.parse_args()
    rows, started = [], time.perf_counter()
    own = (at_once, compile_all_ahead, one_at_a_time)
    for part in (functools.partial(notebook, arguments.data_root),) if arguments.data_root else own:
        rows += part()
        table = pd.DataFrame(rows).assign(device=torch.cuda.get_device_name(), torch=torch.__version__)
        table.to_csv(arguments.out, index=False)
        print(f"after {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
