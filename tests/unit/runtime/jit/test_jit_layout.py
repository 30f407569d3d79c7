"""Offsets that compiled code uses are those of the C header."""

from __future__ import annotations

import json
import subprocess

from workbench.native.build import HERE, compiler
from workbench.runtime.jit import layout
from workbench.runtime.lower import SK_BUFF_NATIVE


def test_offsets_are_the_headers(tmp_path):
    structures = {"wb_run": layout.RUN, "wb_map": layout.MAP, "wb_program": layout.PROGRAM}
    fields = [(one, name) for one, names in structures.items() for name in names]
    lines = [
        f'printf("\\"{one}.{name}\\": %zu,", offsetof(struct {one}, {name}));'
        for one, name in fields
    ]
    source = tmp_path / "offsets.c"
    source.write_text(
        '#include <stdio.h>\n#include "runtime.h"\nint main(void) { printf("{");'
        + "\n".join(lines)
        + 'printf("\\"wb_run\\": %zu, \\"wb_program\\": %zu, \\"helpers\\": %d, \\"stop\\": %d}",'
        " sizeof(struct wb_run), sizeof(struct wb_program), WB_HELPERS, WB_STOP_BUDGET); }"
    )
    program = tmp_path / "offsets"
    command = [compiler(), f"-I{HERE / 'runtime'}", "-o", str(program), str(source)]
    subprocess.run(command, check=True)
    found = json.loads(subprocess.run([program], capture_output=True, check=True).stdout)
    assert {f"{one}.{name}": found[f"{one}.{name}"] for one, name in fields} == {
        f"{one}.{name}": structures[one][name] for one, name in fields
    }
    assert found["wb_run"] == layout.RUN_BYTES
    assert found["wb_program"] == layout.PROGRAM_BYTES
    assert found["helpers"] == layout.HELPERS
    assert found["stop"] == layout.STOP_BUDGET


def test_packet_loads_read_the_lowered_context():
    assert {name: SK_BUFF_NATIVE[name] for name in layout.PACKET} == layout.PACKET
