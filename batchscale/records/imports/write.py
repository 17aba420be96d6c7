"""The records of an import, written: all of them, or none where one is there already."""

from collections.abc import Mapping
from pathlib import Path

from batchscale.errors import UserError
from batchscale.records.files import is_there, require_writable, write_whole


def write(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write these files to a folder, which is made if it is missing. Nothing is overwritten.

    Raises:
        UserError: a file of one of these names is there already, and nothing was written; or the folder cannot be
            written.
    """
    refuse_existing(contents, folder)
    require_writable(folder)
    for name, content in contents.items():
        write_whole(folder / name, content)


def refuse_existing(names: Mapping[str, bytes], folder: Path) -> None:
    """Refuse to write where a file of one of these names is.

    Raises:
        UserError: there is one; the message names it.
    """
    there = [name for name in names if is_there(folder / name)]
    if there:
        others = f", and so are {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(
            f"{folder / there[0]} is there already{others}; nothing was written: choose another --to, --name or "
            f"--seed, or move it away"
        )
