"""How fast is training: against the loop of the usual notebook, PyTorch Lightning, and the bare step?

    make bench DATA_ROOT=datasets                            # quick: some minutes
    python benchmarks/speed.py --full --data-root datasets   # everything, half an hour; needs pip install lightning

Every contender lives in its own process. The contenders train in turns, round after round (A B A B), each time after
some untimed updates. A ratio is the median over the rounds of the ratios within a round. Only ratios within one run on
an otherwise idle machine mean anything. `--full` writes `speed.csv`, one row per ratio, and the table of README.md
beside it.
"""

import argparse
import contextlib
import copy
import functools
import io
import itertools
import multiprocessing
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from torchvision.datasets import CIFAR10

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import synthetic

from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.training import datasets
from batchscale.training.loop import Training
from batchscale.training.memory import memory_kept
from models import CNN

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
Turn = tuple[int, float]  # updates, and the seconds that they took


@dataclass(frozen=True)
class Case:
    width: float
    batch_size: int
    loop: float = 0  # times the notebook loop that is aimed at
    bare: float = 0  # ... and share of the bare step
    micro_batch_size: int | None = None

    @property
    def experiment(self) -> Experiment:
        return Experiment(
            batch_size=self.batch_size, width=self.width, micro_batch_size=self.micro_batch_size, device="cpu", epochs=1
        )


CASES = (
    Case(0.25, 128, 1.9, 0.97),
    Case(1, 128, 1.3, 0.97),
    Case(0.25, 8, 1.6, 0.97),
    Case(0.25, 2, 2.0, 0.95),
    Case(1, 1024, 1.4, 0.97),
)


# Contenders: generators that are sent the seconds of a turn and yield what they did in it.


def timed(step: Callable[[], None], seconds: float) -> Turn:
    """Five updates, or two seconds, to get into step; then as many as it takes to fill a turn."""
    warm, updates, started = 0, 0, time.perf_counter()
    while warm < 1 or (warm < 5 and time.perf_counter() - started < 2):
        step()
        warm += 1
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        step()
        updates += 1
    return updates, time.perf_counter() - started


def notebook_step(case: Case) -> tuple[nn.Module, Callable[[Tensor, Tensor], float]]:
    """What the usual notebook does with a minibatch, and its network: optim.SGD, loss.item() each step."""
    model, criterion = CNN(case.width).train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)

    def step(inputs: Tensor, labels: Tensor) -> float:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return model, step


def notebook_loop(case: Case, data_root: str, loader_workers: int) -> Iterator[Turn]:
    """(a), (b): that, on minibatches of a DataLoader."""
    _, step = notebook_step(case)
    batches = itertools.chain.from_iterable(itertools.repeat(loader(case, data_root, loader_workers)))
    turn = 0, 0.0
    while True:
        turn = timed(lambda: step(*next(batches)), (yield turn))
        time.sleep(1)  # the loader's workers fill their queue, and then leave the cores to the next contender


def notebook_epoch(case: Case, data_root: str, train_size: int) -> list[float]:
    """The same loop over one epoch of the first images; the two accuracies that a record has."""
    model, step = notebook_step(case)
    for inputs, labels in loader(case, data_root, 2, train_size):
        step(inputs, labels)
    model.eval()
    accuracies = []
    with torch.no_grad():
        for train in (True, False):
            correct = 0
            for inputs, labels in loader(replace(case, batch_size=500), data_root, 2, 10_000, train):
                correct += (model(inputs).argmax(dim=1) == labels).sum().item()
            accuracies.append(correct / 10_000)
    return accuracies


def loader(case: Case, data_root: str, workers: int, size: int | None = None, train: bool = True) -> DataLoader:
    """torchvision's CIFAR-10, or its first images, with ToTensor and Normalize."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
    images = CIFAR10(data_root, train=train, transform=transform)
    chosen = images if size is None else Subset(images, range(size))
    return DataLoader(chosen, case.batch_size, shuffle=train, num_workers=workers)


def with_lightning(case: Case, data_root: str) -> Iterator[Turn]:
    """(c): PyTorch Lightning's Trainer with its defaults, logging off."""
    import logging

    import lightning

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = CNN(case.width)

        def training_step(self, batch, number):
            return functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.002, momentum=0.9)

    class Clock(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, number):
            now = time.perf_counter()
            if number == 0:
                self.began, self.first = now, None
            elif self.first is None and number >= 5 and now - self.began >= 0.25:
                self.first = number, now
            elif self.first is not None:
                self.turn = number - self.first[0], now - self.first[1]
                trainer.should_stop = self.turn[1] >= self.seconds

    images, module, clock = loader(case, data_root, 2), Module(), Clock()
    clock.turn = 0, 0.0
    while True:
        clock.seconds = yield clock.turn
        trainer = lightning.Trainer(
            min_epochs=0, max_epochs=-1, logger=False, enable_checkpointing=False, callbacks=[clock]
        )
        silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with silent[0], silent[1]:
            trainer.fit(module, images)
        time.sleep(1)  # as above


