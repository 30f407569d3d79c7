"""One deterministic guest for all tests of this folder: booting is the dearest thing here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import workbench as wb
from workbench.errors import MissingCapability
from workbench.lab.prepare import prepare
from workbench.lab.vm import Vm

LONG = 600.0  # seconds; a guest on a busy host may be fifty times slower than on an idle one


@pytest.fixture(scope="session")
def prepared() -> str:
    """The release of the kernel that guests boot; prepared now unless it is."""
    try:
        return prepare(say=print).release
    except MissingCapability as error:
        pytest.skip(f"no guest can be prepared here: {error.message}")


@pytest.fixture(scope="session")
def vm(prepared: str) -> Iterator[Vm]:
    """The guest; a test leaves nothing behind in it that another could see."""
    with wb.lab(boot_limit=LONG) as vm:
        yield vm
