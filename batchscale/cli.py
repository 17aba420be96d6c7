"""The command line.

    python -m batchscale train --dataset digits --batch-size 32 --width 0.25
    python -m batchscale train --name gradual_warmup_scaled_lr --batch-size 1024 --data-root datasets
    python -m batchscale sweep --small 8 32 --large 128 512 1024 --seeds 0 1 2 --workers 2
    python -m batchscale study --out runs/digits --dataset digits --width 0.25 --small 8 32 --large 128 256
    python -m batchscale analyse runs/digits --json
    python -m batchscale project runs/digits --figure projection.png
    python -m batchscale noise-scale data/scaled_lr_bs1024_seed0.ckpt --images 12500

What is recorded already is not trained again; what was interrupted goes on where it was.
"""

import contextlib
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from batchscale.errors import UserError, first_line
from batchscale.experiment import LARGE_BATCH_SIZES, SMALL_BATCH_SIZES, Experiment
from batchscale.modes import MODES


@dataclass(frozen=True, kw_only=True)
class Settings(Experiment):
    """The fields of an `Experiment` as flags, and where things are."""

    lr_scaling: Literal["by-name", "none", "linear", "sqrt"] = "by-name"
    """learning rate of larger batches: base_lr, k·base_lr or √k·base_lr; by-name: that of the study's mode of this
    name, and none for a name of your own"""
    warmup: Literal["by-name", "none", "constant", "gradual"] = "by-name"
    """way to the scaled rate: at once, base_lr until warmup_epochs are over, or a linear ramp per update"""
    data_dir: str = "data"
    """folder of the records"""
    data_root: str | None = None
    """folder of the images; None: BATCHSCALE_DATA_ROOT, or else datasets"""
    scratch_dir: str | None = None
    """write here first and copy to data_dir after each epoch, in the background; for a data_dir that is slow or may
    vanish"""
    when_locked: Literal["wait", "leave"] = "wait"
    """a run that another process is training: wait until it is done, or leave it and say who has it"""
    on_out_of_memory: Literal["split", "stop"] = "split"
    """a minibatch too large for the device: split it into micro-batches, or stop, naming the largest that fits"""
    save_seconds: float = 180
    """an epoch that takes longer is saved in the middle that often"""

    def __post_init__(self):
        """Checked when it becomes an `Experiment`, so that every error has one form."""

    def experiments(self, name: str, batch_sizes: tuple[int, ...], seeds: tuple[int, ...]) -> list[Experiment]:
        """`grid` with the settings that were given."""
        from batchscale.sweeps import grid

        settings = {field.name: getattr(self, field.name) for field in fields(Experiment)}
        for key in ("name", "batch_size", "seed"):
            del settings[key]
        return grid(name, batch_sizes, seeds, **{key: value for key, value in settings.items() if value != "by-name"})

    def run(self, experiments: list[Experiment], **how) -> None:
        """Train what is not recorded."""
        from batchscale import sweeps

        places = {name: getattr(self, name) for name in ("data_dir", "data_root", "scratch_dir")}
        choices = {name: getattr(self, name) for name in ("when_locked", "on_out_of_memory", "save_seconds")}
        sweeps.run(experiments, **how, **places, **choices)


@dataclass(frozen=True, kw_only=True)
class Train(Settings):
    """Train one experiment, or go on with it, and record it."""

    def __call__(self) -> None:
        self.run(self.experiments(self.name, (self.batch_size,), (self.seed,)))


@dataclass(frozen=True, kw_only=True)
class Sweep(Settings):
    """Train every batch size of every mode and seed that is not recorded yet."""

    names: tuple[str, ...] = tuple(MODES)
    """modes of training, or names of your own"""
    small: tuple[int, ...] = SMALL_BATCH_SIZES
    """batch sizes of baseline_small"""
    large: tuple[int, ...] = LARGE_BATCH_SIZES
    """batch sizes of every other name"""
    seeds: tuple[int, ...] = (0,)
    """all runs of the first seed, then of the next"""
    workers: int = 1
    """processes that train at the same time, the cores shared out among them"""
    shard: str | None = None
    """i/n: only the i-th of n parts, from 1/n to n/n, which together are exactly the sweep; for array jobs"""
    engine: Literal["processes", "ray"] = "processes"
    """processes of this machine, or the machines of a Ray cluster (pip install "batchscale[ray]")"""
    gpus_per_run: float = 0
    """with ray: GPUs that are reserved for a run; 0.5: two runs share one, 0: a run sees none"""
    cores_per_run: int = 1
    """with ray: cores that are reserved for a run, and threads it computes with"""
    ray_address: str | None = None
    """of the cluster; None: RAY_ADDRESS, or the cluster this machine belongs to, or one of this machine alone"""
    name: tyro.conf.Suppress[str] = ""
    batch_size: tyro.conf.Suppress[int] = 0
    seed: tyro.conf.Suppress[int] = 0

    def __call__(self) -> None:
        sizes = {name: self.small if name == "baseline_small" else self.large for name in self.names}
        experiments = [
            experiment
            for seed in self.seeds
            for name in self.names
            for experiment in self.experiments(name, sizes[name], (seed,))
        ]
        if self.shard is not None:
            from batchscale.sweeps import shard

            experiments = shard(experiments, self.shard)
        how = ("workers", "engine", "gpus_per_run", "cores_per_run", "ray_address")
        self.run(experiments, **{name: getattr(self, name) for name in how})


