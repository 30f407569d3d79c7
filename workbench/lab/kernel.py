"""A guest's kernel: the uncompressed image that QEMU enters directly, its configuration, its modules, its types.

The uncompressed image (vmlinux) has an entry for virtual machines (the PVH boot protocol, CONFIG_PVH): the firmware and
the kernel's own decompressor are skipped, which an emulated processor takes seconds for, and no address is random.
"""

from __future__ import annotations

import json
import lzma
import re
import struct
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from workbench.errors import BadSpec, MissingCapability
from workbench.lab.cache import Cache

__all__ = (
    "Kernel",
    "decompress",
    "find_module",
    "load_order",
    "release_of",
    "uncompressed",
    "unsigned",
)

_ZSTD, _GZIP, _XZ, _LZ4 = b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"\x02\x21\x4c\x18"
_SIGNED = b"~Module signature appended~\n"
_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")


@dataclass(frozen=True, slots=False)
class Kernel:
    """A kernel that is ready to boot.

    Parameters
    ----------
    release : str
        As `uname -r` prints it.
    vmlinux : Path
        ELF file to boot.
    modules : Path or None
        Folder of its modules (``/lib/modules/RELEASE``).
    types : Path or None
        File with its BTF, for `vmlinux.h`.
    config : Path or None
        Its configuration.
    origin : str
        Where it came from, for people.
    """

    release: str
    vmlinux: Path
    modules: Path | None
    types: Path | None
    config: Path | None
    origin: str

    @cached_property
    def options(self) -> dict[str, str]:
        """Its configuration, ``{"SCHED_CLASS_EXT": "y"}``; empty when that is not known."""
        if not self.config:
            return {}
        text = self.config.read_text(errors="replace")
        return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE))

    def built_in(self, option: str) -> bool | None:
        """Whether `option` is part of the image itself; None when the configuration is not known."""
        return self.options.get(option) == "y" if self.config else None

    def btf(self) -> bytes:
        """Its types, as /sys/kernel/btf/vmlinux has them in the guest.

        Raises
        ------
        MissingCapability
            It was built without them.
        """
        from elftools.elf.elffile import ELFFile

        with (self.types or self.vmlinux).open("rb") as file:
            section = ELFFile(file).get_section_by_name(".BTF")
            if section is None:
                raise MissingCapability(
                    f"kernel {self.release} was built without BTF",
                    "take one that has CONFIG_DEBUG_INFO_BTF=y",
                )
            return bytes(section.data())

    def save(self, folder: Path) -> None:
        """Write `kernel.json` in `folder`."""
        fields = {name: str(value) if value else None for name, value in asdict(self).items()}
        (folder / "kernel.json").write_text(json.dumps(fields, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Kernel | None:
        """The kernel that was saved in `folder`; None if there is none, or a part of it is gone."""
        try:
            fields = json.loads((folder / "kernel.json").read_text())
            paths = {
                name: fields[name] and Path(fields[name]) for name in ("modules", "types", "config")
            }
            kernel = cls(
                fields["release"], Path(fields["vmlinux"]), origin=fields["origin"], **paths
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return kernel if kernel.vmlinux.is_file() else None

    @classmethod
    def saved(cls, cache: Cache) -> list[Kernel]:
        """All kernels in the cache, by release."""
        found = [
            cls.load(path.parent) for path in sorted((cache.top / "kernels").glob("*/kernel.json"))
        ]
        return [one for one in found if one]


def release_of(image: bytes) -> str:
    """The release that a bzImage names in its header (Documentation/arch/x86/boot.rst, kernel_version); "" if none."""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        return ""
    (offset,) = struct.unpack_from("<H", image, 0x20E)
    text = image[offset + 0x200 : offset + 0x200 + 256].split(b"\0", 1)[0].decode(errors="replace")
    return text.split(" ", 1)[0] if offset else ""


def uncompressed(image: bytes) -> bytes:
    """The vmlinux in a bzImage; `image` itself when it is one.

    Raises
    ------
    BadSpec
        Neither.
    """
    if image.startswith(b"\x7fELF"):
        return image
    if image[0x202:0x206] == b"HdrS":
        # boot.rst: sectors of set-up code, then the protected-mode code in which the payload lies.
        sectors = image[0x1F1] or 4
        offset, length = struct.unpack_from("<II", image, 0x248)
        start = (sectors + 1) * 512 + offset
        payload = image[start : start + length]
        if not payload.startswith(_GZIP):
            payload = payload[:-4]  # the build appends the size; gzip has one of its own
        data = decompress(payload)
        if data.startswith(b"\x7fELF"):
            return data
    raise BadSpec(
        "the file is no Linux kernel image for x86", "name a vmlinuz (bzImage) or a vmlinux"
    )


def decompress(data: bytes) -> bytes:
    """Undo the compression that the first bytes tell: zstd, xz, gzip, lz4 or none.

    Raises
    ------
    BadSpec
        The data is damaged.
    """
    try:
        if data.startswith(_ZSTD):
            return _stream(data, "zstd")
        if data.startswith(_LZ4):
            raise BadSpec("the kernel is compressed by lz4's old format", "name its vmlinux")
        if data.startswith(_XZ):
            return lzma.LZMADecompressor().decompress(data)
        if data.startswith(_GZIP):
            return zlib.decompressobj(wbits=31).decompress(data)
    except (OSError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise BadSpec(
            f"a compressed kernel or module is damaged: {error}",
            "`workbench lab prepare --again` gets it anew",
        ) from error
    return data


def _stream(data: bytes, codec: str) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
        return bytes(stream.read())


def find_module(folder: Path, name: str) -> Path | None:
    """The file of module `name` below `folder`; None when it is no module there (`-` and `_` are the same)."""
    wanted = name.replace("-", "_")
    for suffix in _SUFFIXES:
        for path in folder.rglob(f"*{suffix}"):
            if path.name[: -len(suffix)].replace("-", "_") == wanted:
                return path
    return None


def unsigned(module: bytes) -> bytes:
    """The module without the signature that is appended to it (kernel/module/signing.c, `struct module_signature`).

    No key of the distributor is loaded in a guest, so checking it would only take time.
    """
    if not module.endswith(_SIGNED):
        return module
    size = int.from_bytes(module[-len(_SIGNED) - 4 : -len(_SIGNED)], "big")
    end = len(module) - len(_SIGNED) - 12 - size
    return module[:end] if end > 0 else module


def load_order(
    kernel: Kernel, names: tuple[str, ...], wanted: tuple[str, ...] = ()
) -> list[tuple[str, bytes]]:
    """Modules to load, uncompressed, each after those it depends on.

    Parameters
    ----------
    kernel : Kernel
        Whose modules.
    names : tuple of str
        Modules to load where they are modules; what is built in, or unknown, is left out.
    wanted : tuple of str
        Modules that must be there.

    Raises
    ------
    MissingCapability
        One of `wanted` is neither a module of this kernel nor built in.
    """
    built_in: set[str] = set()
    if kernel.modules and (kernel.modules / "modules.builtin").is_file():
        lines = (kernel.modules / "modules.builtin").read_text().split()
        built_in = {Path(line).name.removesuffix(".ko").replace("-", "_") for line in lines}
    order: dict[str, bytes] = {}

    def add(name: str, must: bool, way: tuple[str, ...]) -> None:
        name = name.replace("-", "_")
        if name in order or name in built_in or name in way:
            return
        path = find_module(kernel.modules, name) if kernel.modules else None
        if path is None:
            if must:
                raise MissingCapability(f"kernel {kernel.release} has no module {name}")
            return
        data = unsigned(decompress(path.read_bytes()))
        for needed in re.findall(rb"\0depends=([^\0]*)\0", data):
            for one in filter(None, needed.decode().split(",")):
                add(one, True, (*way, name))
        order[name] = data

    for name in names:
        add(name, False, ())
    for name in wanted:
        add(name, True, ())
    return list(order.items())
