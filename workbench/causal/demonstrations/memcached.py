"""Memcached in a cgroup, as in a container; a library that was preloaded signs every reply under one lock.

On one CPU the client, which is behind in service, takes the CPU from a worker thread after each reply: a worker is at
work for one request at a time. So requests ask for many keys at once, and the signature takes several sample periods:
with requests for one key and 20 us in `sign_reply` (at 100 us between two samples) -2 % was predicted for -35 %.

A thread that keeps lists of recently used items in order wakes up 1,000 times a second, by a timer. On one
CPU, which it hands on with its own clock (R5), it takes back what a region gained in less than a millisecond: other
regions than the bottleneck then seem to be worth nothing. So it is switched off.
"""

from __future__ import annotations

from workbench.causal.demonstrations.model import CLIENT, Demonstration, Process, Spot, client

__all__ = ("MEMCACHED",)

_PORT, _TURNS, _KEYS = 7102, 2500, 100

MEMCACHED = Demonstration(
    name="memcached",
    about="a preloaded library signs every reply under one lock (planted); all in a cgroup",
    processes=(
        Process(
            "memcached",
            lambda place: [
                "memcached", "-u", "root", "-p", str(_PORT), "-U", "0", "-l", "127.0.0.1", "-t", "2",
                "-o", "no_lru_maintainer,no_lru_crawler",
            ],
            environment=lambda place: {
                "WORKBENCH_KNOBS": str(place.knobs),
                "LD_PRELOAD": str(place.programs / "memcached_sign.so"),
            },
            port=_PORT,
            requests=((b"set page 0 0 5\r\nhello\r\n", b"STORED\r\n"),),
        ),
        client(_PORT, 16, "get" + " page" * _KEYS + r"\r\n", r"END\r\n"),
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