def bare_step(case: Case, data_root: str) -> Iterator[Turn]:
    """(d): forward, backward and optimizer on one batch, with the network, memory layout and cores of batchscale."""
    training = Training(case.experiment, datasets.load("cifar10", data_root))
    images, labels = training.data.batch(torch.arange(case.batch_size))
    model, optimizer = training.model.train(), training.optimizer

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    turn = 0, 0.0
    with memory_kept():
        while True:
            turn = timed(step, (yield turn))


def batchscale(case: Case, data_root: str) -> Iterator[Turn]:
    """`Training` as a sweep uses it, interrupted a few times a second; evaluation and saving are not in it."""
    training = Training(case.experiment, datasets.load("cifar10", data_root))
    start = copy.deepcopy(training.state_dict())
    with memory_kept():
        turn = 0, 0.0
        while True:
            seconds = yield turn
            marks = []

            def between_updates(progress, marks=marks, seconds=seconds) -> None:
                marks.append((training.updates, time.perf_counter()))
                if marks[-1][1] - marks[0][1] >= seconds:
                    raise _Enough

            training.load_state_dict(copy.deepcopy(start))
            with contextlib.suppress(_Enough):
                for _ in training.epochs(between_updates):
                    raise RuntimeError("the turn was longer than an epoch")
            turn = marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]


class _Enough(Exception):
    pass


CONTENDERS = {
    "batchscale": batchscale,
    "notebook": functools.partial(notebook_loop, loader_workers=2),
    "bare step": bare_step,
    "notebook, no workers": functools.partial(notebook_loop, loader_workers=0),
    "lightning": with_lightning,
}


def contend(name: str, case: Case, data_root: str, connection) -> None:
    contender = CONTENDERS[name](case, data_root)
    next(contender)
    while True:
        connection.send(contender.send(connection.recv()))


def ratios(contenders: dict[str, tuple[str, Case]], data_root: str, rounds: int, seconds: float) -> pd.DataFrame:
    """Images per second of the first contender over those of each other, a frame of rounds by contenders."""
    context, ends, processes, speeds = multiprocessing.get_context("spawn"), {}, [], []
    for label, (name, case) in contenders.items():
        ends[label], theirs = context.Pipe()
        processes.append(context.Process(target=contend, args=(name, case, data_root, theirs)))
        processes[-1].start()
        theirs.close()
    try:
        for _ in range(rounds + 1):
            speeds.append({})
            for label, end in ends.items():
                end.send(seconds)
                updates, took = end.recv()
                speeds[-1][label] = updates * contenders[label][1].batch_size / took
    finally:
        for process in processes:
            process.terminate()
    table = pd.DataFrame(speeds[1:])  # the first round is no measurement: libraries are set up in it
    return table.rdiv(table.iloc[:, 0], axis=0)


