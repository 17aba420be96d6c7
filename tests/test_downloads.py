"""Downloads from mirrors on 127.0.0.1, each with its own fault; no test contacts another host."""

import gzip
import hashlib
import io
import random
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from batchscale.training import downloads
from batchscale.training.downloads import (
    CIFAR10_URLS,
    Archive,
    DownloadError,
    Patience,
    cifar10_archive,
    download_cifar10,
)

FOLDER, NAME = "cifar-10-batches-py", "cifar-10-python.tar.gz"
PART = f"{NAME}.part"
FILES = {name: random.Random(name).randbytes(9_000) for name in ("data_batch_1", "test_batch", "batches.meta")}


def md5(data):
    return hashlib.md5(data).hexdigest()


def tar_gz(members):
    """A .tar.gz of regular files, name -> bytes. Reproducible bytes, because its digest is part of a test id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def described(body):
    files = {name: md5(data) for name, data in FILES.items()}
    return Archive(name=NAME, size=len(body), md5=md5(body), folder=FOLDER, files=files)


BODY = tar_gz({f"{FOLDER}/{name}": data for name, data in FILES.items()})
SIZE, HALF, THIRD = len(BODY), len(BODY) // 2, len(BODY) // 3
WRONG = bytes(SIZE)
ARCHIVE = described(BODY)
QUICK = Patience(min_speed=0, timeout=10)


class Mirrors(ThreadingHTTPServer):
    """Mirrors at one address; the first component of a path selects the mirror's behaviour.

    `seen` has a row for each request: the behaviour, its Range header, and the bytes that were sent.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.body = BODY
        self.seen = []
        self.arrived = threading.Event()  # a "gated" request has arrived, or a "stalls" one has sent its half
        self.gate = threading.Event()  # lets "gated", "stalls" and "hangs" continue

    def url(self, behaviour):
        return f"http://{self.host}/{behaviour}/{NAME}"

    def behaviours(self):
        return [behaviour for behaviour, _, _ in self.seen]

    def handle_error(self, request, client_address):
        pass  # the client disconnected, as it should


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        behaviour, wanted, server = self.path.split("/")[1], self.headers.get("Range"), self.server
        row = [behaviour, wanted, 0]
        server.seen.append(row)
        if behaviour.isdigit():
            return self.send_error(int(behaviour))
        if behaviour == "redirects":
            return self.answer(302, {"Location": server.url("good")})
        if behaviour == "hangs":
            return server.gate.wait(3)
        if behaviour == "gated":
            server.arrived.set()
            server.gate.wait(10)
        if behaviour == "not-satisfiable" and wanted:
            return self.send_error(416)

        body = {"wrong": WRONG, "short": BODY[:-9], "long": BODY + b"more"}.get(behaviour, server.body)
        total = len(body)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and not behaviour.startswith("rangeless") else 0
        if start:
            offered = f"bytes {start}-{total - 1}/{total}" if behaviour != "other-range" else f"bytes 0-{start}/{total}"
            self.answer(206, {"Content-Range": offered, "Content-Length": total - start})
        else:
            self.answer(200, {} if behaviour.endswith("no-length") else {"Content-Length": total})
        for piece in self.pieces(behaviour, body[start:]):
            row[2] += len(piece)  # before the client receives it and the test reads the row
            self.wfile.write(piece)

    def answer(self, code, headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def pieces(self, behaviour, rest):
        """What is sent, piece by piece; the connection is closed after the last."""
        if behaviour in ("breaks-off", "rangeless-breaks-off"):
            yield rest[:HALF]
        elif behaviour == "breaks-off-often":
            yield rest[:THIRD]
        elif behaviour == "stalls":
            yield rest[:HALF]
            self.server.arrived.set()
            self.server.gate.wait(10)
        elif behaviour.startswith("slow"):  # slow-n: n bytes every 10 ms
            step = int(behaviour.partition("-")[2])
            for i in range(0, len(rest), step):
                time.sleep(0.01)
                yield rest[i : i + step]
        else:
            yield rest


@pytest.fixture
def mirrors():
    server = Mirrors()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch):
    """Make every other host unknown, and ignore proxies and the user's own mirrors."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("BATCHSCALE_CIFAR10_URLS", raising=False)


@pytest.fixture
def download(tmp_path, mirrors):
    """Downloads from mirrors of the given behaviours, or from the given URLs, to tmp_path."""

    def run(*behaviours, archive=ARCHIVE, patience=QUICK, progress=False):
        urls = [each if ":" in each else mirrors.url(each) for each in behaviours]
        download_cifar10(tmp_path, urls, archive=archive, patience=patience, progress=progress)

    return run


def names(root):
    """Names of the files in root, without the lock."""
    return {path.name for path in root.iterdir()} - {".cifar10.lock"}


def assert_complete(root):
    """The folder has the right files, and nothing else remains."""
    assert names(root) == {FOLDER}
    assert {path.name: path.read_bytes() for path in (root / FOLDER).iterdir()} == FILES


# Complete downloads, and one mirror after another


def test_makes_the_folder_and_leaves_nothing_else(tmp_path, mirrors):
    root = tmp_path / "not" / "there"
    download_cifar10(root, [mirrors.url("good")], archive=ARCHIVE, progress=False)
    assert_complete(root)
    assert mirrors.seen == [["good", None, SIZE]]


def test_complete_folder_needs_no_mirror_and_no_lock(tmp_path, mirrors, download):
    download("good")
    (tmp_path / ".cifar10.lock").unlink(missing_ok=True)  # a shared folder may be read-only
    download("good")
    assert mirrors.behaviours() == ["good"]
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("404", "404 Not Found"),
        ("500", "500 Internal Server Error"),
        ("hangs", "timed out"),
        ("breaks-off", f"broke off after {HALF} of {SIZE} bytes"),
        ("stalls", f"timed out, after {HALF} bytes"),
        ("wrong", f"wrong bytes (MD5 {md5(WRONG)} instead of {ARCHIVE.md5})"),
        ("short", f"another file: its Content-Length is {SIZE - 9} instead of {SIZE}"),
        ("long", f"another file: its Content-Length is {SIZE + 4} instead of {SIZE}"),
        ("http://127.0.0.1:1/closed", "Connection refused"),
        ("http://nowhere.invalid/cifar", "Name or service not known"),
        ("not-a-url:", "unknown url type: not-a-url"),
        ("http://[/", "Invalid IPv6 URL"),
    ],
)
def test_next_mirror_when_one_fails(bad, reason, tmp_path, mirrors, download, capsys):
    download(bad, "good", patience=replace(QUICK, timeout=0.3))
    assert_complete(tmp_path)
    assert mirrors.behaviours()[-1] == "good"
    lines = capsys.readouterr().err.splitlines()
    host = mirrors.host if ":" not in bad else bad.removeprefix("http://").partition("/")[0]
    assert lines[0] == f"{host}: {reason}; trying {mirrors.host}"
    assert lines[1:] == []


def test_first_good_mirror_is_the_only_one_asked(mirrors, download, capsys):
    download("good", "404")
    assert mirrors.behaviours() == ["good"]
    assert capsys.readouterr().err == ""


def test_progress_bar_names_the_host(mirrors, download, capsys):
    download("good", progress=True)
    assert f"{mirrors.host}: 100%" in capsys.readouterr().err


def test_local_copy_as_a_mirror(tmp_path, download):
    copy = tmp_path / "elsewhere" / NAME
    copy.parent.mkdir()
    copy.write_bytes(BODY)
    download(copy.as_uri())
    assert (tmp_path / FOLDER / "test_batch").read_bytes() == FILES["test_batch"]
    assert copy.exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_archive_put_there_by_hand(damaged, tmp_path, mirrors, download):
    (tmp_path / NAME).write_bytes(WRONG if damaged else BODY)
    download("good")
    assert names(tmp_path) == {FOLDER, NAME}
    assert mirrors.behaviours() == (["good"] if damaged else [])


# Resuming


def test_resumes_after_the_bytes_that_are_there(tmp_path, mirrors, download):
    (tmp_path / PART).write_bytes(BODY[:HALF])
    download("good")
    assert_complete(tmp_path)
    assert mirrors.seen == [["good", f"bytes={HALF}-", SIZE - HALF]]


def test_resumes_from_another_mirror(tmp_path, mirrors, download):
    download("breaks-off", "good")
    assert_complete(tmp_path)
    assert mirrors.seen == [["breaks-off", None, HALF], ["good", f"bytes={HALF}-", SIZE - HALF]]


def test_resumes_through_a_redirect(tmp_path, mirrors, download):
    (tmp_path / PART).write_bytes(BODY[:HALF])
    download("redirects")
    assert_complete(tmp_path)
    assert mirrors.seen[-1] == ["good", f"bytes={HALF}-", SIZE - HALF]


def test_the_only_mirror_is_asked_again_as_long_as_it_gives_bytes(tmp_path, mirrors, download):
    download("breaks-off-often")
    assert_complete(tmp_path)
    assert [wanted for _, wanted, _ in mirrors.seen][:3] == [None, f"bytes={THIRD}-", f"bytes={2 * THIRD}-"]


def test_mirror_without_progress_is_not_asked_forever(tmp_path, mirrors, download):
    with pytest.raises(DownloadError, match=f"broke off after {HALF} of {SIZE} bytes.*after the {HALF} of {SIZE}"):
        download("rangeless-breaks-off")
    assert mirrors.behaviours() == ["rangeless-breaks-off"] * 2
    assert (tmp_path / PART).read_bytes() == BODY[:HALF]


def test_resumes_after_a_failed_run(tmp_path, mirrors, download):
    with pytest.raises(DownloadError):
        download("rangeless-breaks-off")
    download("good")
    assert_complete(tmp_path)
    assert mirrors.seen[-1] == ["good", f"bytes={HALF}-", SIZE - HALF]


@pytest.mark.parametrize("behaviour", ["rangeless", "rangeless-no-length", "not-satisfiable"])
def test_starts_over_where_resuming_is_impossible(behaviour, tmp_path, mirrors, download):
    (tmp_path / PART).write_bytes(BODY[:HALF])
    download(behaviour)
    assert_complete(tmp_path)
    assert mirrors.seen[-1][2] == SIZE


def test_unasked_range_is_refused(tmp_path, mirrors, download, capsys):
    (tmp_path / PART).write_bytes(BODY[:HALF])
    download("other-range", "good")
    assert_complete(tmp_path)
    assert "another file: its Content-Range is bytes 0-" in capsys.readouterr().err
    assert mirrors.seen[-1] == ["good", f"bytes={HALF}-", SIZE - HALF]


def test_complete_part_is_unpacked_without_a_mirror(tmp_path, mirrors, download):
    (tmp_path / PART).write_bytes(BODY)
    download("good")
    assert_complete(tmp_path)
    assert mirrors.seen == []


# Wrong bytes


@pytest.mark.parametrize("poison", [WRONG[:HALF], WRONG])
def test_damaged_part_is_fetched_again_from_the_start(poison, tmp_path, mirrors, download, capsys):
    (tmp_path / PART).write_bytes(poison)
    download("good", "404")
    assert_complete(tmp_path)
    assert mirrors.behaviours()[-1] == "good"
    assert mirrors.seen[-1] == ["good", None, SIZE]
    assert "starting over" in capsys.readouterr().err


def test_part_that_is_too_long_is_replaced(tmp_path, mirrors, download):
    (tmp_path / PART).write_bytes(BODY + b"more")
    download("good")
    assert_complete(tmp_path)
    assert mirrors.seen == [["good", None, SIZE]]


def test_wrong_bytes_are_not_kept_nor_asked_for_twice(tmp_path, mirrors, download):
    with pytest.raises(DownloadError, match="wrong bytes"):
        download("wrong")
    assert mirrors.behaviours() == ["wrong"]
    assert names(tmp_path) == set()


# Slow mirrors


def test_slow_mirror_is_left_for_a_fast_one(tmp_path, mirrors, download, capsys):
    download("slow-50", "good", patience=Patience(min_speed=20_000, speed_window=0.1))
    assert_complete(tmp_path)
    (slow, _, sent), (fast, wanted, _) = mirrors.seen
    assert (slow, fast) == ("slow-50", "good")
    assert 0 < int(wanted.removeprefix("bytes=").removesuffix("-")) <= sent < SIZE  # the bytes of the slow one are kept
    assert re.search(rf"{mirrors.host}: slow \(.* kB/s\); trying", capsys.readouterr().err)


IMPATIENT = Patience(min_speed=1e12, speed_window=0.05)  # faster than any mirror


def test_slow_mirror_is_good_enough_when_there_is_no_other(tmp_path, mirrors, download):
    download("404", "slow-1000", patience=IMPATIENT)
    assert_complete(tmp_path)
    assert mirrors.behaviours() == ["404", "slow-1000", "slow-1000"]  # at any speed, but no mirror without bytes
    assert mirrors.seen[-1][1] is not None


def test_fastest_of_the_slow_mirrors_is_first_in_the_second_round(tmp_path, mirrors, download):
    download("slow-100", "slow-1500", patience=IMPATIENT)
    assert_complete(tmp_path)
    assert mirrors.behaviours() == ["slow-100", "slow-1500", "slow-1500"]


# Failures, and where the mirrors come from


def test_failure_is_one_line_with_every_mirror_and_what_to_do(tmp_path, mirrors, download):
    (tmp_path / PART).write_bytes(BODY[:HALF])
    with pytest.raises(DownloadError) as failure:
        download("404", "503", "http://127.0.0.1:1/closed")
    message = str(failure.value)
    assert "\n" not in message
    for expected in (
        f"{mirrors.url('404')}: 404 Not Found",
        f"{mirrors.url('503')}: 503 Service Unavailable",
        "http://127.0.0.1:1/closed: Connection refused",
        f"put {NAME} or the folder {FOLDER} under {tmp_path}",
        "BATCHSCALE_DATA_ROOT",
        "BATCHSCALE_CIFAR10_URLS",
        f"after the {HALF} of {SIZE} bytes",
    ):
        assert expected in message
    assert (tmp_path / PART).read_bytes() == BODY[:HALF]


def test_mirrors_from_the_environment(tmp_path, mirrors, monkeypatch):
    first, second, third = mirrors.url("404"), mirrors.url("500"), mirrors.url("good")
    monkeypatch.setenv("BATCHSCALE_CIFAR10_URLS", f" {first},{second}\n , {third} ")
    download_cifar10(tmp_path, archive=ARCHIVE, progress=False)
    assert mirrors.behaviours() == ["404", "500", "good"]


def test_urls_come_before_the_environment(tmp_path, mirrors, monkeypatch):
    monkeypatch.setenv("BATCHSCALE_CIFAR10_URLS", mirrors.url("404"))
    download_cifar10(tmp_path, [mirrors.url("good")], archive=ARCHIVE, progress=False)
    assert mirrors.behaviours() == ["good"]


@pytest.mark.parametrize("environment", [None, "", " , "])
def test_official_mirrors_by_default(environment, tmp_path, monkeypatch):
    if environment is not None:
        monkeypatch.setenv("BATCHSCALE_CIFAR10_URLS", environment)
    with pytest.raises(DownloadError) as failure:  # only_loopback knows none of them
        download_cifar10(tmp_path, archive=ARCHIVE, progress=False)
    assert [str(failure.value).count(f"{url}: Name or service not known") for url in CIFAR10_URLS] == [1] * 5
    assert "www.cs.toronto.edu" in CIFAR10_URLS[-1]


def test_official_archive():
    archive = cifar10_archive()
    assert (archive.name, archive.size, archive.folder) == (NAME, 170_498_071, FOLDER)
    assert archive.md5 == "c58f30108f718f92721af3b95e74349a"
    assert sorted(archive.files) == ["batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in archive.files.values())


def test_root_that_cannot_be_a_folder(tmp_path, mirrors):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=f"under {tmp_path}/file/root: Not a directory; free .*_ROOT") as failure:
        download_cifar10(tmp_path / "file" / "root", [mirrors.url("good")], archive=ARCHIVE)
    assert "\n" not in str(failure.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full, a disk without space")
def test_no_space_is_not_the_mirrors_fault(tmp_path, mirrors, download):
    (tmp_path / PART).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=f"under {tmp_path}: No space left on device; free some space"):
        download("good", "good")
    assert mirrors.behaviours() == ["good"]


# Unpacking


def test_nothing_is_unpacked_outside_the_folder(tmp_path, mirrors):
    root = tmp_path / "a" / "root"
    good = {f"{FOLDER}/{name}": data for name, data in FILES.items()}
    bad = ["../evil", f"{tmp_path}/evil", f"{FOLDER}/../../evil", f"{FOLDER}/evil", f"../{FOLDER}/test_batch"]
    mirrors.body = tar_gz({**good, **dict.fromkeys(bad, b"evil")})
    download_cifar10(root, [mirrors.url("good")], archive=described(mirrors.body), progress=False)
    assert_complete(root)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if "evil" in path.name] == []
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["root"]


def test_links_are_not_unpacked(tmp_path, mirrors):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as tar:
        link = tarfile.TarInfo(f"{FOLDER}/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    mirrors.body = buffer.getvalue()
    download_cifar10(tmp_path / "root", [mirrors.url("good")], archive=described(mirrors.body), progress=False)
    assert list((tmp_path / "root" / FOLDER).iterdir()) == []


def test_damaged_folder_is_replaced(tmp_path, mirrors, download):
    folder, stray = tmp_path / FOLDER, tmp_path / ".cifar10-unpacking" / "new" / FOLDER
    for path in (folder, stray):
        path.mkdir(parents=True)
        for name, data in {**FILES, "test_batch": WRONG, "other": b""}.items():
            (path / name).write_bytes(data)
    with pytest.raises(DownloadError):
        download("404")
    assert {path.name for path in folder.iterdir()} == {*FILES, "other"}  # until the new one is complete
    download("good")
    assert_complete(tmp_path)


def test_link_to_nowhere_is_replaced(tmp_path, download):
    (tmp_path / FOLDER).symlink_to(tmp_path / "gone")
    download("good")
    assert_complete(tmp_path)


def test_failure_while_unpacking_leaves_no_half_folder(tmp_path, download, monkeypatch):
    def full(source, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloads.shutil, "copyfileobj", full)
        with pytest.raises(DownloadError, match="No space left on device"):
            download("good")
    assert names(tmp_path) == {PART}
    download("404")  # the archive is already there
    assert_complete(tmp_path)


# Several processes

SCRIPT = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore Ctrl-C
from pathlib import Path
from batchscale.training.downloads import Archive, download_cifar10
download_cifar10(Path(sys.argv[1]), sys.argv[2:], archive={ARCHIVE!r}, progress=False)
assert "torch" not in sys.modules
"""


