"""What `advise` found about a folder's experiment, as `advice.json` beside the records."""

import json
import os

from batchscale.paths import typed
from batchscale.records.files import write_whole


def read(data_dir: str | os.PathLike) -> dict | None:
    """The advice; None where there is none, or none that can be read."""
    try:
        noted = json.loads((typed(data_dir, "data_dir") / "advice.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) else None


def write(data_dir: str | os.PathLike, noted: dict) -> None:
    """Keep the advice."""
    path = typed(data_dir, "data_dir") / "advice.json"
    write_whole(path, (json.dumps(noted, indent=2, ensure_ascii=False) + "\n").encode())
