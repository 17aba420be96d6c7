"""How large can a minibatch get before it stops paying? Train, sweep and analyse.

    python -m batchscale train --dataset digits --batch-size 32 --keep-state
    python -m batchscale train --name gradual_warmup_scaled_lr --batch-size 1024 --data-root datasets
    python -m batchscale sweep --dataset digits --small 8 32 --large 128 512 --seeds 0 1 --workers 2
    python -m batchscale find --dataset digits --names scaled_lr --hours 0.05
    python -m batchscale study --out runs/study --dataset digits --small 8 32 --large 128 256 --seeds 0 1
    python -m batchscale import data/constant_rate --to runs/imported --dry-run
    python -m batchscale analyse data
    python -m batchscale explore data -o explorer.html
    python -m batchscale project data --latency 30 --bandwidth 25 --figure projection.png
    python -m batchscale noise-scale runs/digits/baseline_small_bs32_seed0.final.ckpt

Runs that are recorded already are not trained again, and interrupted ones go on where they stopped.
"""

import contextlib
import functools
import io
import json
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from batchscale import streams
from batchscale.errors import UserError, first_line
from batchscale.experiment import DECAY, LARGE_BATCH_SIZES, SEEDS, SMALL_BATCH_SIZES, Augment, Experiment
from batchscale.modes import MODES, REFERENCE
from batchscale.paths import typed
from batchscale.schedules import Decay, LRScaling, Warmup

Folder = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True, kw_only=True)
class Flags(Experiment):
    """The fields of an `Experiment` as flags, and where and how it trains."""

    lr_scaling: Literal["by-name", "none", "linear", "sqrt"] = "by-name"
    """rate at larger batch sizes: base_lr (none), k or sqrt(k) times it (linear, sqrt); by-name: as --name has it"""
    warmup: Literal["by-name", "none", "constant", "gradual"] = "by-name"
    """way to the scaled rate: at once (none), after warmup_epochs (constant), a ramp (gradual); by-name: as --name"""
    decay: Decay = DECAY
    """how the rate falls after the warm-up: not at all (none), to 0 (linear, cosine), or by ten in steps (step)"""
    data_dir: str | None = None
    """folder of the records; None: runs/ and the name of the data set (data/ holds the recorded study)"""
    data_root: str | None = None
    """folder of the images; None: BATCHSCALE_DATA_ROOT if it is set, or else datasets"""
    scratch_dir: str | None = None
    """write here first and copy to data_dir in the background; for a data_dir that is slow or may vanish"""
    when_locked: Literal["wait", "leave"] = "wait"
    """if another process is training a run: wait for it, or leave it and say who has it"""
    on_out_of_memory: Literal["split", "stop"] = "split"
    """if a minibatch does not fit: split it into micro-batches, or stop and name the largest that fits"""
    save_seconds: float = 180
    """seconds between checkpoints within an epoch"""
    keep_state: bool = False
    """keep the last state of a run that completes, for noise-scale; with decay none, more epochs can be added to it"""
    keep_weights: bool = False
    """keep the final weights of each run, four bytes per parameter, to see what it gets wrong"""
    noise_scale: bool = True
    """measure the gradient noise scale after each epoch; it needs memory for two more gradients"""

    def __post_init__(self):
        """Validated when it becomes an `Experiment`, so that every error has one form."""

    def experiments(self, name: str, batch_sizes: tuple[int, ...], seeds: tuple[int, ...]) -> list[Experiment]:
        """The grid of one mode with the settings that were given."""
        from batchscale.sweeps import grid

        return grid(name, batch_sizes, seeds, **self.settings())

    def settings(self) -> dict:
        """The fields of an experiment that were given, without those that tell one run of a grid from another."""
        given = {field.name: getattr(self, field.name) for field in fields(Experiment)}
        return {
            key: value
            for key, value in given.items()
            if key not in ("name", "batch_size", "seed") and value != "by-name"
        }

    def run(self, experiments: list[Experiment], **how) -> None:
        """Train what is not recorded."""
        from batchscale import sweeps

        sweeps.run(experiments, **how, **self.places())

    def places(self) -> dict:
        """The options that every command that trains has."""
        where = ("data_root", "scratch_dir", "when_locked")
        names = (*where, "on_out_of_memory", "save_seconds", "keep_state", "keep_weights", "noise_scale")
        folder = self.data_dir or Path("runs") / re.sub(r"[^A-Za-z0-9_.-]", "-", self.dataset)
        return {"data_dir": folder} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Train(Flags):
    """Train one experiment, or continue it, and record it."""

    def __call__(self) -> None:
        self.run(self.experiments(self.name, (self.batch_size,), (self.seed,)))


