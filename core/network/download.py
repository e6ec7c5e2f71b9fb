"""Large files from the web: whole and with the promised checksum, or not at all.

What has arrived is kept beside the file as `.NAME.partial`. The next download of the same file,
also by another process after this one was killed, asks for the rest alone. Servers that cannot send
a rest send the whole file again.
"""

import contextlib
import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock

CONNECT_SECONDS = 10.0
"""A download that receives nothing for this time, in seconds, has failed: without a network the
user waits seconds, not minutes."""
CHUNK = 2**18
"""Bytes that are received at once."""

DownloadProgress = Callable[[int, int], object]
"""A function of the bytes that have arrived and of those of the whole file, 0 if not known."""


class DownloadError(Exception):
    """A download that failed, with its reason in words."""


def download_file(
    url: str,
    path: Path,
    sha256: str = "",
    progress: DownloadProgress | None = None,
    most: int = sys.maxsize,
) -> None:
    """Download a file, unless it is there.

    path       its path; the folder is made
    sha256     first hexadecimal digits of its SHA-256; empty if they are not known
    progress   called as bytes arrive
    most       number of bytes above which the download is ended and what arrived is removed

    Proxies are those of the environment. An https address is not left for one without encryption,
    wherever the server points. Raises DownloadError with a reason that names neither the address
    nor the path, and OSError where the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.partial")
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        with lock:
            if not path.exists():
                _complete(url, part, sha256, progress, most)
                part.replace(path)
    finally:
        # Two processes that then lock different files may spoil a partial file, which the checksum
        # finds; a lock that stays would be litter among the user's files.
        Path(lock.lock_file).unlink(missing_ok=True)


def _complete(
    url: str, part: Path, sha256: str, progress: DownloadProgress | None, most: int
) -> None:
    """Make `part` the whole file. Raises DownloadError."""
    resumed = part.exists() and part.stat().st_size > 0
    _receive(url, part, progress, most)
    found = _sha256_of(part)
    if resumed and not found.startswith(sha256):
        # The beginning may be of another version of the file.
        part.unlink()
        _receive(url, part, progress, most)
        found = _sha256_of(part)
    if not found.startswith(sha256):
        part.unlink()
        raise DownloadError(
            f"its SHA-256 must begin with {sha256}, and begins with {found[: len(sha256)]}: the"
            " server or a proxy sent another file"
        )


class StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but from https to https alone."""

    def redirect_request(self, req: urllib.request.Request, *rest: Any) -> Any:
        """The request to the new address, which is the last of the arguments."""
        if req.type == "https" and urlsplit(rest[-1]).scheme != "https":
            raise DownloadError("the server points to an address without encryption")
        return super().redirect_request(req, *rest)


def _receive(url: str, part: Path, progress: DownloadProgress | None, most: int) -> None:
    """Receive what `part` lacks of a file, and add it to `part`. Raises DownloadError."""
    begin = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={begin}-"} if begin else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with _web_errors():
            opener = urllib.request.build_opener(StaysEncrypted)
            response = opener.open(request, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and begin:  # nothing is left to send: the checksum decides
            return
        raise DownloadError(f"the server answers {error.code} {error.reason}") from None
    with response:
        begin = begin if getattr(response, "status", None) == 206 else 0
        length = response.headers.get("Content-Length") or ""
        total = begin + int(length) if length.isdecimal() else 0
        with part.open("ab" if begin else "wb") as stream:
            while True:
                with _web_errors():
                    chunk = response.read(CHUNK)
                if not chunk:
                    break
                if stream.tell() + len(chunk) > most:
                    part.unlink()
                    raise DownloadError(f"the server sends more than {most:,} bytes")
                stream.write(chunk)
                if progress is not None:
                    progress(stream.tell(), total)
            stream.flush()
            os.fsync(stream.fileno())
            arrived = stream.tell()
    if total > begin and arrived < total:
        raise DownloadError(f"the connection ended after {arrived:,} of {total:,} bytes")


@contextlib.contextmanager
def _web_errors() -> Iterator[None]:
    """Turn errors of the network into DownloadError; an answer of a server stays as it is."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise DownloadError(str(error.reason)) from None
    except (OSError, HTTPException) as error:
        raise DownloadError(str(error) or type(error).__name__) from None


def _sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
