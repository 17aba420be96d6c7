"""Run the study's notebooks as they are, one after another, with other parameters.

    execute("runs/quick", {"dataset": "digits", "width": 0.25}, small=[8, 32], large=[128, 256])

They stay the main programs: what is given here replaces values of their `parameters` cells, nothing else.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchscale.errors import UserError
from batchscale.records.files import require_writable

TRAINING = (
    "baseline_small_minibatch",
    "baseline_large_minibatch",
    "scaled_lr_large_minibatch",
    "gradual_warmup_scaled_lr_large_minibatch",
)
RESULTS = "Results&Visualizations"


def execute(
    out: str | Path,
    parameters: dict,
    *,
    small: Sequence[int] | None = None,
    large: Sequence[int] | None = None,
    project: Path | None = None,
) -> None:
    """Execute the four training notebooks and the results notebook; records, figures and notebooks go to `out`.

    Args:
        out: folder; made if it is missing. Records in it are not trained again.
        parameters: values for the training notebooks' `parameters` cells; what is missing stays as it is there.
        small, large: batch sizes of the small-minibatch notebook and of the three others; None: as they have them.
        project: folder of the notebooks; None: the one that this package lies in.

    Raises:
        UserError: a cell failed (the notebook is kept in `out` as far as it came), or papermill is not installed.
        sweeps.Stopped: Ctrl-C or SIGTERM; everything is saved.
    """
    from batchscale.sweeps.sweep import Stopped

    try:
        import papermill
        from papermill.exceptions import PapermillExecutionError
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; run: pip install 'batchscale[notebooks]'") from error

    project = Path(__file__).parents[1] if project is None else project
    out = Path(out).expanduser().resolve()
    require_writable(out)
    for name in (*TRAINING, RESULTS):
        source, target = project / f"{name}.ipynb", out / f"{name}.ipynb"
        if not source.is_file():
            raise UserError(f"there is no {source}; start from a clone of the project")
        sizes = None if name == RESULTS else small if name == "baseline_small_minibatch" else large
        values = {"data_dir": str(out)} | ({} if name == RESULTS else parameters)
        print(f"{name}.ipynb", flush=True)
        with _signals_to_the_kernel() as signals:
            try:
                papermill.execute_notebook(
                    str(source),
                    str(target),
                    values if sizes is None else values | {"batch_sizes": list(sizes)},
                    cwd=str(project),
                    progress_bar=False,
                    stdout_file=sys.stdout,
                    stderr_file=sys.stderr,
                    extra_arguments=["--log-level=ERROR"],  # the kernel's own warnings are not about the study
                )
            except Exception as error:
                if signals:
                    raise Stopped(signals[0]) from None
                if isinstance(error, PapermillExecutionError):
                    raise UserError(f"{name}.ipynb: {error.ename}: {error.evalue}; see {target}") from error
                raise
    print(f"notebooks, records and figures are in {out}")


@contextlib.contextmanager
def _signals_to_the_kernel() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM become an interrupt of the cell that runs, and are yielded; a second one ends it all at once.

    Left alone, papermill gives a kernel five seconds, and the update of a large minibatch may take longer.
    """
    import psutil  # ipykernel needs it as well

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