@dataclass(frozen=True, kw_only=True)
class ManyRuns(Flags):
    """How many runs are trained at the same time, and by what."""

    workers: int = 1
    """runs to train at the same time, each in a process of its own; on a CPU, use one per core"""
    engine: Literal["processes", "ray"] = "processes"
    """processes of this machine, or the machines of a Ray cluster (pip install "batchscale[ray]")"""
    gpus_per_run: float = 0
    """with ray: GPUs reserved for each run. With 0.5 two runs share one, with 0 a run sees none"""
    cores_per_run: int = 1
    """with ray: cores reserved for each run, and its number of threads"""
    ray_address: str | None = None
    """address of the Ray cluster; None: RAY_ADDRESS, this machine's cluster, or this machine alone"""
    name: tyro.conf.Suppress[str] = ""
    batch_size: tyro.conf.Suppress[int] = 0
    seed: tyro.conf.Suppress[int] = 0

    def engines(self) -> dict:
        """The options that every command that trains many runs has."""
        names = ("workers", "engine", "gpus_per_run", "cores_per_run", "ray_address")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Sweep(ManyRuns):
    """Train every batch size of every mode and seed that is not recorded yet. By default this is the whole study."""

    names: tuple[str, ...] = tuple(MODES)
    """modes of training: the study's, or names of your own"""
    small: tuple[int, ...] = SMALL_BATCH_SIZES
    """batch sizes of baseline_small; they may overlap those of the other modes"""
    large: tuple[int, ...] = LARGE_BATCH_SIZES
    """batch sizes of every other mode; a run that trains as baseline_small does is trained once, as baseline_small"""
    seeds: tuple[int, ...] = SEEDS
    """all runs of the first seed come first, then those of the next"""
    shard: str | None = None
    """i/n: train only the i-th of n parts, 1/n to n/n, which together are exactly the sweep; for array jobs"""

    def __call__(self) -> None:
        sizes = {name: self.small if name == REFERENCE.name else self.large for name in self.names}
        experiments = [
            experiment
            for seed in self.seeds
            for name in self.names
            for experiment in self.experiments(name, sizes[name], (seed,))
        ]
        if self.shard is not None:
            from batchscale.sweeps import shard

            experiments = shard(experiments, self.shard)
        self.run(experiments, **self.engines())


@dataclass(frozen=True, kw_only=True)
class Find(ManyRuns):
    """Find the breaking points in accuracy within a budget, by the runs that are expected to say most per second."""

    hours: float | None = None
    """budget in hours; what is unfinished by then is saved and goes on when more hours are given"""
    within: float | None = None
    """stop once the 95 % interval of every mode is this narrow, high / low; at least one of the two is needed"""
    names: tuple[str, ...] = tuple(name for name, mode in MODES.items() if mode.role == "compared")
    """modes whose breaking points are wanted: the study's, or names of your own with --lr-scaling and --warmup"""
    small: tuple[int, ...] = SMALL_BATCH_SIZES
    """batch sizes of the reference, baseline_small"""
    largest: int | None = None
    """largest batch size to try; None: 8192, or the largest power of two that leaves an epoch four updates"""
    tolerance: float = 0.01
    """loss of accuracy, 0-1, that still counts as keeping it"""
    stop_lost: bool = False
    """stop runs that, at half of their epochs or later, clearly cannot come near the threshold any more"""

    def __call__(self) -> None:
        from batchscale import sweeps

        asked = ("hours", "within", "names", "small", "largest", "tolerance", "stop_lost")
        given = {name: getattr(self, name) for name in asked}
        sweeps.find(self.settings(), **given, **self.engines(), **self.places())


