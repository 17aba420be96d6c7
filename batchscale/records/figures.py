"""Figures beside the records that they show."""

import io
import os
from typing import TYPE_CHECKING

from batchscale import streams
from batchscale.paths import typed
from batchscale.records.files import SaveError, require_writable, scratch_of, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: "Figure", data_dir: str | os.PathLike, name: str) -> None:
    """Write a figure to `figures/` in the folder of the records, as PNG for a screen and as SVG for a page.

    A figure can always be drawn again. Where it cannot be written, one printed line says so, and nothing else happens:
    the notebook that shows it goes on.
    """
    folder = typed(data_dir, "data_dir") / "figures"
    try:
        scratch_of(folder, None)  # raises where Google Drive is gone: its folder must not become a local one
        require_writable(folder)
        for ending in ("png", "svg"):
            content = io.BytesIO()
            figure.savefig(content, format=ending, dpi=150, bbox_inches="tight")
            write_whole(folder / f"{name}.{ending}", content.getbuffer())
    except SaveError as error:
        print(f"{name}: figure not saved, {error}", file=streams.OUT)
