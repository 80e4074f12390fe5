"""A real browser without a window: headless Chromium, spoken to by the DevTools protocol over its pipe.

Everything a page says counts: exceptions, errors on the console, requests of the network.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
SOUND = "--autoplay-policy=no-user-gesture-required"  # a script may play


class Browser:
    """One page at a time, of `width` pixels. A context manager."""

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        arguments = [CHROMIUM, *FLAGS, SOUND, f"--user-data-dir={self._folder.name}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(
            ["bash", "-c", command, *arguments], pass_fds=(to_browser, from_browser), **quiet
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.errors: list[str] = []  # what scripts threw, and what the console was told as an error
        self.requests: list[str] = []  # addresses asked for
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.send("Browser.close")
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)
        self._folder.cleanup()

    def open(self, path, width=1400, height=900, dark=False, scripts=True):
        """Load a file from disk and wait until it stands still."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.errors.clear()
        self.requests.clear()
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        self._until("Page.loadEventFired")
        if scripts:
            self.js("new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")

    def js(self, code):
        """The value of an expression in the page; a promise is awaited."""
        given = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in given, given["exceptionDetails"]
        return given["result"].get("value")

    def mouse(self, kind, x, y, **more):
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path, whole=False):
        """What is in sight, or the whole page, as a PNG."""
        given = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(given["data"]))

    @property
    def overflow(self):
        """By how many pixels the page is wider than its window."""
        return self.js("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def send(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        given = self._until(None, self._number)
        assert "error" not in given, (method, given)
        return given.get("result", {})

    def _until(self, event, number=None, seconds=60):
        """The message with this number, or the next event of this name; what is said before is noted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while b"\0" not in self._buffer:
                part = os.read(self._read, 1 << 20)
                assert part, "the browser is gone"
                self._buffer += part
            text, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(text)
            self._note(message.get("method"), message.get("params", {}))
            if (number is not None and message.get("id") == number) or (event and message.get("method") == event):
                return message
        raise TimeoutError(event or number)

    def _note(self, method, parameters):
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.errors.append(" ".join(str(x.get("value", x.get("description"))) for x in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