@dataclass(frozen=True, kw_only=True)
class Study:
    """Execute the study's notebooks. Omitted settings keep the values that the notebooks have."""

    out: str
    """folder of the executed notebooks, the records and the figures"""
    dataset: str | None = None
    data_root: str | None = None
    train_size: int | None = None
    model: str | None = None
    """module:callable that builds the network; give --width as well if it takes one"""
    width: float | None = None
    small: tuple[int, ...] | None = None
    """batch sizes of the small-minibatch notebook"""
    large: tuple[int, ...] | None = None
    """batch sizes of the three large-minibatch notebooks"""
    seeds: tuple[int, ...] | None = None
    epochs: int | None = None
    optimizer: str | None = None
    """sgd, nesterov, adamw, or module:callable; large batches keep the linear rule of the notebooks"""
    momentum: float | None = None
    """momentum of SGD; β₁ of AdamW"""
    weight_decay: float | None = None
    augment: Augment | None = None
    """random changes of training images"""
    base_lr: float | None = None
    reference_batch_size: int | None = None
    warmup_epochs: float | None = None
    decay: Decay | None = None
    """how the rate falls after the warm-up; the notebooks show every schedule before they train"""
    workers: int | None = None

    def __call__(self) -> None:
        from batchscale.sweeps import notebooks

        given = {name: value for name, value in vars(self).items() if value is not None}
        out, small, large = given.pop("out"), given.pop("small", None), given.pop("large", None)
        if "data_root" in given:
            given["data_root"] = str(typed(self.data_root, "data_root").resolve())
        if "seeds" in given:
            given["seeds"] = list(self.seeds)
        if "model" in given:
            given.setdefault("width", None)  # that of the notebooks is of the study's network
        notebooks.execute(out, given, small=small, large=large)
        Analyse(data_dir=out)()


@dataclass(frozen=True, kw_only=True)
class Records:
    """The records that a command reads."""

    data_dir: Folder
    """folder of the records"""
    where: tuple[str, ...] = ()
    """settings of the runs to use, as in width=0.25; default: the largest group of runs with the same settings"""
    target: float | None = None
    """accuracy, 0-1, that updates and time count to; None: the highest that enough sizes of every mode reach"""

    def study(self):
        """The records, validated and chosen."""
        from batchscale.records import Study
        from batchscale.records.tables import require_folder

        require_folder(self.data_dir)
        settings = {}
        for each in self.where:
            field, equals, value = each.partition("=")
            if not (field and equals):
                raise UserError(f"where is {each!r}; it must have the form setting=value, as in width=0.25")
            settings[field.replace("-", "_")] = value
        study = Study.load(self.data_dir).where(**settings)
        goals = set(study.goals["target"])  # may be losses
        if self.target is not None and not 0 < self.target <= 1 and self.target not in goals:
            raise UserError(f"target is {self.target}; it must be a fraction, above 0 and at most 1")
        return study


@dataclass(frozen=True, kw_only=True)
class Judged(Records):
    """How the records are judged."""

    reference: tuple[str, ...] = ()
    """modes whose accuracy is to be kept; default: baseline_small, or the mode with the smallest batch size"""
    threshold: str = "best"
    """accuracy to keep: best or mean of the reference's batch sizes, less the tolerance, or a number such as 0.76"""
    tolerance: float = 0.01
    """loss of accuracy, 0-1, that still counts as keeping it"""
    final_epochs: int = 1
    """the final accuracy of a run is the mean over so many of its last epochs"""

    def options(self) -> dict:
        """Arguments of `findings.analyse`, validated."""
        if not 0 <= self.tolerance < 1:
            raise UserError(f"tolerance is {self.tolerance}; it must be a fraction, from 0 to below 1")
        try:
            threshold = float(self.threshold)
        except ValueError:
            threshold = self.threshold
        names = ("reference", "tolerance", "target", "final_epochs")
        return {name: getattr(self, name) for name in names} | {"threshold": threshold}


