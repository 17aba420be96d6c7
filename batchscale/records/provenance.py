"""What a sidecar notes besides the experiment: versions, device, and sizes that follow from the experiment."""

import platform
import re
from importlib import metadata
from pathlib import Path

from batchscale import __version__


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries on which the numbers depend."""
    packages = {"batchscale": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pandas"):
        packages[package] = metadata.version(package)
    return packages


def cpu() -> str:
    """Name of the CPU: its model on Linux where the kernel gives one, otherwise its architecture."""
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def facts(training) -> dict:
    """Device, workers, and sizes of a `Training`, as entries of the sidecar."""
    import torch

    device = training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu()
    return {
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "workers": training.group.count,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "updates_per_epoch": training.updates_per_epoch,
        "train_images": len(training.data.train_images),
        "test_images": len(training.data.test_images),
        # Batch norm uses the statistics of a micro-batch ("ghost batch", Hoffer et al. 2017), whose size may decrease
        # during a run.
        "ghost_batch": [{"from_update": update, "images": size} for update, size in training.ghost_batches],
    }