def shares(case: Case, data_root: str, count: int, seconds: float) -> dict[str, float]:
    """What else an epoch takes, in percent of its training time: medians over rounds in which each is measured."""
    training = Training(case.experiment, datasets.load("cifar10", data_root))
    n, test = len(training.data.train_images), training.data.test_images
    trainer, rows = batchscale(case, data_root), []
    next(trainer)

    def evaluation() -> None:
        training.evaluate(training.data.train_images[: len(test)], training.data.train_labels[: len(test)])
        training.evaluate(test, training.data.test_labels)

    with tempfile.TemporaryDirectory() as folder:
        record = Record(case.experiment, folder)
        record.start()
        parts = {
            "evaluation": evaluation,
            "noise scale": training.measure_noise_scale,
            "saving": lambda: record.save_state(training.state_dict()),
        }
        for number in range(count + 1):
            updates, took = trainer.send(seconds)
            epoch = took / updates * (n // case.batch_size)
            row = {}
            for name, part in parts.items():
                started = time.perf_counter()
                part()
                row[name] = 100 * (time.perf_counter() - started) / epoch
            rows += [row] if number else []
    return pd.DataFrame(rows).median().to_dict()


def peak_share(case: Case, data_root: str, rounds: int, seconds: float) -> float:
    """Arithmetic a second of a training step over the most that was measured here: the faster one of a product of
    square matrices and a convolution of many channels."""
    training = Training(case.experiment, datasets.load("cifar10", data_root))
    images, labels = training.data.batch(torch.arange(case.batch_size))
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(training.model(images), labels).backward()
    matrices, kernels = torch.rand(2, 2048, 2048), torch.rand(256, 256, 3, 3)
    maps = torch.rand(32, 256, 16, 16).to(memory_format=torch.channels_last)
    heavy = (
        (2 * 2048**3, lambda: matrices[0] @ matrices[1]),
        (2 * maps.numel() * 256 * 9, lambda: functional.conv2d(maps, kernels, padding=1)),
    )
    trainer, shares = batchscale(case, data_root), []
    next(trainer)
    with torch.no_grad():
        peaks = [(work, *timed(step, seconds)) for work, step in heavy for _ in range(rounds)]
    for _ in range(rounds + 1):
        updates, took = trainer.send(seconds)
        shares.append(updates / took * counter.get_total_flops())
    return median(shares[1:]) / max(work * steps / took for work, steps, took in peaks)


def peak_memory(data_root: str) -> float:
    """GB resident at most, of a process that makes one update at B = 8192, width 1, in micro-batches of 256."""
    # Of this process alone: what getrusage tells begins with the parent's.
    code = f"""
from pathlib import Path
from batchscale.experiment import Experiment
from batchscale.training import datasets
from batchscale.training.loop import Training
from batchscale.training.memory import memory_kept
experiment = Experiment(batch_size=8192, micro_batch_size=256, train_size=8192, epochs=1, device="cpu")
with memory_kept():
    next(Training(experiment, datasets.load("cifar10", {data_root!r})).epochs())
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024 / 1e9


def help_shown() -> float:
    """Seconds until `--help` is answered."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "batchscale", "--help"], cwd=PROJECT, capture_output=True, check=True)
    return time.perf_counter() - started


def progress_shown() -> float:
    """Seconds until `train` on digits, at width 1, shows its bar in a terminal."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # no bar in a terminal without a width
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "batchscale", "train", "--dataset", "digits", "--batch-size", "128"]
        started, shown = time.perf_counter(), b""
        process = subprocess.Popen([*command, "--data-dir", folder], cwd=PROJECT, stdout=theirs, stderr=theirs)
        while b"img/s" not in shown:
            shown += os.read(ours, 1024)
        seconds = time.perf_counter() - started
        process.kill()
        process.wait()
    return seconds


def results_shown() -> float:
    """Seconds until the results notebook is executed for 104 runs of 10 epochs that are made up."""
    from papermill import execute_notebook

    with tempfile.TemporaryDirectory() as folder:
        for run, rows in synthetic.study(seeds=range(4), epochs=10).groupby(["experiment", "batch_size", "seed"]):
            rows.to_csv(Path(folder, "{}_bs{}_seed{}.csv".format(*run)), index=False)
        started = time.perf_counter()
        execute_notebook(
            str(PROJECT / "Results&Visualizations.ipynb"),
            str(Path(folder, "results.ipynb")),
            {"data_dir": folder},
            cwd=str(PROJECT),
            progress_bar=False,
        )
        return time.perf_counter() - started


def whole_sweep(data_root: str, rounds: int) -> dict[str, float]:
    """Speed of a sweep with two workers, five runs of an epoch from B = 2 to 512, over one worker of one thread and
    over the notebook loop, one run after the other. All seconds count, from the command on."""
    sizes, images, times = (2, 8, 32, 128, 512), 12_000, []
    for _ in range(rounds):
        times.append({})
        for workers in (2, 1):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                command = [sys.executable, "-m", "batchscale", "sweep", "--names", "mine", "--large", *map(str, sizes)]
                command += ["--epochs", "1", "--width", "0.25", "--device", "cpu", "--data-root", data_root]
                command += ["--train-size", str(images), "--workers", str(workers), "--data-dir", folder]
                threads = {"OMP_NUM_THREADS": "1"} if workers == 1 else {}
                environment = os.environ | threads
                subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, check=True)
                times[-1][workers] = time.perf_counter() - started
        started = time.perf_counter()
        for size in sizes:
            notebook_epoch(Case(0.25, size), data_root, images)
        times[-1]["notebook"] = time.perf_counter() - started
    table = pd.DataFrame(times)
    return {"notebook": (table["notebook"] / table[2]).median(), "one worker": (table[1] / table[2]).median()}


PARTS = ("cases", "split", "shares", "memory", "start", "sweep")


def measure(parts: list[str], root: str, full: bool) -> Iterator[tuple[str, float, str, str]]:
    """What, its value, its quartiles over the rounds if these are of interest, and what is aimed at."""
    names = list(CONTENDERS) if full else ["batchscale", "notebook", "bare step"]
    rounds, seconds = (5, 1.5) if full else (5, 1.0)
    cases = CASES if full else CASES[:-1]  # in the last one, an update takes seconds
    for case in cases if "cases" in parts else ():
        name = f"width {case.width:g}, B = {case.batch_size}"
        table = ratios({name: (name, case) for name in names}, root, rounds, seconds)
        for rival in names[1:]:
            low, high = table[rival].quantile([0.25, 0.75])
            target = {"notebook": f"≥ {case.loop}", "bare step": f"≥ {case.bare}"}.get(rival, "")
            yield f"{name}: speed over {rival}", table[rival].median(), f"{low:.3g}–{high:.3g}", target
        if full:
            yield f"{name}: share of the measured peak", peak_share(case, root, rounds, 1), "", ""
    if "split" in parts:
        whole = Case(1, 1024)
        pair = {
            name: ("batchscale", replace(whole, micro_batch_size=size))
            for name, size in (("split", 128), ("whole", None))
        }
        table = ratios(pair, root, rounds, 3)
        yield "width 1, B = 1024 in micro-batches of 128: speed over whole", table["whole"].median(), "", "≥ 0.95"
    for width in (0.25, 1) if "shares" in parts else ():
        for part, percent in shares(Case(width, 128), root, rounds, 3).items():
            target = {"evaluation": "≤ 12" if width == 1 else "", "noise scale": "≤ 3", "saving": "≤ 1"}[part]
            yield f"width {width:g}, B = 128: {part}, % of an epoch's training time", percent, "", target
    if "memory" in parts:
        what = "width 1, B = 8192 in micro-batches of 256: GB resident at most"
        yield what, peak_memory(root), "", "≤ 2.5"
    if "start" in parts:
        for what, seconds, target in (
            ("--help: seconds", help_shown, 0.5),
            ("train on digits, width 1: seconds to the first progress", progress_shown, 6),
            ("results notebook, 104 runs: seconds", results_shown, 30),
        ):
            yield what, median(seconds() for _ in range(rounds)), "", f"≤ {target}"
    for over, ratio in whole_sweep(root, rounds).items() if "sweep" in parts else ():
        yield f"a sweep with two workers: speed over {over}", ratio, "", "≥ 2.4" if over == "notebook" else "≥ 1.8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=None, help="folder with cifar-10-batches-py")
    parser.add_argument("--full", action="store_true", help="all contenders and parts, in longer rounds")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="of the full one: only these, the others stay")
    arguments = parser.parse_args()
    root = str(datasets.find_data_root(arguments.data_root).resolve())
    recorded = HERE / "speed.csv"
    rows = {}
    if arguments.full and arguments.parts and recorded.exists():
        rows = {row["what"]: row for row in pd.read_csv(recorded, dtype=str, keep_default_na=False).to_dict("records")}
    for what, value, quartiles, target in measure(
        arguments.parts or PARTS[: None if arguments.full else 1], root, arguments.full
    ):
        rows[what] = {"what": what, "measured": f"{value:.3g}", "quartiles": quartiles, "target": target}
        print(f"{what:70s} {value:8.3g}  {quartiles:15s} {target}", flush=True)
        if arguments.full:
            write(list(rows.values()), recorded)


def write(rows: list[dict], recorded: Path) -> None:
    """The CSV, and the table in README.md beside it."""
    pd.DataFrame(rows).to_csv(recorded, index=False)
    page = (HERE / "README.md").read_text(encoding="utf-8")
    lines = ["| what | measured | quartiles | target |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    before, after = page.split("<!-- speed -->")[0], page.split("<!-- end of speed -->")[1]
    page = before + "\n".join(["<!-- speed -->", *lines, "<!-- end of speed -->"]) + after
    (HERE / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