@dataclass(frozen=True, kw_only=True)
class Analyse(Judged):
    """Say what the records of a folder show: threshold, breaking points, critical batch sizes, effects.

    Runs at other learning rates in its subfolder landscape show which rate is best at each batch size.
    """

    compare: tuple[str, ...] = ()
    """two modes whose difference in accuracy is wanted, at equal batch sizes and seeds; or several pairs"""
    json: bool = False
    """print one JSON object, with the same numbers and more"""

    def __call__(self) -> None:
        options = self.options()
        if len(self.compare) % 2:
            raise UserError(f"compare names {len(self.compare)} modes, {' '.join(self.compare)}; give pairs of two")
        study = self.study()
        from batchscale.analysis import findings, json_object, terminal
        from batchscale.records.study import LANDSCAPE, Study

        rates = Study.load(typed(self.data_dir, "data_dir") / LANDSCAPE)
        pairs = list(zip(self.compare[::2], self.compare[1::2], strict=True))
        found = findings.analyse(study, compare=pairs, rates=rates, **options)
        _answer(_json(json_object.json_object(found)) if self.json else terminal.text(found, width=_width()))


@dataclass(frozen=True, kw_only=True)
class Explore(Judged):
    """Write one HTML file in which to look at every run, with the breaking points at every tolerance and target."""

    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "explorer.html"
    """file to write, in place of what is there"""

    def __call__(self) -> None:
        options = self.options()
        study = self.study()
        from tqdm import tqdm

        from batchscale import explorer

        progress = functools.partial(tqdm, desc="verdicts", unit="target", delay=3, leave=False, file=streams.ERR)
        file = explorer.write(study, self.output, progress=progress, **options)
        size = file.stat().st_size / 1e6
        print(f"{len(study.runs)} runs in {file} ({size:.1f} MB); open it in any browser", file=streams.OUT)


