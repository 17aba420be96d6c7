"""Execute the study's notebooks unchanged, one after another, with other parameters.

    execute("runs/quick", {"dataset": "digits", "width": 0.25}, small=[8, 32], large=[128, 256])

The notebooks remain the main programs: the given values replace those of their `parameters` cells, and nothing else.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.std import tqdm

from batchscale import streams
from batchscale.errors import UserError
from batchscale.experiment import LARGE_BATCH_SIZES, SMALL_BATCH_SIZES, Experiment
from batchscale.modes import MODES
from batchscale.paths import typed
from batchscale.records.files import require_writable
from batchscale.sweeps.processes import cores
from batchscale.sweeps.signals import Stopped

TRAINING = tuple(mode.notebook for mode in MODES.values() if mode.notebook is not None)
RESULTS = "Results&Visualizations"
_EPOCHS = "{n_fmt} epochs recorded, {elapsed}"
FINDING = "find_your_batch_size"  # for networks and data of the user's own; no part of the study


def execute(
    out: str | Path,
    parameters: dict,
    *,
    small: Sequence[int] | None = None,
    large: Sequence[int] | None = None,
    project: Path | None = None,
) -> None:
    """Execute the training notebooks and the results notebook; records, figures and notebooks go to `out`.

    With several workers, notebooks run side by side, each with its share of the workers and of the cores: their kernels
    start, train and draw at the same time. Where a batch size of one notebook may be a run of another's, as at the
    reference batch size, they run one after another, so that it is trained once.

    Args:
        out: folder, created if it is missing. Runs recorded in it are not trained again.
        parameters: values for the `parameters` cells of the training notebooks; the other parameters keep theirs.
        small, large: batch sizes of the reference's notebook and of the others; None keeps those of the notebook.
        project: folder of the notebooks; None is the folder that contains this package.

    Raises:
        UserError: a cell failed (the notebook is saved in `out` up to that cell), or papermill is not installed.
        Stopped: Ctrl-C or SIGTERM arrived, and everything is saved.
    """
    project = Path(__file__).parents[2] if project is None else project
    out = typed(out, "out").resolve()
    require_writable(out)
    training = [mode for mode in MODES.values() if mode.notebook is not None]
    at_once = _at_once(parameters, small, large, len(training))
    shared = parameters | ({"workers": parameters["workers"] // at_once} if at_once > 1 else {})
    sizes = {mode.notebook: small if mode.role == "reference" else large for mode in training}
    asked = {name: {} if of is None else {"batch_sizes": list(of)} for name, of in sizes.items()}
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))}
    if at_once > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, cores() // at_once))
    with _signals_to_the_kernels() as signals:
        try:
            with _environment(environment):
                with _epochs_shown(out):
                    _all(at_once, [(name, project, out, shared | given) for name, given in asked.items()], signals)
                _all(1, [(RESULTS, project, out, {})], signals)
        except Exception:
            if not signals:
                raise
    if signals:
        raise Stopped(signals[0])
    print(f"notebooks, records and figures are in {out}", file=streams.OUT, flush=True)


def _at_once(parameters: dict, small: Sequence[int] | None, large: Sequence[int] | None, notebooks: int) -> int:
    """How many notebooks run side by side."""
    reference = parameters.get("reference_batch_size", Experiment.reference_batch_size)
    theirs = large or LARGE_BATCH_SIZES
    if min(theirs) <= max(reference, *(small or SMALL_BATCH_SIZES)):
        return 1
    return max(1, min(parameters.get("workers", 1), notebooks))


def _all(at_once: int, calls: Sequence[tuple], signals: Sequence[int]) -> None:
    """Execute notebooks, so many at once; after one has failed, or a signal has arrived, no other is begun."""
    is_over = threading.Event()

    def one(call: tuple) -> None:
        if is_over.is_set() or signals:
            return
        try:
            _execute(*call)
        except BaseException:
            is_over.set()  # before this thread takes the next notebook
            raise

    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(one, call) for call in calls]
    for future in futures:
        future.result()


def _execute(name: str, project: Path, out: Path, parameters: dict) -> None:
    try:
        import papermill
        from jupyter_core.utils import ensure_event_loop
        from papermill.exceptions import PapermillExecutionError
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; run: pip install 'batchscale[notebooks]'") from error

    source, target = project / f"{name}.ipynb", out / f"{name}.ipynb"
    if not source.is_file():
        raise UserError(f"there is no {source}; run from a clone of the project")
    print(f"{name}.ipynb", file=streams.OUT, flush=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            {"data_dir": str(out)} | parameters,
            cwd=str(project),
            progress_bar=False,
            stdout_file=streams.OUT,
            stderr_file=streams.ERR,
            extra_arguments=["--log-level=ERROR"],  # the kernel's own warnings do not concern the study
        )
    except PapermillExecutionError as error:
        raise UserError(f"{name}.ipynb: {error.ename}: {error.evalue}; see {target}") from error
    finally:
        ensure_event_loop().close()  # that which papermill leaves in this thread
    print(f"{name}.ipynb is executed: {target}, figures in {out / 'figures'}", file=streams.OUT, flush=True)


@contextlib.contextmanager
def _epochs_shown(out: Path) -> Iterator[None]:
    """Inside, a terminal shows how many epochs are recorded: papermill shows a run only once it has ended."""
    is_over = threading.Event()

    def show() -> None:
        with tqdm(bar_format=_EPOCHS, leave=False, file=streams.ERR) as bar:
            while not is_over.wait(0.5):
                bar.n = sum(max(0, len(path.read_bytes().splitlines()) - 1) for path in out.glob("*_bs*_seed*.csv"))
                bar.refresh()

    if not streams.ERR.isatty():
        yield
        return
    shown = threading.Thread(target=show, daemon=True)
    shown.start()
    try:
        yield
    finally:
        is_over.set()
        shown.join()


@contextlib.contextmanager
def _environment(changed: dict[str, str]) -> Iterator[None]:
    """Inside, kernels start with these variables."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _signals_to_the_kernels() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into an interrupt of the running cells, and yield them; a second one ends everything.

    By default papermill gives the kernel five seconds, but one update of a large minibatch may take longer.
    """
    import psutil  # ipykernel requires it as well

    signals: list[int] = []

    def forward(number, frame):
        for child in psutil.Process().children():
            child.send_signal(signal.SIGKILL if signals else signal.SIGINT)
        if signals:
            raise KeyboardInterrupt
        signals.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if os.name == "posix" else ()  # Windows cannot interrupt a process
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
