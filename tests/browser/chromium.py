"""Debian's Chromium without a window, driven over its debugging pipe; no package is needed."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# The pipe's ends must be file descriptors 3 and 4 of the browser.
_LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
_LAUNCH += "os.execv(sys.argv[3], sys.argv[3:])"


class Page:
    """One page of a browser of its own.

    Args:
        profile: an empty folder.
        width, height: of the view, in CSS pixels.
        dark: prefer the dark colour scheme.

    Attributes:
        problems: what went wrong since the last `open`: exceptions, errors, failed loads.
        requests: addresses that were asked for since then, without those inside of the page.
    """

    def __init__(self, profile: Path, width: int = 1440, height: int = 900, dark: bool = False):
        read, browser_write = os.pipe()
        browser_read, write = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (browser_read, browser_write)]
        os.close(browser_read)
        os.close(browser_write)
        command = [sys.executable, "-c", _LAUNCH, *map(str, high), CHROMIUM, *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in high:
            os.close(end)
        self._read, self._write, self._buffer, self._number = read, write, b"", 0
        self._session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        attach = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attach["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)
        self.dark(dark)

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(Exception):
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def send(self, method: str, **parameters) -> dict:
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._wait(lambda got: got.get("id") == message["id"], method)

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file, with the part of its address after the #, and wait for its load event."""
        if fragment:  # else it may be a step within the page
            self.send("Page.navigate", url="about:blank")
            self._wait(lambda got: got.get("method") == "Page.loadEventFired", "load")
        self.problems, self.requests = [], []
        self.send("Page.navigate", url=path.resolve().as_uri() + (f"#{fragment}" * bool(fragment)))
        self._wait(lambda got: got.get("method") == "Page.loadEventFired", "load")
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")

    def run(self, script: str):
        """Evaluate JavaScript in the page and return its value (a promise is waited for)."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 600) -> bool:
        """Say whether a condition comes true in time; events of a page may come late."""
        end = time.monotonic() + seconds
        while not (true := self.run(script)) and time.monotonic() < end:
            time.sleep(0.05)
        return bool(true)

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {"Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code.get(key, 0),
            )  # fmt: skip

    def resize(self, width: int, height: int) -> None:
        """Set the size of the view; narrow ones count as a phone."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def dark(self, dark: bool, media: str = "") -> None:
        """Prefer the dark or the light colour scheme; on a screen, unless `media` is print."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media=media, features=scheme)

    def screenshot(self, out: Path, whole: bool = False) -> None:
        """Write a PNG of the view, or of the whole page."""
        options = {}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            options = {"clip": clip, "captureBeyondViewport": True}
        out.write_bytes(b64decode(self.send("Page.captureScreenshot", **options)["data"]))

    def _wait(self, wanted, what: str, seconds: float = 600) -> dict:
        end = time.monotonic() + seconds
        while True:
            while b"\0" in self._buffer:
                line, self._buffer = self._buffer.split(b"\0", 1)
                got = json.loads(line)
                self._note(got)
                if wanted(got):
                    if "error" in got:
                        raise RuntimeError(f"{what}: {got['error']['message']}")
                    return got.get("result", {})
            left = end - time.monotonic()
            ready = left > 0 and select.select([self._read], [], [], left)[0]
            if not ready or not (data := os.read(self._read, 1 << 20)):
                raise RuntimeError(f"{what}: the browser does not answer")
            self._buffer += data

    def _note(self, got: dict) -> None:
        """Remember what went wrong, and what was asked of a network."""
        method, details = got.get("method"), got.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(details["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.problems.append(details["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and details["type"] == "error":
            self.problems.append(str(details["args"]))
        elif method == "Network.requestWillBeSent":
            url = details["request"]["url"]
            if not url.startswith(("data:", "about:")):
                self.requests.append(url)
