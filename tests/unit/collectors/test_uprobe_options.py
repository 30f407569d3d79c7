import numpy as np
import pytest

from workbench.collectors.registry import make
from workbench.collectors.uprobe.rows import record_dtype, text_of
from workbench.collectors.uprobe.summary import bucket_bounds
from workbench.errors import BadSpec


def test_what_a_specification_asks_for():
    one = make("uprobe:libc:malloc(size_t size)->void*,return=yes,stacks=fp,string=128").options
    assert (one.location, one.join, one.event, one.stacks, one.string) == (
        "libc:malloc",
        True,
        "call",
        "fp",
        128,
    )
    assert one.signature.result.kind == "pointer" and one.text == "uprobe:libc:malloc"
    assert (
        make("uretprobe:f").options.event == "return" and make("usdt:a:b").options.event == "mark"
    )
    counted = make("uprobe:f,count=yes,return=yes").options
    assert counted.join and not counted.events and not counted.arguments
    assert make("uprobe:f,latency=yes").frames == ("probe_counts", "probe_latencies")


@pytest.mark.parametrize(
    "text",
    ["uprobe", "usdt:tick", "uprobe:f,stacks=maybe", "uprobe:f,strings=3", "uprobe:f,string=9",
     "uretprobe:f,return=yes",
     "usdt:a:b,latency=yes", "uprobe:f,count=yes,stacks=yes", "uprobe:f(int", "uprobe:f,children=some"],
)  # fmt: skip
def test_what_is_refused(text):
    with pytest.raises(BadSpec):
        make(text)


def test_buckets_cover_every_duration_once():
    low, high = bucket_bounds(np.arange(200))
    assert low[0] == 0 and (low[1:] == high[:-1]).all() and (high > low).all()
    assert high[3] == 4 and low[4] == 4 and high[7] == 8 and low[8] == 8 and high[8] == 10


def test_strings_end_at_their_nul():
    raw = np.frombuffer(b"ab\0junk!" + b"\0xxxxxxx" + b"12345678", np.uint8).reshape(3, 8)
    assert text_of(raw).tolist() == [b"ab", b"", b"12345678"]


def test_record_layout_follows_the_program():
    hit = np.dtype([("time", "<u8"), ("site", "<u4"), ("event", "<u4")])
    stack = np.dtype([("ip", "<u8")])
    found = record_dtype(hit, stack, 2, 1, 16)
    assert found.itemsize == 16 + 16 + 16 + 8
    assert found.fields["strings"][1] == 32 and found.fields["stack"][1] == 48
