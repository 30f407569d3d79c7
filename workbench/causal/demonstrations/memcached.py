"""Memcached in a cgroup, as in a container; a library that was preloaded signs every reply under one lock."""

from __future__ import annotations

from workbench.causal.demonstrations.model import CLIENT, Demonstration, Process, Spot, client

__all__ = ("MEMCACHED",)

_PORT, _TURNS = 7102, 200

MEMCACHED = Demonstration(
    name="memcached",
    about="a preloaded library signs every reply under one lock (planted); all in a cgroup",
    processes=(
        Process(
            "memcached",
            lambda place: ["memcached", "-u", "root", "-p", str(_PORT), "-U", "0", "-l", "127.0.0.1", "-t", "2"],
            environment=lambda place: {
                "WORKBENCH_KNOBS": str(place.knobs),
                "LD_PRELOAD": str(place.programs / "memcached_sign.so"),
            },
            port=_PORT,
            requests=((b"set greeting 0 0 5\r\nhello\r\n", b"STORED\r\n"),),
        ),
        client(_PORT, 16, r"get greeting\r\n", r"END\r\n"),
    ),
    progress=(CLIENT, "exchanged"),
    spots=(
        Spot("sign_reply", "memcached_sign.so:sign_reply"),
        Spot("memcached itself", "text:memcached"),
        Spot("libevent", "text:libevent"),
        Spot("libc", "text:libc.so"),
        Spot("the client", "text:load_client"),
    ),
    knobs={0: _TURNS},
    fix=lambda fraction: {0: round(_TURNS * (1 - fraction))},
    cgroup=True,
)  # fmt: skip
