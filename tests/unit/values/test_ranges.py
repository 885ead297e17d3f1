"""Byte ranges of files, of what fsspec knows, and of web servers that send parts and that do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import fsspec
import pytest

import sparsify_cli.values.ranges as module_under_test
from sparsify_cli.errors import MissingFile, UnreadableFile
from sparsify_cli.values.ranges import is_url, ranges

DATA = bytes(range(200))


class Server(BaseHTTPRequestHandler):
    """Sends DATA; in parts when `parts` is set."""

    parts = True

    def do_HEAD(self):
        """Length, and whether parts are sent."""
        self.do_GET()

    def do_GET(self):
        """The part that is asked for."""
        wanted = self.headers.get("Range")
        if self.path != "/data":
            self.send_error(404)
            return
        start, end = 0, len(DATA) - 1
        if wanted and self.parts:
            start, end = map(int, wanted.removeprefix("bytes=").split("-"))
        body = DATA[start : end + 1]
        self.send_response(206 if wanted and self.parts else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(DATA)}")
        if self.parts:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(params=[True, False], ids=["parts", "whole"])
def server(request) -> Iterator[tuple[str, bool]]:
    """Address of a server on this machine, and whether it sends parts."""
    kind = type("Chosen", (Server,), {"parts": request.param})
    here = HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=here.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{here.server_port}", request.param
    here.shutdown()
    thread.join()
    here.server_close()


def test_a_file_is_read_in_parts_and_counted():
    """Ten bytes and five, in two requests; nothing costs nothing."""
    Path("data").write_bytes(DATA)
    with ranges("data") as source:
        assert source.take(10, 20) == DATA[10:20]
        assert source.take(195, 200) == DATA[195:]
        assert source.take(7, 7) == b""
        assert (source.size, source.read, source.requests) == (200, 15, 2)
        with pytest.raises(UnreadableFile, match="ends after 200 bytes"):
            source.take(190, 201)


def test_memory_is_read_like_a_file():
    """Any protocol that fsspec knows."""
    fsspec.filesystem("memory").pipe("/folder/data", DATA)
    with ranges("memory://folder/data") as source:
        assert source.take(10, 20) == DATA[10:20]
        assert source.read == 10


def test_a_server_is_asked_for_parts(server):
    """One that sends parts sends ten bytes; one that does not sends everything, once."""
    address, parts = server
    with ranges(f"{address}/data") as source:
        assert source.take(10, 20) == DATA[10:20]
        assert source.take(30, 32) == DATA[30:32]
        assert (source.read, source.requests) == ((12, 2) if parts else (200, 1))


def test_what_is_not_there_is_a_sentence(server):
    """A file, an address, a protocol nobody knows, a server that is not there."""
    for source in ("nothing", "memory://nothing", f"{server[0]}/nothing"):
        with pytest.raises(MissingFile, match="There is no file"), ranges(source):
            pass
    with pytest.raises(MissingFile, match="ClientConnector"), ranges("http://127.0.0.1:9/data"):
        pass
    with pytest.raises(UnreadableFile, match="nope"), ranges("nope://folder/data"):
        pass


@pytest.mark.parametrize(
    ("text", "is_one"), [("http://a/b", True), ("s3://a", True), ("a/b", False), ("C:\\a", False), ("://a", False), ("a://", False)]
)
def test_urls_are_told_from_paths(text, is_one):
    """A protocol and something behind it."""
    assert is_url(text) is is_one


def test_more_than_the_system_gives_at_once(monkeypatch):
    """The system gives 2 GB a call at most; here 7 bytes: parts are put together, and count as one request."""
    monkeypatch.setattr(module_under_test, "CHUNK", 7)
    Path("data").write_bytes(DATA)
    with ranges("data") as source:
        assert source.take(3, 60) == DATA[3:60]
        assert (source.read, source.requests) == (57, 1)
