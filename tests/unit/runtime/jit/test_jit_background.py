"""The thread that compiles while programs run."""

from __future__ import annotations

import threading

import pytest

from workbench.runtime.jit import background


def test_a_job_that_fails_does_not_end_the_thread(capfd: pytest.CaptureFixture[str]) -> None:
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("this job is broken")

    background.submit(fail)
    background.submit(done.set)
    assert done.wait(60)
    assert "this job is broken" in capfd.readouterr().err


def test_jobs_wait_until_nobody_is_busy() -> None:
    found: list[bool] = []
    done = threading.Event()

    def job() -> None:
        found.append(background.calm())
        done.set()

    background.busy()
    background.submit(job)
    assert done.wait(60)
    assert found == [True]


def test_a_process_that_ends_does_not_wait_for_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    begun, done = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        found.append(background.calm())
        done.set()

    monkeypatch.setattr(background, "_worker", None)
    monkeypatch.setattr(background, "_busy_until", threading.TIMEOUT_MAX)
    background.submit(job)
    worker = background._worker
    assert worker is not None and begun.wait(60)
    worker.end()
    assert done.is_set() and found == [False]
    assert not worker.thread.is_alive()
