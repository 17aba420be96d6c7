"""The shape of the package: arrows between rooms go down only, no circle, and light imports stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

PACKAGE = PROJECT / "batchscale"
FLAT = {"errors", "experiment", "epoch", "modes", "paths", "schedules", "streams"}
# What each room may import besides its own modules; a flat file is a room of its own.
BELOW = {
    "cli": {"sweeps", "training", "records", "analysis", "explorer", *FLAT},
    "sweeps": {"training", "records", "analysis", *FLAT},
    "training": FLAT,
    "records": FLAT,
    "analysis": {"records", *FLAT},
    "explorer": {"analysis", "records", *FLAT},
    "modes": {"experiment", "schedules", "errors"},
    "experiment": {"schedules", "errors"},
    "epoch": {"errors"},
    "schedules": {"errors"},
    "paths": {"errors"},
    "streams": {"errors"},
    "errors": set(),
    "__main__": {"cli"},
    "__init__": set(),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, also in functions; not those for type checkers alone."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "batchscale":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "batchscale"}
    return found - {"batchscale"}


def room(module: str) -> str:
    return module.split(".")[1]


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "batchscale.__init__"])
def test_arrows_go_down(name):
    ours = room(name)
    wrong = {other for other in IMPORTS[name] if room(other) != ours and room(other) not in BELOW[ours]}
    assert not wrong, f"{name} imports {sorted(wrong)}"


def test_analysis_reads_tables_and_writes_nothing():
    used = {
        other for name in MODULES if room(name) == "analysis" for other in IMPORTS[name] if room(other) == "records"
    }
    assert used == {"batchscale.records.study"}


def test_there_is_no_circle():
    """A module that only hands names on (the face of a room) stands for what it imports."""
    faces = {name for name in MODULES if MODULES[name].name == "__init__.py"}

    def below(name: str) -> set[str]:
        return {end for other in IMPORTS[name] for end in (below(other) if other in faces else {other})} - {name}

    left = {name: below(name) for name in MODULES if name not in faces}
    while free := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"a circle among {sorted(left)}"


def test_the_network_is_known_by_its_name_alone():
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert "models" not in names, name


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import batchscale", ["torch", "ray", "pandas", "numpy"]),
        ("import batchscale.cli", ["torch", "ray", "pandas", "matplotlib", "plotly"]),
        ("from batchscale.analysis import findings, json_object, plots, projection, terminal", ["torch", "ray"]),
        ("from batchscale import records", ["torch", "ray"]),
        ("from batchscale import explorer", ["torch", "ray", "plotly"]),
        ("from batchscale import sweeps", ["torch", "ray", "matplotlib"]),
    ],
)
def test_light_imports_stay_light(code, absent):
    """`--help` itself is tested in test_cli.py."""
    code = f"import sys; {code}; assert not {absent!r} & sys.modules.keys(), sorted({absent!r} & sys.modules.keys())"
    code = code.replace(repr(absent), repr(set(absent)))
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_functions_are_short():
    """One screen, read from top to bottom."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
                lines = node.end_lineno - node.lineno + 1 - docstring
                assert lines <= 60, f"{name}.{node.name} has {lines} lines"
