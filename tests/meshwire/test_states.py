"""The tables: whole, without dead ends, and the specs show exactly them."""

from enum import StrEnum
from pathlib import Path

import pytest

from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.messages import NOTICES, REPLIES
from meshwire.numbers import FrameType
from meshwire.states import (
    ADMITS,
    SESSION_MOVES,
    STREAM_MOVES,
    SessionState,
    SessionStep,
    StreamState,
    StreamStep,
    diagram,
    move,
)
from meshwire.streams import FRAME_COST, Inflow, Outflow, Stream, cost
from tests.meshwire.frame_vectors import type_rows

SPECS = Path(__file__).parents[2] / "specs"


@pytest.mark.parametrize(
    ("moves", "states", "steps", "end"),
    [
        (SESSION_MOVES, SessionState, SessionStep, SessionState.CLOSED),
        (STREAM_MOVES, StreamState, StreamStep, StreamState.CLOSED),
    ],
)
def test_every_state_and_step_is_used_and_every_state_can_end(
    moves: dict[tuple[StrEnum, StrEnum], StrEnum],
    states: type[StrEnum],
    steps: type[StrEnum],
    end: StrEnum,
) -> None:
    sources = {state for state, _ in moves}
    assert sources | {end} == set(states)
    assert end not in sources
    assert {step for _, step in moves} == set(steps)
    closing = {state for (state, _), after in moves.items() if after == end}
    assert closing == sources


def test_a_step_that_is_not_in_the_table_is_our_error() -> None:
    with pytest.raises(LocalWireError):
        move(SESSION_MOVES, SessionState.OPEN, SessionStep.ADMIT)


def test_every_state_says_what_it_admits() -> None:
    assert set(ADMITS) == set(SessionState)
    assert ADMITS[SessionState.OPEN] == set(NOTICES) | set(REPLIES) | {FrameType.DATA}
    assert ADMITS[SessionState.JOINING] == {
        FrameType.JOIN,
        FrameType.CERT,
        FrameType.PING,
        FrameType.PONG,
        FrameType.GOAWAY,
    }


@pytest.mark.parametrize(
    ("spec", "drawing"),
    [
        ("session.md", diagram(SESSION_MOVES, SessionState.HANDSHAKE)),
        ("streams.md", diagram(STREAM_MOVES, StreamState.OPEN)),
    ],
)
def test_the_specs_show_the_tables(spec: str, drawing: str) -> None:
    assert f"```mermaid\n{drawing}\n```" in (SPECS / spec).read_text(encoding="utf-8")


def test_the_spec_of_frames_shows_every_type() -> None:
    text = (SPECS / "frames.md").read_text(encoding="utf-8")
    for row in type_rows():
        assert row in text


# --- Credit ---


def test_credit_is_given_back_by_halves() -> None:
    inflow = Inflow(100)
    assert inflow.take(100)
    assert not inflow.take(1)
    assert inflow.give(49) == 0
    assert inflow.give(1) == 50
    assert inflow.left == 50


def test_credit_cannot_be_invented() -> None:
    outflow = Outflow(100)
    outflow.take(60)
    with pytest.raises(LocalWireError):
        outflow.take(41)
    outflow.add(60)
    with pytest.raises(RemoteWireError):
        outflow.add(1)


def test_a_frame_costs_more_than_its_payload_unless_it_is_empty() -> None:
    assert cost(1) == 1 + FRAME_COST
    assert cost(0) == 0


def test_more_cannot_be_consumed_than_came() -> None:
    stream = Stream(1, ours=True)
    assert stream.receive(10)
    with pytest.raises(LocalWireError):
        stream.consume(11)


def test_a_stream_is_done_when_both_ended_and_all_was_consumed() -> None:
    stream = Stream(1, ours=True)
    stream.receive(10)
    stream.step(StreamStep.SEND_END)
    stream.step(StreamStep.RECEIVE_END)
    assert not stream.done
    stream.consume(10)
    assert stream.done
