"""Paths as a user types them."""

import errno
import os
from pathlib import Path

from batchscale.errors import UserError


def typed(path: str | os.PathLike, field: str) -> Path:
    """The path that a user gave as `field`, with `~` replaced by the home folder. It need not exist.

    Raises:
        UserError: it is no path, no file can have this name, or there is no such home folder.
    """
    try:
        found = Path(path).expanduser()
        found.stat()
    except RuntimeError as error:
        home = Path(path).parts[0]
        raise UserError(
            f"{field} is {path}, but there is no home folder for {home}; write the whole path, or ./{home} for a "
            f"folder of that name"
        ) from error
    except (TypeError, ValueError) as error:  # ValueError: a NUL character, which no name can have
        raise UserError(f"{field} is {path!r}, which is no path ({error}); give a file or folder") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UserError(
                f"{field} is {path!s:.60} ..., which cannot be used ({error.strerror}); choose another"
            ) from error
    return found
