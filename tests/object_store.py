"""An S3 server on loopback: moto's, in a process of its own. Tests without moto are skipped."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class ObjectStore:
    """A bucket of an S3 server.

    url           the URL of a folder in it
    environment   variables with the credentials
    """

    url: str
    environment: Mapping[str, str]


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[ObjectStore]:
    """A server with one empty bucket, which ends with the block.

    folder   holds its log
    """
    pytest.importorskip("moto", reason="moto, an S3 server, is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    credentials = {
        "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(8),
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log, env={**os.environ, **credentials},
        )  # fmt: skip
    try:
        bucket = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(bucket, timeout=30).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "s3.log").read_text()
                assert time.monotonic() < until, (folder / "s3.log").read_text()
                time.sleep(0.2)
        where = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        yield ObjectStore(f"s3://bucket/folder?{where}", credentials)
    finally:
        server.kill()
        server.wait()
