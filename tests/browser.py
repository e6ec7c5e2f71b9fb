"""Chromium without a window, for tests and screenshots, light and dark, at any width.

It is driven by its DevTools protocol over two pipes: no port is opened, and no driver has to be
installed.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)

# As root it has no sandbox of its own; the page is ours, and nothing else is opened.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
# Chromium listens on descriptor 3 and answers on 4.
START = (
    "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execv(sys.argv[3],"
    " sys.argv[3:])"
)
SECONDS = 90

# The pictures of a page, also those that would be loaded when one scrolls to them.
DECODED = (
    "Promise.all([...document.images].map(one => { one.loading = 'eager'; return one.decode(); }))"
)


class Browser:
    """Chromium with a profile of its own, as long as it is entered."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Out of the way of 3 and 4, which `START` overwrites.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_read, to_write)]
        command = [
            sys.executable,
            "-c",
            START,
            *map(str, ends),
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={profile}",
        ]
        self._process = subprocess.Popen(
            [*command, "about:blank"],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_read, to_write, *ends):
            os.close(end)
        self._heard = b""
        self._sent = 0
        self._open: str | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._read)
            os.close(self._write)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; what is told in between is kept in
        `events`.
        """
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params} | (
            {"sessionId": session} if session else {}
        )
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while (heard := self._next()).get("id") != self._sent:
            self.events.append(heard)
        assert "error" not in heard, heard
        result: dict[str, Any] = heard["result"]
        return result

    def new_tab(self) -> str:
        """Open an empty tab in place of the one that is open; returns its session."""
        if self._open is not None:
            self.call("Target.closeTarget", targetId=self._open)
            self.events.clear()
        self._open = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=self._open, flatten=True)
        return str(attached["sessionId"])

    def wait_for(self, session: str, method: str) -> None:
        while not any(
            one.get("method") == method and one.get("sessionId") == session for one in self.events
        ):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._heard:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium said nothing for {SECONDS} seconds"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._heard += part
        one, _, self._heard = self._heard.partition(b"\0")
        heard: dict[str, Any] = json.loads(one)
        return heard


class Tab:
    """A page that is open in a browser. Opening it closes the one that was open before.

    width    of the window in CSS pixels; under 600 it is that of a phone
    scheme   light or dark, which the page is told to be preferred
    media    screen or print
    height   of the window in CSS pixels
    """

    def __init__(
        self,
        browser: Browser,
        page: Path | str,
        width: int,
        scheme: str,
        media: str = "screen",
        height: int = 900,
    ) -> None:
        self._browser = browser
        self._session = browser.new_tab()
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1 + phone,
            mobile=phone,
        )
        self.prefer(scheme, media)
        address = page if isinstance(page, str) else page.as_uri()
        self.call("Page.navigate", url=address)
        browser.wait_for(self._session, "Page.loadEventFired")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def prefer(self, scheme: str, media: str = "screen") -> None:
        """Tell the page that light or dark is preferred now."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, script: str) -> Any:
        """The value of an expression, as JSON has it."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """The value of an expression as soon as it is true; asked a few times a second."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, f"after {seconds} seconds still not: {script}"
            time.sleep(0.25)
        return value

    def screenshot(self, path: Path, of: str | None = None) -> None:
        """Write a PNG of what the window shows, or of the first element that a selector finds."""
        clip = {}
        if of is not None:
            x, y, width, height = self.run(
                f"(at => [at.x, at.y, at.width, at.height])(document.querySelector({of!r})"
                ".getBoundingClientRect())"
            )
            clip = {"clip": {"x": x, "y": y, "width": width, "height": height, "scale": 1}}
        shot = self.call("Page.captureScreenshot", format="png", **clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def screenshots(self, path: Path, height: int) -> None:
        """Write PNGs of the whole page, one below the other, as `NAME-1.png` and so on.

        height   of a picture, in CSS pixels
        """
        self.call("Runtime.evaluate", expression=DECODED, awaitPromise=True)
        width, length = self.run(
            "[document.scrollingElement.clientWidth, document.scrollingElement.scrollHeight]"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        for number, top in enumerate(range(0, length, height), start=1):
            clip = {"x": 0, "y": top, "width": width, "height": min(height, length - top)}
            shot = self.call(
                "Page.captureScreenshot", format="png", captureBeyondViewport=True,
                clip={**clip, "scale": 1},
            )  # fmt: skip
            path.with_stem(f"{path.stem}-{number}").write_bytes(base64.b64decode(shot["data"]))

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """The messages of the console: errors, warnings, and violations of the page's policy."""
        told = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [
            event
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] in told
        ]


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """A browser with a new profile, for the time of a block."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        Browser(Path(profile)) as browser,
    ):
        yield browser


# Loopback is reached directly, whatever proxy the environment names.
_open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@contextlib.contextmanager
def served(command: Sequence[str], path: str) -> Iterator[str]:
    """The address of a server that runs for the time of a block, as soon as `path` answers.

    command   starts it; the number of its port is appended
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [*command, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            until = time.monotonic() + 180
            while True:
                try:
                    _open_url(f"http://127.0.0.1:{port}{path}", timeout=10).close()
                    break
                except OSError:
                    assert time.monotonic() < until, f"{command[0]} did not start"
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def mlflow_server(results: Path) -> contextlib.AbstractContextManager[str]:
    """MLflow's pages of the studies in a folder."""
    program = str(Path(sys.executable).with_name("mlflow"))
    uri = f"sqlite:///{results / 'mlflow.db'}"
    command = [program, "ui", "--backend-store-uri", uri, "--workers", "1", "--port"]
    return served(command, "/health")


def dashboard(storage: str) -> contextlib.AbstractContextManager[str]:
    """The pages of optuna-dashboard for a ledger."""
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    return served([program, storage, "--host", "127.0.0.1", "--port"], "/dashboard/")
