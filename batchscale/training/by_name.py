"""Objects that a setting names as `module:name`: a user's own networks and data sets."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from types import ModuleType

from batchscale.errors import UserError, failure
from batchscale.experiment import NETWORK


def find_callable(what: str, field: str) -> Callable:
    """Import a callable from `module:name` or `module:Class.method`, the value of the experiment's `field`.

    Raises:
        UserError: the module cannot be imported, it has no such callable, or the study's network was asked for and
            another one with its name was found.
    """
    module_name, _, attribute = what.partition(":")
    if not (module_name and attribute):
        raise UserError(f"{field} is {what!r}; it must have the form module:name, as in models:CNN")
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything, and only the user can fix it
        raise UserError(f"{field} is {what!r} but {_import_problem(module_name, error)}") from error
    module = found
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"{field} is {what!r} but {_file(module)} has no {attribute}; {_OTHER_FILE}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{field} is {what!r}, which is a {type(found).__name__} and cannot be called")
    if what == NETWORK:
        _require_the_study(found, module)
    return found


def parameters_named(found: Callable, what: str, field: str, *, with_keywords: str) -> set[str]:
    """Names of a callable's parameters; one with `**keywords` takes `with_keywords` too.

    Raises:
        UserError: it has no signature, naming the experiment's `field` and its value `what`.
    """
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"{field} is {what!r}, which has no signature: {error}") from error
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {*parameters, with_keywords} if is_open else set(parameters)


_OTHER_FILE = "name one that it has, or, if another file was meant, rename this one or start from another folder"


def _import_problem(module_name: str, error: BaseException) -> str:
    """Why a module cannot be imported, and what to do."""
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else None
    if missing is None:
        return f"importing it failed: {failure(error)}"
    if f"{module_name}.".startswith(f"{missing}."):
        return f"{missing} cannot be imported; start from the folder that holds {missing}.py, or add it to PYTHONPATH"
    return f"importing it needs {missing}, which is not installed; install {missing}: {failure(error)}"


def _file(module: ModuleType) -> str:
    """The file of a module, or the folder of a package without one."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), module.__name__)


def _require_the_study(network: Callable, module: ModuleType) -> None:
    """Refuse a stranger called `models:CNN`, as an import finds it where a folder holds another models.py."""
    try:
        parameters = inspect.signature(network).parameters.values()
    except (TypeError, ValueError):
        return
    open_ended = [each for each in parameters if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    needed = {each.name for each in parameters if each.default is each.empty and each not in open_ended}
    names = [each.name for each in parameters]
    if needed <= {"width", "in_channels", "num_classes"} and ("width" in names or open_ended):
        return
    raise UserError(
        f"model is {NETWORK!r}, the network of the study, but {_file(module)} was found, whose CNN takes "
        f"{', '.join(names) or 'nothing'}; rename that file or start from another folder, and to train its network, "
        f"give the new name and width 1"
    )
