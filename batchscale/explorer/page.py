"""One HTML file that needs no server and no network: markup, style, scripts and contents in one.

    write(study, "explorer.html", tolerance=0.02)

Plotly's script and the contents are compressed and written in base64, which the browser unpacks. So no text of a record
can become markup, and the file stays small.
"""

import base64
import functools
import gzip
import html
import json
import os
from importlib import resources, util
from pathlib import Path

from batchscale.errors import UserError
from batchscale.explorer.contents import Progress, contents
from batchscale.paths import typed
from batchscale.records.files import SaveError, require_writable, write_whole
from batchscale.records.study import Study


def write(study: Study, path: str | os.PathLike = "explorer.html", *, progress: Progress = iter, **options) -> Path:
    """Write the explorer of a study, in place of what was there; a reader finds the old file or the new.

    Args:
        study: possibly without runs.
        path: of the file; its folder is made if it is missing.
        progress, options: see `contents.contents`.

    Returns:
        The path, with `~` replaced.

    Raises:
        UserError: Plotly is not installed, the file cannot be written, or `findings.analyse` refuses an option.
    """
    file, plotly = typed(path, "output"), _plotly()
    if file.is_dir():
        raise UserError(f"output is {path}, which is a folder; name a file, as in {file / 'explorer.html'}")
    try:
        require_writable(file.parent)  # before a minute of work
        write_whole(file, page(contents(study, progress=progress, **options), plotly).encode())
    except SaveError as error:
        raise UserError(f"output is {path}, but {error.problem}; name another file") from error
    return file


def page(content: dict, plotly: str) -> str:
    """The whole file.

    Args:
        content: of `contents.contents`.
        plotly: source of Plotly's script.
    """
    files = resources.files("batchscale.explorer")
    template, style, script = (files.joinpath(f"page.{ending}").read_text("utf-8") for ending in ("html", "css", "js"))
    parts = {
        "title": html.escape(content["title"]),
        "style": style,
        "plotly": _packed_once(plotly),
        "contents": _packed(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))),
        "script": script,
    }
    before, *rest = template.split("<!--")  # each place is <!--name-->, and what was put in is not searched again
    return before + "".join(parts[name] + after for name, _, after in (each.partition("-->") for each in rest))


@functools.lru_cache(maxsize=1)  # Plotly takes half a second
def _packed_once(text: str) -> str:
    return _packed(text)


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _plotly() -> str:
    """Plotly's script for browsers, as its Python package brings it; the package itself is not imported."""
    found = util.find_spec("plotly")
    script = Path(found.origin).parent / "package_data" / "plotly.min.js" if found and found.origin else None
    if script is None or not script.is_file():
        raise UserError('the explorer needs Plotly, which is not installed; pip install "batchscale[explorer]"')
    return script.read_text("utf-8")
