"""Trial of the lab: whether a guest could boot now. Booting itself takes seconds and has its own command."""

from __future__ import annotations

from contextlib import ExitStack

from workbench.host.trial import trial

__all__ = ()


@trial("lab", "workbench lab prepare", limit=20.0)
def _lab(stack: ExitStack) -> str:
    from workbench.lab.cache import Cache
    from workbench.lab.prepare import ready

    kernel, kvm = ready(Cache())
    return f"QEMU can boot Linux {kernel.release} ({kernel.origin}), image and programs are there; KVM: {kvm}"
