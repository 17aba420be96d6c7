"""What runs on the nodes of a Ray cluster: a task per run, and a mailbox beside the process of the sweep."""

import os
import pickle
import socket
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.sweeps.failure import Failure
from batchscale.sweeps.options import Options
from batchscale.sweeps.process import Process
from batchscale.sweeps.source import Listed


def train(
    experiment: Experiment, options: Options, mark: str, arrays: dict, files: dict[str, bytes], mailbox
) -> tuple[list[Failure], dict[str, bytes]]:
    """Train one run on this node.

    Args:
        options: those of the sweep, with an absolute `data_dir`.
        mark: a file in `data_dir`. A node that does not see it trains in a temporary folder.
        arrays: fields of the `Dataset`, as NumPy arrays.
        files: the files that `data_dir` has, to continue from.
        mailbox: the `Mailbox` of the sweep.

    Returns:
        The failure, if the run failed, and the files of the run, if they are not in `data_dir` already.
    """
    link = _Link(mailbox)
    link.send("start", experiment, (os.getpid(), socket.gethostname()))
    import ray

    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray shows all GPUs to a task that reserved none
    import torch

    from batchscale.training.datasets import Dataset

    torch.set_num_threads(options.cores_per_run)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # and is not written
        arrays = {name: torch.from_numpy(each) if hasattr(each, "dtype") else each for name, each in arrays.items()}
    with tempfile.TemporaryDirectory() as own:
        if not Path(mark).exists():
            options = replace(options, data_dir=own)
            for name, content in files.items():
                (Path(own) / name).write_bytes(content)
        failures = Process(options, link.send, link, Dataset(**arrays)).work(Listed([experiment]))
        trained = files_of(experiment, own)
    link.flush()
    return failures, trained


def files_of(experiment: Experiment, folder: str | os.PathLike) -> dict[str, bytes]:
    """The existing files of a run by name, the sidecar last."""
    return {path.name: path.read_bytes() for path in Record(experiment, folder).files if path.exists()}


class Mailbox:
    """An actor beside the process of the sweep. Tasks leave reports here and ask whether to stop."""

    def __init__(self):
        self._messages, self._is_stopping = [], False

    def put(self, message: bytes) -> None:
        self._messages.append(message)

    def take(self, is_stopping: bool) -> list[bytes]:
        """The messages since the last call; sets the answer to the question whether to stop."""
        messages, self._messages, self._is_stopping = self._messages, [], is_stopping
        return messages

    def is_stopping(self) -> bool:
        return self._is_stopping


class _Link:
    """A task's side of the mailbox: its `Report` and its `Stop`.

    It uses futures, because Ray gives the cores of a task that waits in ray.get or ray.wait to another task.
    """

    def __init__(self, mailbox):
        self._mailbox, self._sent, self._question = mailbox, None, None
        self._is_stopping = mailbox.is_stopping.remote().future().result()

    def send(self, *message) -> None:
        self._sent = self._mailbox.put.remote(pickle.dumps(message))  # as bytes, so that the actor needs no torch

    def is_set(self) -> bool:
        """The last answer; the training does not wait for the next one."""
        if self._question is not None and self._question.done():
            self._is_stopping, self._question = self._question.result(), None
        if self._question is None:
            self._question = self._mailbox.is_stopping.remote().future()
        return self._is_stopping

    def flush(self) -> None:
        """Wait until all messages have arrived."""
        self._sent.future().result()
