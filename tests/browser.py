"""A headless Chromium, spoken to over a pipe by its own protocol: no driver, no dependency, no network."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome") if os.name == "posix" else ()
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
FLAGS += ["--no-first-run", "--disable-extensions", "--disable-background-networking", "--force-color-profile=srgb"]

AS_3_AND_4 = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for pipe, number in zip(pipes, (3, 4)):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""  # the file descriptors at which Chromium listens and answers


class Browser:
    """One tab. What the page requests and complains of is collected in `requests` and `complaints`."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="musiq_ref_browser_")
        (from_us, to_us), (from_it, to_it) = os.pipe(), os.pipe()
        self.reads, self.writes, self.left, self.number = from_it, to_us, b"", 0
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={self.folder}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, str(from_us), str(to_it), *command],
            pass_fds=(from_us, to_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_it)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.session: str | None = None
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def close(self) -> None:
        """Ends the browser, and removes what it wrote."""
        os.close(self.writes)
        self.process.terminate()
        self.process.wait(30)
        os.close(self.reads)
        shutil.rmtree(self.folder, ignore_errors=True)

    def send(self, method: str, timeout: float = 120, **params: Any) -> dict[str, Any]:
        """The result of one command."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.writes, data) :]
        end = time.monotonic() + timeout
        while True:
            answer = self._next(end - time.monotonic())
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self, timeout: float) -> dict[str, Any]:
        parts = [self.left]
        while b"\0" not in parts[-1]:
            if not select.select([self.reads], [], [], max(0, timeout))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self.reads, 2**20)
            if not data:
                raise EOFError("the browser has ended")
            parts.append(data)
        message, _, self.left = b"".join(parts).partition(b"\0")
        answer = json.loads(message)
        params = answer.get("params", {})
        match answer.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"].get("exception", params)))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
        return answer

    def open(self, page: Path, fragment: str = "") -> None:
        """Opens a file, and waits until its model has computed."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=f"{page.resolve().as_uri()}{fragment}")
        end = time.monotonic() + 60
        while not self.run("typeof musiq !== 'undefined'"):
            if time.monotonic() > end:
                raise TimeoutError(f"{page} does not begin")
            time.sleep(0.05)
        self.run("musiq.ready.then(() => true)")

    def run(self, script: str) -> Any:
        """The value of JavaScript, awaited."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", {}).get("description", answer)))
        return answer["result"].get("value")

    def array(self, script: str) -> np.ndarray:
        """A Promise of {shape, data} as an array."""
        text = self.run(
            f"({script}).then(({{shape, data}}) => {{ const bytes = new Uint8Array(Float32Array.from(data).buffer); "
            "let text = ''; for (let i = 0; i < bytes.length; i += 32768) "
            "text += String.fromCharCode(...bytes.subarray(i, i + 32768)); "
            "return JSON.stringify(shape) + ' ' + btoa(text); })"
        )
        shape, values = text.split(" ")
        return np.frombuffer(base64.b64decode(values), "<f4").reshape(json.loads(shape))

    def resize(self, width: int, height: int = 900) -> None:
        """The window's size in pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
