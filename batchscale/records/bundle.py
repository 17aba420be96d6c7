"""Records, tables and figures of a study in one file, to be downloaded or sent."""

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from batchscale import streams
from batchscale.paths import typed
from batchscale.records.files import SaveError, require_writable, scratch_of, write_whole

if TYPE_CHECKING:
    import pandas as pd

NAME = "results.zip"
_PARTS = ("*.csv", "*.json", "figures/*.png", "figures/*.svg")
_WHEN = (1980, 1, 1, 0, 0, 0)  # of every file in it: the same results give the same bytes


def save(data_dir: str | os.PathLike, tables: Mapping[str, "pd.DataFrame"]) -> Path | None:
    """Write `results.zip` into the folder of the records, in place of an earlier one.

    It holds the CSVs and sidecars of the folder, its `figures/`, and the tables as `tables/{name}.csv`.

    Returns:
        The file; None where it cannot be written, which one printed line says.
    """
    folder, content = typed(data_dir, "data_dir"), io.BytesIO()
    files = {path.relative_to(folder).as_posix(): path for part in _PARTS for path in sorted(folder.glob(part))}
    with zipfile.ZipFile(content, "w") as archive:
        for name, path in files.items():
            _add(archive, name, path.read_bytes())
        for name, table in tables.items():
            _add(archive, f"tables/{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    try:
        scratch_of(folder, None)  # raises where Google Drive is gone: its folder must not become a local one
        require_writable(folder)
        write_whole(folder / NAME, content.getbuffer())
    except SaveError as error:
        print(f"{NAME} not saved, {error}", file=streams.OUT)
        return None
    return folder / NAME


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _WHEN), content, zipfile.ZIP_DEFLATED)
