"""Frames survive any cutting of the stream, and nothing malformed gets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.engine.worker.frames import (
    FRAME_MAX,
    Alive,
    Broken,
    Cancel,
    Embedded,
    Ended,
    FrameError,
    FrameReader,
    Inspect,
    Inspected,
    Loading,
    Measured,
    Open,
    Prefilled,
    Refused,
    Run,
    Started,
    Threads,
    Written,
    pack,
    read_command,
    read_event,
)
from meshnode.terms import FinishReason, Job, Likelihood, Sampling, TokenLogprob, ToolCall, Turn, Wish

JOB = Job(
    id="one",
    wish=Wish(),
    turns=(Turn(role="user", content="hällo"),),
    sampling=Sampling(stop=("x",), logprobs=True),
    resume=(1, 2),
)
COMMANDS = [
    Open("/a/model.gguf", 8),
    Run(1, JOB, b"scope"),
    Cancel(1),
    Threads(3),
    Inspect(forget=True),
]
EVENTS = [
    Loading(0.5),
    Broken("no", "hint"),
    Started(1, 5),
    Prefilled(1, 2, 5),
    Written(
        1,
        0,
        (5, 6),
        "né",
        (ToolCall("call_1", "look", "{}"),),
        (TokenLogprob(b"\xff", -0.5, (Likelihood(b"x", -1.0),)),),
    ),
    Embedded(1, 0, bytes(8)),
    Ended(1, FinishReason.STOP, 3, 2, 1),
    Refused(1, "busy", "later"),
    Measured(1.0, 2.0, 3.0),
    Alive(),
    Inspected(runs=1, cells=2, idle=3, occupied=4),
]


@given(st.lists(st.integers(1, 40), max_size=40))
def test_frames_come_out_whole_however_the_stream_is_cut(cuts):
    packed, reader, found = pack(COMMANDS), FrameReader(), []
    for cut in [*cuts, len(packed)]:
        found += [read_command(body) for body in reader.feed(packed[:cut])]
        packed = packed[cut:]
    assert found == COMMANDS


def test_events_come_back_as_they_were():
    assert [read_event(body) for body in FrameReader().feed(pack(EVENTS))] == EVENTS


@pytest.mark.parametrize("length", [0, FRAME_MAX + 1, 0xFFFFFFFF])
def test_impossible_lengths_are_refused_before_anything_is_read(length):
    with pytest.raises(FrameError):
        list(FrameReader().feed(length.to_bytes(4)))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", pack([Ended(1, FinishReason.STOP, 1, 1)])[4:]])
def test_a_body_that_is_no_command_is_refused(body):
    with pytest.raises(FrameError):
        read_command(body)
