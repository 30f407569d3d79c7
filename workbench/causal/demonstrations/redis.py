"""Redis and its client, two processes that work in turns; a module that was loaded digests every command."""

from __future__ import annotations

from workbench.causal.demonstrations.model import CLIENT, Demonstration, Process, Spot, client

__all__ = ("REDIS",)

_PORT, _TURNS = 7101, 200

REDIS = Demonstration(
    name="redis",
    about="a module's command filter digests every command (planted)",
    processes=(
        Process(
            "redis",
            lambda place: [
                "redis-server", "--port", str(_PORT), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(place.folder), "--loadmodule", str(place.programs / "redis_audit.so"),
            ],
            environment=lambda place: {"WORKBENCH_KNOBS": str(place.knobs)},
            port=_PORT,
            requests=((b"SET greeting hello\r\n", b"+OK\r\n"),),
        ),
        client(_PORT, 16, r"*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n", r"$5\r\nhello\r\n"),
    ),
    progress=(CLIENT, "exchanged"),
    spots=(
        Spot("audit_digest", "redis_audit.so:audit_digest"),
        Spot("processCommand", "processCommand"),
        Spot("call", "call"),
        Spot("processInputBuffer", "processInputBuffer"),
        Spot("writeToClient", "writeToClient"),
        Spot("libc", "text:libc.so"),
    ),
    knobs={0: _TURNS},
    fix=lambda fraction: {0: round(_TURNS * (1 - fraction))},
)  # fmt: skip
