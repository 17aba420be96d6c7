"""Execute the study's notebooks unchanged, one after another, with other parameters.

    execute("runs/quick", {"dataset": "digits", "width": 0.25}, small=[8, 32], large=[128, 256])

The notebooks remain the main programs: the given values replace those of their `parameters` cells, and nothing else.
"""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchscale import streams
from batchscale.errors import UserError
from batchscale.modes import MODES
from batchscale.paths import typed
from batchscale.records.files import require_writable
from batchscale.sweeps.signals import Stopped

TRAINING = tuple(mode.notebook for mode in MODES.values() if mode.notebook is not None)
RESULTS = "Results&Visualizations"
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
    with _importable(Path.cwd()):
        for mode in MODES.values():
            if mode.notebook is not None:
                sizes = small if mode.role == "reference" else large
                given = {} if sizes is None else {"batch_sizes": list(sizes)}
                _execute(mode.notebook, project, out, parameters | given)
        _execute(RESULTS, project, out, {})
    print(f"notebooks, records and figures are in {out}", file=streams.OUT)


def _execute(name: str, project: Path, out: Path, parameters: dict) -> None:
    try:
        import papermill
        from papermill.exceptions import PapermillExecutionError
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; run: pip install 'batchscale[notebooks]'") from error

    source, target = project / f"{name}.ipynb", out / f"{name}.ipynb"
    if not source.is_file():
        raise UserError(f"there is no {source}; run from a clone of the project")
    print(f"{name}.ipynb", file=streams.OUT, flush=True)
    with _signals_to_the_kernel() as signals:
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
        except Exception as error:
            if signals:
                raise Stopped(signals[0]) from None
            if isinstance(error, PapermillExecutionError):
                raise UserError(f"{name}.ipynb: {error.ename}: {error.evalue}; see {target}") from error
            raise


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Inside, the kernels import from this folder too, whose networks and data sets the parameters may name."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _signals_to_the_kernel() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into an interrupt of the running cell, and yield them; a second one ends everything.

    By default papermill gives the kernel five seconds, but one update of a large minibatch may take longer.
    """
    import psutil  # ipykernel requires it as well

    signals: list[int] = []

    def forward(number, frame):
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        for child in psutil.Process().children():
            child.send_signal(signal.SIGINT)

    numbers = (signal.SIGINT, signal.SIGTERM) if os.name == "posix" else ()  # Windows cannot interrupt a process
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