@dataclass(frozen=True, kw_only=True)
class Study:
    """Execute the study's notebooks; whatever is not given is as they have it."""

    out: str
    """folder of the executed notebooks, the records and the figures"""
    dataset: str | None = None
    data_root: str | None = None
    small: tuple[int, ...] | None = None
    """batch sizes of the small-minibatch notebook"""
    large: tuple[int, ...] | None = None
    """batch sizes of the three large-minibatch notebooks"""
    seeds: tuple[int, ...] | None = None
    epochs: int | None = None
    base_lr: float | None = None
    reference_batch_size: int | None = None
    warmup_epochs: float | None = None
    train_size: int | None = None
    width: float | None = None
    workers: int | None = None

    def __call__(self) -> None:
        from batchscale.sweeps import notebooks

        given = {name: value for name, value in vars(self).items() if value is not None}
        out, small, large = given.pop("out"), given.pop("small", None), given.pop("large", None)
        if "data_root" in given:
            given["data_root"] = str(Path(self.data_root).expanduser().resolve())
        if "seeds" in given:
            given["seeds"] = list(self.seeds)
        notebooks.execute(out, given, small=small, large=large)


def _require_target(target: float | None) -> None:
    if target is not None and not 0 < target <= 1:
        raise UserError(f"target is {target}; it must be a fraction, above 0 and at most 1")


def _require_folder(data_dir: str) -> None:
    if not Path(data_dir).expanduser().is_dir():
        raise UserError(f"there is no folder {data_dir}; name the one that holds the CSVs")


def _show(result: dict, text: Callable[..., str] | None) -> None:
    """Print a result in words that fit the terminal, or as one JSON object."""
    if text is not None:
        print(text(result, width=min(shutil.get_terminal_size().columns, 100)))
    else:
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))


@dataclass(frozen=True, kw_only=True)
class Analyse:
    """Say what the records of a folder show: threshold, breaking points, critical batch sizes, effects."""

    data_dir: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """folder of the records"""
    json: bool = False
    """one JSON object in place of text, with the same numbers and more"""
    tolerance: float = 0.01
    """loss of accuracy, in 0-1, that still counts as keeping it"""
    threshold: Literal["best", "mean"] = "best"
    """of the small batch sizes: the best one's accuracy, or the mean of all"""
    target: float | None = None
    """accuracy, in 0-1, for updates and time to target; None: the threshold"""

    def __call__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise UserError(f"tolerance is {self.tolerance}; it must be a fraction, from 0 to below 1")
        _require_target(self.target)
        _require_folder(self.data_dir)
        from batchscale import records
        from batchscale.analysis import findings

        result = findings.analyse(
            records.load(self.data_dir),
            tolerance=self.tolerance,
            target=self.target,
            of=self.threshold,
            diverged=records.diverged(self.data_dir),
        )
        _show(result, None if self.json else findings.text)


@dataclass(frozen=True, kw_only=True)
class Project:
    """Predict the time to target on more workers: how many still pay, for every mode and interconnect."""

    data_dir: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """folder of the records; a worker is what trained them"""
    json: bool = False
    """one JSON object in place of text, with the time for every batch size and number of workers"""
    figure: str | None = None
    """file of a figure to draw: .png, .svg or .pdf"""
    target: float | None = None
    """accuracy, in 0-1; None: the threshold"""
    latency: float | None = None
    """of an interconnect of your own, in microseconds a message; without this and bandwidth, an all-reduce between two
    processes here is measured in its place, with gloo"""
    bandwidth: float | None = None
    """of it, in Gbit/s, each way"""
    parameters: int | None = None
    """of the network, four bytes of gradient each; None: what the sidecars say"""

    def __call__(self) -> None:
        _require_target(self.target)
        if (self.latency is None) != (self.bandwidth is None):
            raise UserError("latency and bandwidth belong together; give both, or neither to have them measured")
        if self.latency is not None and not 0 <= self.latency < math.inf:
            raise UserError(f"latency is {self.latency}; it must be a number of microseconds, 0 or more")
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise UserError(f"bandwidth is {self.bandwidth}; it must be a number of Gbit/s, above 0")
        if self.parameters is not None and self.parameters < 1:
            raise UserError(f"parameters is {self.parameters}; it must be at least 1")
        _require_folder(self.data_dir)
        from batchscale import records
        from batchscale.analysis import projection

        table, said = records.load(self.data_dir), projection.of_sidecars(records.sidecars(self.data_dir))
        parameters = self.parameters or said["parameters"]
        result = projection.project(
            table,
            gradient_bytes=None if parameters is None else 4 * parameters,
            interconnects=({} if table.empty else self._interconnect()) | projection.INTERCONNECTS,
            target=self.target,
            diverged=records.diverged(self.data_dir),
            untimed=said["untimed"],
        )
        result["missing"] += said["remarks"]
        if self.figure is not None:
            self._draw(result)
        _show(result, None if self.json else projection.text)

    def _interconnect(self) -> dict:
        from batchscale.analysis.projection import Interconnect, fit_interconnect
        from batchscale.training import allreduce

        if self.latency is not None:
            return {"given": Interconnect(1e-6 * self.latency, 1e9 / 8 * self.bandwidth, "as given")}
        source = f"measured between {allreduce.WORKERS} processes here, with gloo"
        return {"here": fit_interconnect(allreduce.measure(), allreduce.WORKERS, source)}

    def _draw(self, result: dict) -> None:
        from matplotlib.figure import Figure

        from batchscale.analysis import plots

        modes = result["modes"] or {"": None}
        figure = Figure(figsize=(4.6 * len(modes), 4), layout="constrained")
        for ax, name in zip(figure.subplots(1, len(modes), squeeze=False).flat, modes, strict=True):
            plots.projection(ax, name, modes[name], result["modes"])
        try:
            figure.savefig(self.figure, dpi=150)
        except (OSError, ValueError) as error:  # ValueError: a format that matplotlib does not know
            raise UserError(f"{self.figure} cannot be written ({first_line(error)}); name another file") from error


