"""A small WebDriver client (https://www.w3.org/TR/webdriver2/) for the installed chromedriver; loopback only."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Down": "\ue015", "Up": "\ue013", "Right": "\ue014"}


class Browser:
    """Headless Chromium; use as a context manager."""

    def __init__(self, profile: str, width: int = 1000, height: int = 800) -> None:
        self._arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-quic",
            "--disable-sync",
            "--no-first-run",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
        ]

    def __enter__(self) -> Browser:
        program = shutil.which("chromedriver")
        assert program, "Debian: apt-get install chromium-driver"
        self._process = subprocess.Popen(
            [program, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout
        port = next(
            found.group(1)
            for line in self._process.stdout
            if (found := re.search(r"started successfully on port (\d+)", line))
        )
        self._base = f"http://127.0.0.1:{port}/session"
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": self._arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        try:
            session = self._send("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._process.terminate()
            self._process.wait(10)
            raise
        self._base += f"/{session['sessionId']}"
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._send("DELETE", "")
        finally:
            self._process.terminate()
            self._process.wait(10)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._base + path, data, method=method)
        # No proxy of the environment may see a request to this machine itself.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def open(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Value of a JavaScript function body."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        found = self._send("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def click(self, selector: str) -> None:
        self._send("POST", f"/element/{self.find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._send("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, key: str) -> None:
        """Press a key in whatever has the focus."""
        value = KEYS.get(key, key)
        keys = [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": keys}]})

    def drag(self, selector: str, start: int, end: int) -> None:
        """Drag the mouse along the middle of an element, offsets in pixels from its middle."""
        origin = {ELEMENT: self.find(selector)}
        steps: list[dict[str, Any]] = [
            {"type": "pointerMove", "origin": origin, "x": start, "y": 0, "duration": 0},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "origin": origin, "x": end, "y": 0, "duration": 20},
            {"type": "pointerUp", "button": 0},
        ]
        self._send(
            "POST", "/actions", {"actions": [{"type": "pointer", "id": "m", "actions": steps}]}
        )

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))

    def complaints(self) -> list[str]:
        """Warnings and errors that the page wrote to the console."""
        log = self._send("POST", "/se/log", {"type": "browser"})
        return [one["message"] for one in log if one["level"] in ("SEVERE", "WARNING")]

    def until(self, script: str, seconds: float = 10.0) -> Any:
        """Wait until a JavaScript function body returns something true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise AssertionError(f"still false after {seconds} s: {script}")
            time.sleep(0.02)
        return value
