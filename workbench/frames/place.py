"""Where a recording lives while it is made: PATH.partial beside PATH, owned by one live recorder.

The owner holds a lock on the folder itself (flock on its descriptor): it ends with the process, however that dies,
so a folder without a lock is what a dead recorder left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import time
from pathlib import Path

from workbench.errors import BadSpec, DamagedRecording, NotPermitted, RunFailed, WorkbenchError
from workbench.frames.manifest import NAME, Manifest

__all__ = ("PARTIAL", "claim", "inside", "is_live", "partial_of", "publish", "remove_recording")

PARTIAL = ".partial"
RESERVE = ".reserve"
FOLDERS = ("files", "spool")


def partial_of(path: Path) -> Path:
    """Where the recording is made that will be `path`."""
    return path.with_name(path.name + PARTIAL)


def inside(folder: Path, path: Path) -> Path:
    """`path` if it is a plain file inside `folder`.

    Raises
    ------
    DamagedRecording
        It is missing, no file, or a link that leads out of the folder.
    """
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise DamagedRecording(
            f"{path} is missing", "restore it, or wb.load(path, verify=False) reads the rest"
        ) from None
    if not real.is_relative_to(folder.resolve()) or not real.is_file():
        raise DamagedRecording(
            f"{path} is not a file inside the recording",
            "copy the file itself into the folder, not a link",
        )
    return path


def _lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock a folder; False if another process holds it. Where there are no locks, everything is free."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    return True


def is_live(folder: Path) -> bool:
    """Whether a recorder is writing in `folder` now."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _foreign(folder: Path, manifest: Manifest) -> str:
    """Name of something in `folder` that no recorder put there, or empty."""
    frames = {*manifest.frames, "stacks"}
    ours = {NAME, f".{NAME}.part", RESERVE, "files", "spool"}
    ours |= {f"{name}.parquet" for name in frames} | {f".{name}.parquet.part" for name in frames}
    ours |= {f"files/{name}" for name in manifest.files} | {
        f"files/.{name}.part" for name in manifest.files
    }
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        streamed = path.parent == folder / "spool" and path.suffix in (".arrow", ".index")
        if (
            path.is_symlink()
            or not (name in ours or streamed)
            or path.is_dir() != (name in FOLDERS)
        ):
            return name
    return ""


def check_replaceable(folder: Path) -> None:
    """Raise BadSpec unless `folder` is a recording and nothing else."""
    try:
        manifest = Manifest.read(folder, verify=False)
    except WorkbenchError as error:
        raise BadSpec(
            f"{folder} exists and is not a readable recording, so it is not replaced ({error.message})",
            "choose another output, or move it away yourself",
        ) from None
    if foreign := _foreign(folder, manifest):
        raise BadSpec(
            f"{folder} holds {foreign!r}, which is no part of a recording, so it is not replaced",
            "move that file away, or choose another output",
        )


def remove_recording(folder: Path) -> None:
    """Delete a recording after checking that it is one."""
    check_replaceable(folder)
    shutil.rmtree(folder)


def _vacant(path: Path) -> bool:
    return not path.is_symlink() and (
        not path.exists() or (path.is_dir() and not any(path.iterdir()))
    )


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise BadSpec when a recording cannot become `path`, NotPermitted where not even that can be seen."""
    try:
        if _vacant(path):
            return
    except OSError as error:
        raise NotPermitted(
            f"no recording can be made at {path}: {error.strerror}",
            "choose a folder that you may write to",
        ) from error
    if not overwrite:
        raise BadSpec(
            f"{path} exists already", "choose another output, or say overwrite (--overwrite)"
        )
    check_replaceable(path)


def claim(path: Path, manifest: Manifest, *, overwrite: bool) -> tuple[Path, int]:
    """Make ``PATH.partial`` with its first manifest and lock it.

    Returns
    -------
    folder : Path
    descriptor : int
        Of the locked folder; closing it gives the lock up.

    Raises
    ------
    BadSpec
        PATH exists and may not be replaced, another recorder is writing to PATH, or a dead recorder's folder is
        there and `overwrite` is not set.
    NotPermitted
        The place cannot be written.
    """
    check_output(path, overwrite=overwrite)
    folder = partial_of(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
        _lock(descriptor)
        (fresh / "spool").mkdir()
        manifest.write(fresh)
        _move_in(fresh, folder, overwrite=overwrite)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            raise NotPermitted(
                f"no recording can be made at {path}: {error.strerror} ({error.filename})",
                "choose a folder that you may write to",
            ) from error
        if isinstance(error, OSError):
            raise RunFailed(
                f"no recording can be made at {path}: {error.strerror}",
                "choose another folder with -o, or free space",
            ) from error
        raise
    return folder, descriptor


def _move_in(fresh: Path, folder: Path, *, overwrite: bool) -> None:
    """Rename `fresh` to `folder`, which succeeds only when nobody else's folder is there."""
    for _ in range(10):
        try:
            fresh.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not _lock(descriptor):
                time.sleep(0.01)  # a reader holds the lock for an instant
                continue
            if not overwrite:
                raise BadSpec(
                    f"{folder} holds what a recorder that died left behind",
                    "wb.load reads it; move it away, or say overwrite (--overwrite) to replace it",
                )
            remove_recording(folder)
        finally:
            os.close(descriptor)
    raise BadSpec(f"another recorder is writing to {folder}", "stop it, or choose another output")


def publish(folder: Path, path: Path, *, overwrite: bool) -> None:
    """Rename the finished `folder` to `path`, in place of an earlier recording if that is allowed."""
    check_output(path, overwrite=overwrite)
    old = path.with_name(f".{path.name}.old.{os.getpid()}")
    if _vacant(path):
        folder.rename(path)
        return
    path.rename(old)
    try:
        folder.rename(path)
    except BaseException:
        old.rename(path)
        raise
    with contextlib.suppress(OSError):
        shutil.rmtree(old)
