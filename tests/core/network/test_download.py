"""Laws of a download, with a real server on this machine's loopback."""

import hashlib
import socket
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from core.network import download
from core.network.download import DownloadError, StaysEncrypted, download_file

CONTENT = bytes(range(256)) * 4000
SUM = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """A server of one file.

    url       address of its file
    content   bytes of the file
    ranges    whether it can send a part of a file
    most      number of bytes after which it hangs up
    status    its answer
    length    the length that it states; None for the true one
    asked     the Range of each request
    """

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    most: int = 10**9
    status: int = 200
    length: str | None = None
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if begin and begin >= len(state.content):
                self.send_error(416)
                return
            if state.status != 200:
                self.send_error(state.status)
                return
            body = state.content[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", state.length or str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.most])

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_port}/weights.pth"
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        yield state
        listening.shutdown()
        thread.join()


def test_a_file_arrives_whole_and_alone_and_is_not_fetched_again(
    server: Server, tmp_path: Path
) -> None:
    path, seen = tmp_path / "new" / "weights.pth", []
    download_file(server.url, path, SUM[:8], lambda *numbers: seen.append(numbers))
    download_file(server.url, path, SUM[:8])
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert server.asked == [None]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


@pytest.mark.parametrize("ranges", [True, False])
def test_after_a_connection_that_ended_the_next_download_asks_for_the_rest(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    path = tmp_path / "weights.pth"
    server.most, server.ranges = 300_000, ranges
    with pytest.raises(DownloadError, match=r"the connection ended after 300,000 of 1,024,000 b"):
        download_file(server.url, path, SUM)
    assert not path.exists()
    server.most = 10**9
    download_file(server.url, path, SUM)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_beginning_of_another_file_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    (tmp_path / ".weights.pth.partial").write_bytes(b"x" * 1000)
    download_file(server.url, path, SUM)
    assert path.read_bytes() == CONTENT
    (tmp_path / ".other.pth.partial").write_bytes(b"x" * (len(CONTENT) + 5))
    download_file(server.url, tmp_path / "other.pth", SUM)
    assert (tmp_path / "other.pth").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None, f"bytes={len(CONTENT) + 5}-", None]


def test_another_file_than_was_promised_is_refused_and_not_kept(
    server: Server, tmp_path: Path
) -> None:
    server.content = b"<html>please log in</html>"
    with pytest.raises(DownloadError, match=f"must begin with {SUM[:8]}, and begins with .*proxy"):
        download_file(server.url, tmp_path / "weights.pth", SUM[:8])
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_without_end_is_left_and_nothing_stays(
    server: Server, tmp_path: Path
) -> None:
    server.length = "very long"
    with pytest.raises(DownloadError, match="the server sends more than 600,000 bytes"):
        download_file(server.url, tmp_path / "weights.pth", SUM, most=600_000)
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_is_no_number_is_not_known(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    server.length = "very long"
    download_file(server.url, tmp_path / "weights.pth", SUM, lambda *one: seen.append(one))
    assert seen[-1] == (len(CONTENT), 0)


@pytest.mark.parametrize("to", ["http://localhost/a", "ftp://localhost/a", "file:///etc/passwd"])
def test_an_encrypted_address_leads_to_no_other_kind(to: str) -> None:
    follows = StaysEncrypted()
    request = urllib.request.Request("https://localhost/weights.pth")
    with pytest.raises(DownloadError, match="points to an address without encryption"):
        follows.redirect_request(request, None, 302, "Found", {}, to)
    further = follows.redirect_request(request, None, 302, "Found", {}, "https://localhost/b")
    assert further.full_url == "https://localhost/b"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_answer_that_is_no_file_is_named(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=f"the server answers {status} "):
        download_file(server.url, tmp_path / "weights.pth", SUM)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_fails_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(DownloadError, match="timed out"):
            download_file(url, tmp_path / "weights.pth", SUM)
