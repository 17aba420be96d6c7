"""Objects that a setting names as `module:name`: a user's own networks and data sets."""

import importlib
from collections.abc import Callable

from batchscale.errors import UserError, failure


def find_callable(what: str, field: str) -> Callable:
    """Import a callable from `module:name` or `module:Class.method`, the value of the experiment's `field`.

    Raises:
        UserError: the module cannot be imported, or it has no such callable.
    """
    module_name, _, attribute = what.partition(":")
    if not (module_name and attribute):
        raise UserError(f"{field} is {what!r}; it must have the form module:name, as in models:CNN")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{field} is {what!r} but {error.name} cannot be imported; "
            f"start from the folder that holds {error.name}.py, or add it to PYTHONPATH"
        ) from error
    except Exception as error:  # the user's module may raise anything, and only the user can fix it
        raise UserError(f"{field} is {what!r} but importing it failed: {failure(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"{field} is {what!r} but {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{field} is {what!r}, which is a {type(found).__name__} and cannot be called")
    return found
