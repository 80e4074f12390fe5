"""A headless Chromium, by its debugging protocol over a pipe: what a page says, how wide it is, what a script finds."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--disable-dev-shm-usage")
AUTOPLAY = "--autoplay-policy=no-user-gesture-required"
TIMEOUT = 60.0  # seconds, for each answer


class Browser:
    """One tab. `messages`: errors and warnings of the console, exceptions, what could not be loaded; `requests`."""

    def __init__(self, profile: Path):
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in (their_in, their_out)]  # clear of 3, 4
        command = [CHROMIUM, *OPTIONS, AUTOPLAY, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]

        def place() -> None:
            for fd, number in zip(high, (3, 4), strict=True):
                os.dup2(fd, number)

        self.process = subprocess.Popen(command, preexec_fn=place, close_fds=False, stderr=subprocess.DEVNULL)
        for fd in (*high, their_in, their_out):
            os.close(fd)
        self.out, self.input, self.buffer = our_out, our_in, b""
        self.number, self.session, self.messages, self.requests = 0, None, [], []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters) -> dict:
        self.number += 1
        asked = {"id": self.number, "method": method, "params": parameters}
        asked |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def open(self, address: str, width: int = 1400, dark: bool = False, height: int = 900) -> None:
        """Load a page at this width, light or dark, with messages of its own."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url="about:blank")
        self.wait("document.URL === 'about:blank'")
        self.messages.clear()
        self.requests.clear()
        self.ask("Page.navigate", url=address)
        self.wait("document.URL !== 'about:blank' && document.readyState === 'complete'")

    def run(self, script: str):
        """The value of a script, awaited."""
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not self.run(condition):
            assert time.monotonic() < end, f"never: {condition}"
            time.sleep(0.05)

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, path: Path) -> None:
        """Of the whole page."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self.out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.input)

    def _read(self) -> dict:
        while b"\0" not in self.buffer:
            ready, *_ = select.select([self.input], [], [], TIMEOUT)
            part = os.read(self.input, 1 << 16) if ready else b""
            assert part, "Chromium has ended, or says nothing"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        what, said = event.get("method"), event.get("params", {})
        if what == "Runtime.exceptionThrown":
            self.messages.append(said["exceptionDetails"].get("exception", {}).get("description", str(said)))
        elif what == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.messages.append(" ".join(str(argument.get("value")) for argument in said["args"]))
        elif what == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.messages.append(said["entry"]["text"])
        elif what == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif what == "Network.loadingFailed" and not said.get("canceled"):
            self.messages.append(f"not loaded: {said['errorText']}")