@dataclass(frozen=True, kw_only=True)
class NoiseScale:
    """Measure the gradient noise scale, with its standard error, at the weights of a checkpoint."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """.ckpt of a run that is unfinished, or weights saved by torch.save(model.state_dict(), FILE)"""
    images: int | None = None
    """training images to use, the more the more precise; None: one in forty, as in every record"""
    data_root: str | None = None
    """folder of the images; None: BATCHSCALE_DATA_ROOT, or else datasets"""
    device: str = "auto"
    json: bool = False
    """one JSON object in place of text"""
    model: str | None = None
    """network of the weights; this, dataset and width are those of the run if there is one"""
    dataset: str | None = None
    width: float | None = None

    def __call__(self) -> None:
        from dataclasses import asdict, replace

        from batchscale import records
        from batchscale.training import datasets
        from batchscale.training.loop import Training

        experiment, state = records.read_checkpoint(self.checkpoint)
        given = {name: getattr(self, name) for name in ("model", "dataset", "width") if getattr(self, name) is not None}
        setting = replace(experiment or Experiment(batch_size=1), device=self.device, **given)
        training = Training(setting, datasets.load(setting.dataset, self.data_root))
        training.load_state_dict(state if experiment else {**training.state_dict(), "model": state})
        found = training.measure_noise_scale(self.images)
        if found is None:
            raise UserError(
                f"{len(training.data.train_images)} training images, or the room on {training.device}, do not suffice "
                f"for ten micro-batches of two"
            )
        if self.json:
            values = {"noise_scale": found.noise_scale, **asdict(found), "updates": training.updates}
            print(json.dumps({key: value if math.isfinite(value) else None for key, value in values.items()}, indent=2))
        elif found.is_measurable:
            print(f"gradient noise scale: {found.noise_scale:.1f} ± {found.standard_error:.1f} images, {found}")
        else:
            print(f"gradient noise scale: not measurable, the noise hides the gradient (take more --images), {found}")


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Analyse, tyro.conf.subcommand("analyse")]
    | Annotated[Project, tyro.conf.subcommand("project")]
    | Annotated[NoiseScale, tyro.conf.subcommand("noise-scale")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code: 0, 2 for what the user can mend (one line on standard error), 128 + signal.

    Of the processes that torchrun starts the first one does so, and the others do what it tells them.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sets it
        return _run(arguments)
    from batchscale.sweeps import torchrun

    return torchrun.lead(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        command = _parse(arguments)
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:  # sweep.Stopped, or a second Ctrl-C that would not wait
        print(interrupt if interrupt.args else "interrupted", file=sys.stderr)
        return getattr(interrupt, "exit_code", 130)
    return 0


def _parse(arguments: list[str]) -> Train | Sweep | Study | Analyse | Project | NoiseScale:
    # tyro explains a wrong flag in a box of several lines; here, as everywhere, an error is one line.
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(Command, prog="python -m batchscale", description=__doc__, args=arguments)
    except SystemExit as exit:
        if exit.code != 2:
            raise
        lines = re.sub(r"\x1b\[[0-9;]*m", "", message.getvalue()).splitlines()
        # A title, what is wrong, and then help, parted by rules; in a terminal in a frame, which holds the title.
        text = " ".join(line.strip("│ ") for line in lines if line[:1] not in ("╭", "╰"))
        parts = [" ".join(part.split()) for part in re.split(r"[─-]{10,}", text)]
        error = parts[0 if lines[0].startswith("╭") else 1].rstrip(".")
        raise UserError(f"{error}; see python -m batchscale --help") from None