@dataclass(frozen=True, kw_only=True)
class Project(Records):
    """Predict the time to target on more workers: how many still pay, for every mode and interconnect."""

    figure: str | None = None
    """file of a figure to draw: .png, .svg or .pdf"""
    latency: float | None = None
    """of your own interconnect, in microseconds per message; without it, an all-reduce is measured here"""
    bandwidth: float | None = None
    """bandwidth of your own interconnect, in Gbit/s in each direction"""
    parameters: int | None = None
    """parameters of the network, four bytes of gradient each; None means what the sidecars say"""
    json: bool = False
    """print one JSON object, with the same numbers and more"""

    def __call__(self) -> None:
        if (self.latency is None) != (self.bandwidth is None):
            raise UserError("latency and bandwidth belong together; give both, or neither to have them measured")
        if self.latency is not None and not 0 <= self.latency < math.inf:
            raise UserError(f"latency is {self.latency}; it must be a number of microseconds, 0 or more")
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise UserError(f"bandwidth is {self.bandwidth}; it must be a number of Gbit/s, above 0")
        if self.parameters is not None and self.parameters < 1:
            raise UserError(f"parameters is {self.parameters}; it must be at least 1")
        study = self.study()
        from batchscale.analysis import json_object, projection, terminal

        links = ({} if study.runs.empty else self._interconnect()) | projection.INTERCONNECTS
        found = projection.project(study, parameters=self.parameters, interconnects=links, target=self.target)
        if self.figure is not None:
            self._draw(found)
        _answer(_json(json_object.projection_object(found)) if self.json else terminal.projection_text(found, _width()))

    def _interconnect(self) -> dict:
        from batchscale.analysis.projection import Interconnect, fit_interconnect
        from batchscale.training import allreduce

        if self.latency is not None:
            return {"given": Interconnect(1e-6 * self.latency, 1e9 / 8 * self.bandwidth, "as given")}
        source = f"measured between {allreduce.WORKERS} processes here, with gloo"
        return {"here": fit_interconnect(allreduce.measure(), allreduce.WORKERS, source)}

    def _draw(self, found) -> None:
        from matplotlib.figure import Figure

        from batchscale.analysis import plots

        modes = list(found.modes.values()) or [None]
        figure = Figure(figsize=(4.6 * len(modes), 4), layout="constrained")
        for ax, mode in zip(figure.subplots(1, len(modes), squeeze=False).flat, modes, strict=True):
            plots.projection(ax, mode, found.modes)
        path = typed(self.figure, "figure")
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:  # ValueError: a format that matplotlib does not know
            raise UserError(f"{self.figure} cannot be written ({first_line(error)}); name another file") from error


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make records of other tools' logs: tables, trainer_state.json, TensorBoard's events. Nothing is overwritten."""

    sources: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="SOURCE [SOURCE ...]", help_behavior_hint="(required)"),
    ]
    """files, or folders to search for metrics.csv, trainer_state.json and events.out.tfevents.*"""
    to: str
    """folder of the records, to be given to analyse"""
    name: str | None = None
    """of the mode that the runs belong to; None: the column experiment"""
    columns: tuple[str, ...] = ()
    """ours=theirs, as in accuracy=val_acc,epoch=step; error=COLUMN is 1 - accuracy; updates= leaves one out"""
    batch_size: str | None = None
    """a number, a column, or a pattern of the path as in bs{}; None: what the log or its path says"""
    seed: str | None = None
    """a number, a column, or a pattern of the path as in seed{}; None: as for batch_size, or else numbered"""
    percent: bool = False
    """accuracies are in percent; where one is above 1, they are taken to be"""
    dry_run: bool = False
    """show what was understood and would be written, and write nothing"""

    def __call__(self) -> None:
        from batchscale.records import imports

        columns = {}
        for each in (part for parts in self.columns for part in parts.split(",")):
            ours, equals, theirs = each.partition("=")
            if not equals:
                raise UserError(f"columns has {each!r}; it must have the form ours=theirs, as in accuracy=val_acc")
            columns[ours.strip()] = theirs.strip()
        choices = imports.Choices(
            name=self.name, columns=columns, batch_size=self.batch_size, seed=self.seed, is_percent=self.percent
        )
        planned = imports.plan([typed(source, "source") for source in self.sources], choices)
        print(planned, file=streams.OUT, flush=True)
        folder = typed(self.to, "to")
        imports.refuse_existing(planned.contents, folder)
        if not self.dry_run:
            imports.write(planned.contents, folder)
            files = f"{len(planned.runs)} record{'s' * (len(planned.runs) > 1)}"
            print(f"{files} written to {folder}; now: python -m batchscale analyse {folder}", file=streams.OUT)


@dataclass(frozen=True, kw_only=True)
class NoiseScale:
    """Measure the gradient noise scale, with its standard error, at the weights of a checkpoint."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """.ckpt of a run, or weights saved by torch.save(model.state_dict(), FILE)"""
    images: int | None = None
    """training images to use; more images give a more precise estimate; None: one in forty, as in every record"""
    data_root: str | None = None
    """folder of the images; None: BATCHSCALE_DATA_ROOT if it is set, or else datasets"""
    device: str = "auto"
    json: bool = False
    """print one JSON object"""
    model: str | None = None
    """network of the weights; None means that of the run, or the study's. The same holds for dataset and width"""
    dataset: str | None = None
    width: float | None = None

    def __call__(self) -> None:
        from dataclasses import asdict, replace

        from batchscale.records.checkpoint import read_checkpoint
        from batchscale.training import datasets
        from batchscale.training.loop import Training

        experiment, state = read_checkpoint(self.checkpoint)
        given = {name: getattr(self, name) for name in ("model", "dataset", "width") if getattr(self, name) is not None}
        given["device"] = self.device
        setting = replace(experiment, **given) if experiment else Experiment(batch_size=1, **given)
        training = Training(setting, datasets.load(setting.dataset, self.data_root))
        training.load_state_dict(state if experiment else {**training.state_dict(), "model": state})
        found = training.measure_noise_scale(self.images, with_standard_error=True)
        if found is None:
            raise UserError(
                f"{len(training.data.train_images)} training images, or the room on {training.device}, do not suffice "
                f"for ten micro-batches of two"
            )
        if self.json:
            values = {"noise_scale": found.noise_scale, **asdict(found), "updates": training.updates}
            _answer(_json({key: value if math.isfinite(value) else None for key, value in values.items()}))
        elif found.is_measurable:
            _answer(f"gradient noise scale: {found.noise_scale:.1f} ± {found.standard_error:.1f} images, {found}")
        else:
            _answer(f"gradient noise scale: not measurable, the noise hides the gradient (use more --images), {found}")


