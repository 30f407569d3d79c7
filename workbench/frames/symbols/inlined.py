"""Was a function inlined away? DWARF keeps it as an abstract subprogram (DW_AT_inline) without an address."""

from __future__ import annotations

from pathlib import Path

__all__ = ("inlined",)

_MOST = 8 << 20
_INLINED = (1, 3)  # DW_INL_inlined, DW_INL_declared_inlined


def inlined(path: str | Path, name: str) -> bool:
    """The file's debug information has this function, but only inlined.

    False as well where there is no debug information, or more of it than can be searched in a second or two (8 MiB).
    """
    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.elf.elffile import ELFFile

    wanted = name.encode()
    try:
        with Path(path).open("rb") as file:
            elf = ELFFile(file)
            section = elf.get_section_by_name(".debug_info")
            if section is None or section["sh_size"] > _MOST:
                return False
            for unit in elf.get_dwarf_info().iter_CUs():
                for entry in unit.iter_DIEs():
                    if entry.tag != "DW_TAG_subprogram" or "DW_AT_inline" not in entry.attributes:
                        continue
                    called = entry.attributes.get("DW_AT_name")
                    if called is not None and called.value == wanted:
                        return entry.attributes["DW_AT_inline"].value in _INLINED
    except (OSError, ELFError, DWARFError, ValueError, KeyError, AssertionError):
        return False
    return False
