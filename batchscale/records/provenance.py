"""What a sidecar notes besides the experiment: versions, device, and sizes that follow from the experiment."""

import math
import platform
import re
from collections.abc import Mapping, Sequence
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


def data(dataset) -> dict:
    """What a run's numbers depend on in its `Dataset`, before `train_size`: counts of images, and the digest."""
    complete = dataset.complete or dataset
    return {
        "name": complete.name,
        "train_images": len(complete.train_images),
        "test_images": len(complete.test_images),
        "digest": complete.digest,
    }


def made_of(training) -> dict:
    """Data and network of a `Training`, as entries of the sidecar: all parameters by name, with shapes like 10x84."""
    parameters = training.model.named_parameters()
    network = {name: "x".join(map(str, parameter.shape)) or "scalar" for name, parameter in parameters}
    return {"data": data(training.data), "network": network}


def difference(noted: Mapping, asked: Mapping) -> tuple[str, str] | None:
    """Which of `data` and `network` is not the noted one, and how it differs, in words; None if neither does.

    An older version noted neither. What is not noted, or not asked for, is not compared.
    """
    there, now = noted.get("data", {}), asked.get("data", {})
    for key in ("train_images", "test_images", "digest"):
        if key in there and key in now and there[key] != now[key]:
            if key == "digest":
                both = f"digest {there[key]:.12} there but {now[key]:.12} now, with equal numbers of images"
            else:
                both = f"{there[key]} {key.replace('_', ' ')} there but {now[key]} now"
            return "data", f"{now['name']} has {both}"
    there, now = noted.get("network", {}), asked.get("network", {})
    for name in {**there, **now} if there and now else ():
        if there.get(name) != now.get(name):
            both = f"{there.get(name, 'missing')} there but {now.get(name, 'missing')} now"
            return "network", f"parameter {name} is {both}"
    return None


def facts(training, noted: Mapping) -> dict:
    """Device, workers, and sizes of a `Training`, as entries of the sidecar, which so far holds `noted`.

    The entry `parts` has an item for each part of the run that was trained under other conditions than the one before:
    the 0-based update that begins it, device, threads, workers, and the version of torch. Where any of them changes,
    sums are rounded in another order.
    """
    import torch

    device = training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu()
    conditions = {
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "workers": training.group.count,
    }
    part = {"from_update": training.updates, **conditions, "torch": metadata.version("torch")}
    parts = [each for each in _parts(noted) if each["from_update"] < training.updates]
    if not parts or parts[-1] | {"from_update": training.updates} != part:
        parts.append(part)
    return {
        **conditions,
        "parts": parts,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "updates_per_epoch": training.updates_per_epoch,
        "train_images": len(training.data.train_images),
        "test_images": len(training.data.test_images),
        "ghost_batch": ghost_batch(training.experiment.batch_size, training.ghost_batches, parts),
    }


def _parts(noted: Mapping) -> list[dict]:
    """The parts of a run that are noted; an older version noted the conditions of the latest one alone."""
    if "parts" in noted or "device" not in noted:
        return noted.get("parts", [])
    version = noted.get("versions", {}).get("torch")
    return [{"from_update": 0, "device": noted["device"], "workers": noted.get("workers", 1), "torch": version}]


def ghost_batch(
    batch_size: int, micro_batch_sizes: Sequence[tuple[int, int]], parts: Sequence[Mapping]
) -> list[dict[str, int]]:
    """Numbers of images over which batch norm computes its statistics ("ghost batch", Hoffer et al. 2017).

    An item for each change: the update from which it holds, the images of a micro-batch, and those of the `last` one
    where a worker's share of the minibatch is not a multiple.

    Args:
        micro_batch_sizes: pairs of an update and the size from then on, see `Training.ghost_batches`.
        parts: see `facts`; they know the number of workers.

    >>> ghost_batch(129, [(0, 128)], [{"from_update": 0, "workers": 1}])
    [{'from_update': 0, 'images': 128, 'last': 1}]
    """
    items: list[dict[str, int]] = []
    for update in sorted({since for since, _ in micro_batch_sizes} | {part["from_update"] for part in parts}):
        size = [size for since, size in micro_batch_sizes if since <= update][-1]
        workers = [part["workers"] for part in parts if part["from_update"] <= update] or [parts[0]["workers"]]
        last = batch_size // workers[-1] % size
        item = {"from_update": update, "images": size} | ({"last": last} if last else {})
        if not items or items[-1] | {"from_update": update} != item:
            items.append(item)
    return items


def notices(facts: Mapping, noted: Mapping, batch_size: int) -> list[str]:
    """Lines that the user should read before a training with these `facts` begins, where the sidecar holds `noted`.

    One says that the conditions of the run change, one that its last micro-batch is at most half as large as others.
    """
    lines, (*_, part), (*_, ghost) = [], facts["parts"], facts["ghost_batch"]
    if part not in _parts(noted) and len(facts["parts"]) > 1:
        changes = _changes(*facts["parts"][-2:])
        if changes:
            lines.append(
                f"continuing after update {part['from_update']} under other conditions ({', '.join(changes)}): sums "
                f"are rounded in another order, so that the numbers will not be those of an uninterrupted run"
            )
    images, last, share = ghost["images"], ghost.get("last"), batch_size // part["workers"]
    if last and 2 * last <= images and ghost not in noted.get("ghost_batch", []):
        lines.append(
            f"the last micro-batch of every update has {last} of {images} images, and batch norm normalises it by "
            f"itself; use --micro-batch-size {_better_size(share, images)}, which divides {share} more evenly"
        )
    return lines


def _changes(before: Mapping, now: Mapping) -> list[str]:
    """The conditions on which rounding depends in which two parts of a run differ, in words."""

    def conditions(part: Mapping) -> dict:
        device = part["device"]
        values = {"device": f"{device.get('type')}, {device.get('name')}", "workers": part["workers"]}
        return values | {"threads": device.get("threads"), "torch": part.get("torch")}

    there, here = conditions(before), conditions(now)
    if {before["device"].get("type"), now["device"].get("type")} != {"cpu"}:
        del here["threads"]  # a GPU's sums do not depend on them
    return [f"{what}: {here[what]} instead of {there[what]}" for what in here if there[what] not in (None, here[what])]


def _better_size(images: int, limit: int) -> int:
    """Size of a micro-batch, up to `limit`, that divides `images`; or, if it were tiny, that divides almost evenly."""
    divisor = max(size for size in range(1, limit + 1) if images % size == 0)
    return divisor if 4 * divisor >= limit else math.ceil(images / math.ceil(images / limit))
