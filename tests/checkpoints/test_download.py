"""`mobilesam download` from a local test server. The tests never use the network."""

import hashlib
import socket
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grids
import numpy as np
import pytest
from checkpoint_files import write_torch
from golden import PHOTOS
from processes import output

import mobilesam
from mobilesam.checkpoints import errors, fused, published, reader
from mobilesam.cli.main import main
from mobilesam.util.files import sha256


@pytest.fixture(scope="module")
def pt(tmp_path_factory) -> bytes:
    """The bytes of a file in the format of the published `mobile_sam.pt`, with the packaged weights."""
    path = tmp_path_factory.mktemp("pt") / "mobile_sam.pt"
    return write_torch(path, reader.read(fused.open_checkpoint().path)).read_bytes()


class Server(BaseHTTPRequestHandler):
    """Sends the checkpoint file, or its end if the request has a Range header. `server.behaviour` selects a failure."""

    def __init__(self, file: bytes, requests: list[str | None], *rest) -> None:
        self.file, self.requests = file, requests
        super().__init__(*rest)

    def do_GET(self) -> None:
        requested_range, behaviour = self.headers.get("Range"), self.server.behaviour
        self.requests.append(requested_range)
        if behaviour == "missing":
            return self.send_error(404)
        if behaviour == "redirects":
            self.server.behaviour = ""
            self.send_response(302)
            self.send_header("Location", "/elsewhere/mobile_sam.pt")
            return self.end_headers()
        start = 0
        if requested_range and behaviour != "ignores ranges":
            start = int(requested_range.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(self.file):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if behaviour != "sends no length":
            self.send_header("Content-Length", str(len(self.file) - start))
        self.end_headers()
        if behaviour == "breaks off":
            self.wfile.write(self.file[start : start + len(self.file) // 3])
        elif behaviour == "sends another file":
            self.wfile.write(bytes(len(self.file) - start))
        else:
            self.wfile.write(self.file[start:])

    def log_message(self, *rest) -> None:
        pass


@pytest.fixture
def server(pt, tmp_path, monkeypatch):
    """A running server that publishes `mobile_sam`, and an empty cache folder."""
    requests: list[str | None] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, pt, requests)) as server:
        server.behaviour, server.requests = "", requests
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        publish(monkeypatch, pt, tmp_path, f"http://127.0.0.1:{server.server_port}/weights/mobile_sam.pt")
        yield server
        server.shutdown()
        thread.join()


def publish(monkeypatch, pt: bytes, folder: Path, url: str) -> None:
    entry = published.PUBLISHED["mobile_sam"]._replace(url=url, sha256=hashlib.sha256(pt).hexdigest())
    monkeypatch.setitem(published.PUBLISHED, "mobile_sam", entry)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def cached(folder: Path) -> list[str]:
    root = folder / "cache" / "mobilesam"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def refused(capsys, *options: str) -> str:
    assert main(["download", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mobilesam: error: ") and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("behaviour", grids.first(["redirects", "", "sends no length"]))
def test_a_download_is_converted_and_loaded_by_name(server, tmp_path, capsys, behaviour):
    server.behaviour = behaviour
    assert main(["download", "mobile_sam"]) == 0
    said = capsys.readouterr()
    assert "use it with --weights mobile_sam" in said.out
    assert said.err == ""  # progress is only shown on a terminal
    assert cached(tmp_path) == ["mobile_sam.safetensors"]
    loaded = mobilesam.load("mobile_sam")
    assert loaded.checkpoint.metadata["source_sha256"] == published.PUBLISHED["mobile_sam"].sha256
    packaged = fused.open_checkpoint()
    for name in packaged:
        np.testing.assert_array_equal(loaded.checkpoint[name], packaged[name].astype(np.float32))
    mask = str(tmp_path / "mask.png")
    command = ["segment", str(PHOTOS["chelsea"]), "--point", "220,140", "--output", mask]
    assert main([*command, "--weights", "mobile_sam"]) == 0

    count = len(server.requests)
    assert main(["download"]) == 0
    assert len(server.requests) == count  # no new request, because the file is in the cache
    Path(loaded.checkpoint.path).write_bytes(b"damaged")
    assert main(["download"]) == 0
    assert len(server.requests) == count + 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_continued(server, pt, tmp_path, capsys, ranges):
    server.behaviour = "breaks off"
    third = len(pt) // 3
    said = refused(capsys)
    assert f"broke after {third / 1e6:.1f} MB of {len(pt) / 1e6:.1f} MB: run the same command again" in said
    assert cached(tmp_path) == ["unfinished/mobile_sam.pt"]
    server.behaviour = "" if ranges else "ignores ranges"
    assert main(["download"]) == 0
    assert server.requests == [None, f"bytes={third}-"]
    assert cached(tmp_path) == ["mobile_sam.safetensors"]


def test_a_complete_unfinished_file_is_not_downloaded_again(server, pt, tmp_path):
    unfinished = published.unfinished_path("mobile_sam")
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(pt)
    assert main(["download"]) == 0
    assert server.requests == [f"bytes={len(pt)}-"]
    assert cached(tmp_path) == ["mobile_sam.safetensors"]


@pytest.mark.parametrize("begun", [0, 1000, 50_000_000])
def test_another_file_is_refused_and_not_kept(server, tmp_path, capsys, begun):
    unfinished = published.unfinished_path("mobile_sam")
    unfinished.parent.mkdir(parents=True)
    if begun:
        with unfinished.open("wb") as file:
            file.truncate(begun)  # an incomplete download whose bytes are all zero
    server.behaviour = "sends another file"
    said = refused(capsys)
    assert "not the published file, or damaged: its SHA-256 is " in said
    assert published.PUBLISHED["mobile_sam"].sha256 in said
    assert cached(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="mobilesam download mobile_sam"):
        mobilesam.load("mobile_sam")


def test_a_missing_file_says_what_to_do(server, tmp_path, capsys):
    server.behaviour = "missing"
    said = refused(capsys)
    assert "the server answers 404 Not Found; if you have a copy of the file, run: mobilesam download" in said
    assert "/weights/mobile_sam.pt" in said
    assert cached(tmp_path) == []


def test_without_a_network_a_local_file_is_used(pt, tmp_path, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    publish(monkeypatch, pt, tmp_path, f"http://127.0.0.1:{port}/mobile_sam.pt")
    said = refused(capsys)
    assert f"cannot reach http://127.0.0.1:{port}/mobile_sam.pt: Connection refused; if you have a copy" in said
    assert said.endswith("--from FILE\n")

    copy = tmp_path / "copy.pt"
    copy.write_bytes(pt)
    assert main(["download", "--from", str(copy)]) == 0
    assert cached(tmp_path) == ["mobile_sam.safetensors"]
    assert mobilesam.load("mobile_sam").checkpoint.metadata["source"] == "copy.pt"
    assert copy.read_bytes() == pt

    published.cached_path("mobile_sam").unlink()
    capsys.readouterr()
    assert "No such file or directory: absent.pt" in refused(capsys, "--from", "absent.pt")
    copy.write_bytes(pt[:-1])
    assert f"{copy}: not the published file, or damaged" in refused(capsys, "--from", str(copy))
    assert cached(tmp_path) == []


def test_a_mirror(server, monkeypatch, tmp_path):
    mirror = published.PUBLISHED["mobile_sam"].url
    entry = published.PUBLISHED["mobile_sam"]._replace(url="http://127.0.0.1:1/mobile_sam.pt")
    monkeypatch.setitem(published.PUBLISHED, "mobile_sam", entry)
    assert main(["download", "--from", mirror]) == 0
    assert cached(tmp_path) == ["mobile_sam.safetensors"]


@pytest.mark.parametrize(("variable", "folder"), [("/x/y", "/x/y/mobilesam"), ("", "/home/me/.cache/mobilesam")])
def test_the_cache_folder(monkeypatch, variable, folder):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert published.cache_folder() == Path(folder)


def test_the_command_line_starts_without_platformdirs():
    code = "import sys, mobilesam.cli; print('platformdirs' in sys.modules)"
    assert output(code) == "False"


def test_a_path_is_never_taken_for_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mobile_sam").write_bytes(b"no checkpoint")
    with pytest.raises(errors.CheckpointError, match=r"mobile_sam: expected a \.pt of PyTorch"):
        mobilesam.load("./mobile_sam")
    assert sha256(Path("mobile_sam")) != published.PUBLISHED["mobile_sam"].sha256
