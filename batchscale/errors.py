"""Errors that a user can mend, and other people's errors in one line. Imports nothing of the package."""

import textwrap
import traceback


class UserError(ValueError):
    """Something that the user can mend. The message is one line: what is wrong, where, both values, what to do."""

    def _render_traceback_(self) -> list[str]:
        # IPython shows these lines in place of a traceback.
        return [f"{type(self).__name__}: {self}"]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has no message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def failure(error: BaseException) -> str:
    """An error raised by somebody else's code in one line, with the file and line that raised it."""
    reason = textwrap.shorten((str(error) or "no message").splitlines()[0], 300, placeholder=" ...")
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {reason} ({place.filename}:{place.lineno})"
