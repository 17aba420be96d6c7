"""Where a notebook finds and keeps its files."""

import os
from pathlib import Path

from batchscale import streams
from batchscale.paths import typed
from batchscale.records.files import COLAB_DRIVE


def directories(
    project: Path, data_dir: str | os.PathLike, data_root: str | os.PathLike | None, *, mount_drive: bool = False
) -> tuple[Path, Path]:
    """Folder of the records and folder of the images; relative paths start from the project. Prints where things are.

    Args:
        project: folder of the project.
        data_dir, data_root: as the user gave them; for `data_root` see `datasets.find_data_root`.
        mount_drive: Google Drive is mounted to keep the records; a `data_dir` elsewhere is lost with the session, and a
            printed note says so.
    """
    import torch

    from batchscale.training.datasets import find_data_root

    records, images = project / typed(data_dir, "data_dir"), project / find_data_root(data_root)
    print(f"project {project.name}\nrecords {data_dir}\nimages  {find_data_root(data_root)}", file=streams.OUT)
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    else:
        gpu = "none (on Colab: Runtime > Change runtime type); a small width and few epochs train without one"
    print(f"GPU     {gpu}", file=streams.OUT)
    if mount_drive and COLAB_DRIVE not in records.absolute().parents:
        print(
            f"NOTE    mount_drive is True but data_dir is {data_dir}, which is not on the Drive: the records are lost "
            f'when the session ends. Set data_dir = "{COLAB_DRIVE}/MyDrive/batchscale/data" and run all again.',
            file=streams.OUT,
        )
    return records, images
