"""JupyterLab on loopback with throw-away settings, used through a real browser as a person would."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from webdriver import Browser

__all__ = ("Lab", "NotebookPage")

SETTINGS = {
    # No question about news on the first start, and no request to anywhere.
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Every cell is in the page, also those that one would have to scroll to.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}
INDICATOR = ".jp-Notebook-ExecutionIndicator"


class Lab:
    """A server; use as a context manager.

    Parameters
    ----------
    root : Path
        Folder whose notebooks it serves.
    scratch : Path
        Empty folder for its settings, workspaces and connection files.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root, self._scratch = root, scratch
        self.token = secrets.token_hex(16)
        self.url = ""

    def __enter__(self) -> Lab:
        settings = self._scratch / "settings" / "@jupyterlab"
        for name, values in SETTINGS.items():
            path = settings / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values), encoding="utf-8")
        places = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        environment = os.environ | {key: str(self._scratch / name) for key, name in places.items()}
        options = (
            "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
            "--LabApp.extension_manager=readonly", f"--ServerApp.root_dir={self._root}",
        )  # fmt: skip
        self._log = (self._scratch / "server.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment | {"JUPYTER_TOKEN": self.token},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self.url = self._ready(self._scratch / "runtime" / f"jpserver-{self._process.pid}.json")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _ready(self, facts: Path, seconds: float = 60.0) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.poll() is None:
            if facts.exists():
                url = str(json.loads(facts.read_text(encoding="utf-8"))["url"])
                try:
                    self.ask(url + "api/status")
                    return url
                except (urllib.error.URLError, ConnectionError):
                    pass
            time.sleep(0.05)
        log = (self._scratch / "server.log").read_text(encoding="utf-8", errors="replace")
        raise AssertionError(f"JupyterLab did not start:\n{log}")

    def ask(self, url: str) -> Any:
        """A GET with the token."""
        request = urllib.request.Request(url, headers={"Authorization": f"token {self.token}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as reply:
            return json.load(reply)

    def until_connected(self, path: str, seconds: float = 60.0) -> None:
        """Wait until a browser talks to the idle kernel of a notebook; before, Run All asks for a kernel."""
        end = time.monotonic() + seconds
        while not any(
            one["path"] == path
            and one["kernel"]["connections"]
            and one["kernel"]["execution_state"] == "idle"
            for one in self.ask(self.url + "api/sessions")
        ):
            assert time.monotonic() < end, "the notebook has no kernel"
            time.sleep(0.1)

    def _end(self) -> None:
        """The server ends its kernels when it is asked to end; whatever is left in its group is killed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()


class NotebookPage:
    """One notebook open in JupyterLab in a browser."""

    def __init__(self, lab: Lab, browser: Browser, path: str) -> None:
        self.browser = browser
        browser.open(f"{lab.url}lab/tree/{path}?token={lab.token}&reset")
        browser.until("return document.querySelector('.jp-NotebookPanel .jp-Cell') !== null", 60)
        lab.until_connected(path)
        browser.until(f"return document.querySelector('{INDICATOR}')?.dataset.status === 'idle'", 60)

    def run_all(self) -> None:
        """The menu Run, entry Run All Cells."""
        self.browser.until(
            "const run = [...document.querySelectorAll('.lm-MenuBar-itemLabel')]"
            ".find((one) => one.textContent === 'Run'); if (run) run.parentElement.id = 'menu-run';"
            "return Boolean(run)"
        )
        self.browser.click("#menu-run")
        entry = ".lm-Menu-item[data-command='runmenu:run-all']"
        self.browser.until(f'return document.querySelector("{entry}") !== null')
        self.browser.click(entry)

    def prompts(self) -> list[str]:
        """What stands before each code cell: ``[3]:``, or ``[*]:`` while it runs or waits."""
        found: list[str] = self.browser.run(
            "return [...document.querySelectorAll('.jp-CodeCell')].map("
            "(cell) => cell.querySelector('.jp-InputPrompt').textContent)"
        )
        return found

    def until(self, script: str, seconds: float = 60.0) -> None:
        """Wait until a JavaScript expression is true; a cell that fails meanwhile ends the wait."""
        end = time.monotonic() + seconds
        while not self.browser.run(f"return Boolean({script})"):
            errors = self.errors()
            assert not errors, f"a cell failed while waiting for {script}:\n{errors[0]}"
            assert time.monotonic() < end, f"still false after {seconds} s: {script}"
            time.sleep(0.05)

    def until_done(self, seconds: float = 60.0) -> None:
        """Wait until no cell runs or waits; those behind a failed one do not run any more."""
        end = time.monotonic() + seconds
        while "[*]:" in (prompts := self.prompts()) or ("[ ]:" in prompts and not self.errors()):
            assert time.monotonic() < end, f"cells still run: {prompts}"
            time.sleep(0.05)

    def save(self, path: Path, seconds: float = 20.0) -> dict[str, Any]:
        """Press the button that saves; the notebook that the server has then written to `path`."""
        before = path.stat().st_mtime_ns
        button = ".jp-NotebookPanel-toolbar [data-jp-item-name='save']"
        self.browser.click(f"{button} jp-button, {button} button")
        end = time.monotonic() + seconds
        while True:
            assert time.monotonic() < end, "JupyterLab did not save"
            time.sleep(0.05)
            if path.stat().st_mtime_ns != before:
                with contextlib.suppress(ValueError):  # it is written in place: not whole yet
                    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                    return found

    def output(self, index: int) -> str:
        """Text of the outputs of a code cell, as a reader sees it."""
        return str(
            self.browser.run(
                "return document.querySelectorAll('.jp-CodeCell')[arguments[0]]"
                ".querySelector('.jp-OutputArea')?.innerText ?? ''", index,
            )
        )  # fmt: skip

    def errors(self) -> list[str]:
        """What cells printed in red: tracebacks and standard error."""
        found: list[str] = self.browser.run(
            "return [...document.querySelectorAll('.jp-OutputArea-output[data-mime-type="
            "\"application/vnd.jupyter.stderr\"]')].map((one) => one.textContent)"
        )
        return found
