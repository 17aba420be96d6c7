"""A path as a user types it: with ~, without a home, and with what no file name can hold."""

import pwd
from pathlib import Path

import pytest

from batchscale.errors import UserError
from batchscale.paths import typed
from batchscale.sweeps.directories import directories
from batchscale.training.datasets import find_data_root


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed("~/data", "data_dir") == tmp_path / "data"
    assert typed(Path("~"), "data_dir") == tmp_path
    assert typed("a/~b", "data_dir") == Path("a/~b")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody_here/x", "out is ~nobody_here/x, but there is no home folder for ~nobody_here; write the whole path"),
        ("a\0b", r"out is 'a\\x00b', which is no path \(embedded null .*\); give a file or folder"),
        ("\ud800", "out is '\\\\ud800', which is no path"),
        (None, "out is None, which is no path"),
        (b"data", "out is b'data', which is no path"),
        ("a" * 300, "out is a{60} ..., which cannot be used .File name too long.; choose another"),
    ],
)
def test_what_is_no_path(path, message):
    with pytest.raises(UserError, match=f"^{message}") as refused:
        typed(path, "out")
    assert "\n" not in str(refused.value)


def test_without_a_home(monkeypatch):
    """A container whose user has neither HOME nor an entry in the list of users."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(
        UserError, match=r"^out is ~/x, but there is no home folder for ~; write the whole path, or \./~"
    ):
        typed("~/x", "out")


def test_a_loop_of_links(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="which cannot be used"):
        typed(tmp_path / "loop" / "x", "out")


def test_the_variable_of_the_images_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("BATCHSCALE_DATA_ROOT", "~nobody_here")
    with pytest.raises(UserError, match=r"^BATCHSCALE_DATA_ROOT is ~nobody_here, but"):
        find_data_root()
    with pytest.raises(UserError, match=r"^data_dir is ~nobody_here, but"):
        directories(tmp_path, "~nobody_here", "x")