@pytest.fixture
def start(tmp_path, mirrors):
    """Starts a process that downloads to tmp_path."""
    processes = []

    def run(behaviour):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), mirrors.url(behaviour)]
        directory = Path(downloads.__file__).parents[2]
        processes.append(subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield run
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_second_process_waits_for_the_first(tmp_path, mirrors, start):
    first = start("gated")
    assert mirrors.arrived.wait(30)
    second = start("good")
    assert second.stderr.readline() == f"waiting for another process that has {tmp_path / '.cifar10.lock'}\n"
    mirrors.gate.set()
    assert (first.wait(30), second.wait(30)) == (0, 0), first.stderr.read() + second.stderr.read()
    assert_complete(tmp_path)
    assert mirrors.behaviours() == ["gated"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_resumes_after_a_process_was_stopped(how, tmp_path, mirrors, start, download):
    process = start("stalls")
    assert mirrors.arrived.wait(30)
    part, deadline = tmp_path / PART, time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    process.wait(30)
    kept = part.stat().st_size
    assert 0 < kept <= HALF
    download("good")
    assert_complete(tmp_path)
    assert mirrors.seen[-1] == ["good", f"bytes={kept}-", SIZE - kept]


def test_threads_of_one_process_download_once(tmp_path, mirrors, download):
    threads = [threading.Thread(target=download, args=("slow-1000",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_complete(tmp_path)
    assert mirrors.behaviours() == ["slow-1000"]
