"""Load an object into the kernel or into user space: the same object, the same calls on what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec, MissingCapability, NotPermitted

if TYPE_CHECKING:
    from workbench.objects.model import BpfObject

__all__ = ("BACKENDS", "load")

BACKENDS = ("auto", "kernel", "userspace")


def load(obj: BpfObject, backend: str = "auto", **options: Any) -> Any:
    """Load an object.

    Parameters
    ----------
    obj : BpfObject
    backend : str
        kernel, userspace or auto. auto takes the kernel where it accepts the object, else user space; the result's
        `backend` and `why` say which and for what reason.
    **options
        constants, map_sizes, programs, pid: see `workbench.kernel.loaded.load`; the others of
        `workbench.runtime.loaded.load` go to user space only.

    Returns
    -------
    Loaded
        Of `workbench.kernel.loaded` or `workbench.runtime.loaded`; both have `maps`, `globals`, `programs`,
        `ring(name)`, `attach(program, target, pid=)`, `test_run`, `close`, `backend` and `why`.

    Raises
    ------
    VerifierRejected
        By the verifier of the backend; `auto` does not try the other one, for a refusal is a bug to look at.
    MissingCapability
        With auto: neither can; the message has both reasons.
    """
    if backend not in BACKENDS:
        raise BadSpec(f"there is no backend {backend!r}", f"one of {', '.join(BACKENDS)}")
    if backend == "kernel":
        loaded = _kernel(obj, options)
        loaded.why = "it was asked for"
        return loaded
    if backend == "userspace":
        loaded = _userspace(obj, options)
        loaded.why = "it was asked for"
        return loaded
    try:
        loaded = _kernel(obj, options)
        whom = "every process" if loaded.default_pid is None else f"process {loaded.default_pid}"
        loaded.why = f"the kernel takes it, and sees {whom}"
        return loaded
    except (NotPermitted, MissingCapability) as refused:
        kernel = refused
    try:
        loaded = _userspace(obj, options)
    except MissingCapability as error:
        raise MissingCapability(
            f"neither backend can run {obj.name}: kernel: {kernel.message}; user space: {error.message}",
            error.hint or kernel.hint,
        ) from error
    loaded.why = f"the kernel does not take it: {kernel.message}"
    return loaded


_USERSPACE_ONLY = ("namespace", "left_out", "budget")


def _kernel(obj: BpfObject, options: dict[str, Any]) -> Any:
    from workbench.kernel.loaded import load as load_kernel

    return load_kernel(obj, **{k: v for k, v in options.items() if k not in _USERSPACE_ONLY})


def _userspace(obj: BpfObject, options: dict[str, Any]) -> Any:
    from workbench.runtime.loaded import load as load_userspace

    return load_userspace(obj, **options)