@dataclass(frozen=True, kw_only=True)
class Advise(Experiment):
    """Predict in minutes which batch size to take: throughput, branches from a few checkpoints, noise scale."""

    minutes: float = 10.0
    """what all of it may take"""
    lr_scaling: LRScaling = "linear"
    """rate at larger batch sizes that the advice is for; the other rules are tried too where the time allows"""
    warmup: Warmup = "gradual"
    """of the recommended training"""
    decay: Decay = DECAY
    """of the recommended training; the rate of a branch falls to 0 in any case"""
    data_dir: str | None = None
    """folder in which to keep advice.json, which find reads; None keeps nothing"""
    data_root: str | None = None
    """folder of the images; None: BATCHSCALE_DATA_ROOT if it is set, or else datasets"""
    json: bool = False
    """print one JSON object, with the same numbers and more"""
    name: tyro.conf.Suppress[str] = REFERENCE.name
    batch_size: tyro.conf.Suppress[int] = 1

    def __post_init__(self):
        """Validated when it becomes an `Experiment`, so that every error has one form."""

    def __call__(self) -> None:
        from batchscale.analysis import json_object, terminal
        from batchscale.sweeps import advise

        experiment = Experiment(**{field.name: getattr(self, field.name) for field in fields(Experiment)})
        found = advise(experiment, minutes=self.minutes, data_dir=self.data_dir, data_root=self.data_root)
        _answer(_json(json_object.advice_object(found)) if self.json else terminal.advice_text(found, _width()))


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Find, tyro.conf.subcommand("find")]
    | Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Advise, tyro.conf.subcommand("advise")]
    | Annotated[Analyse, tyro.conf.subcommand("analyse")]
    | Annotated[Explore, tyro.conf.subcommand("explore")]
    | Annotated[Project, tyro.conf.subcommand("project")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[NoiseScale, tyro.conf.subcommand("noise-scale")]
)


def _answer(text: str) -> None:
    """Print what a command was asked for; see `streams.answering`."""
    with streams.answering():
        print(text)


def _json(result: dict) -> str:
    """JSON for standard output. A character that it cannot show becomes an escape, so that it remains JSON."""
    dumps = functools.partial(json.dumps, result, indent=2, allow_nan=False)
    text = dumps(ensure_ascii=False)
    return text if streams.can_show(text) else dumps()


def _width() -> int:
    """Columns for text: the terminal's, but no more than can be read."""
    return min(shutil.get_terminal_size().columns, 100)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for what the user can mend (one line on standard error), or 128 + signal.

    Of the processes that torchrun starts, the first one does so and the others follow it.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    streams.prepare()
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sets it
        return _run(arguments)
    from batchscale.sweeps import torchrun

    return torchrun.lead(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        _parse(arguments)()
        return 0
    except UserError as error:
        print(f"error: {error}", file=streams.ERR)
        return 2
    except KeyboardInterrupt as interrupt:  # sweeps.Stopped, or a second Ctrl-C that would not wait
        print(interrupt if interrupt.args else "interrupted", file=streams.ERR)
        return getattr(interrupt, "exit_code", 130)
    except SystemExit as exit:  # --help, or nobody reads the answer any more
        return exit.code or 0
    finally:
        streams.finish()


def _parse(arguments: list[str]) -> Train | Sweep | Find | Study | Analyse | Explore | Project | Import | NoiseScale:
    # tyro explains a wrong flag in a box of several lines; here, as everywhere, an error is one line.
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message), streams.answering():
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
