"""What a session reports. Plain values; what to do about them is decided above."""

import msgspec

from meshwire.errors import CloseCode
from meshwire.messages import Open, Refusal
from meshwire.numbers import Message, ResetCode


class Event(msgspec.Struct, frozen=True, gc=False):
    """What every event is."""


class Introduced(Event, frozen=True, gc=False):
    """The other end has proved that it holds `key`. Answer with admit, admit_joining or refuse."""

    key: bytes
    chain: tuple[bytes, ...]
    features: tuple[str, ...]


class Established(Event, frozen=True, gc=False):
    """The other end has admitted us: its first sealed message has come."""


class Request(Event, frozen=True, gc=False):
    """The other end asks; answer with reply or refuse_request under the same number."""

    number: int
    message: Message


class Reply(Event, frozen=True, gc=False):
    """The answer to our request of this number."""

    number: int
    message: Message | Refusal


class Notice(Event, frozen=True, gc=False):
    """A message that wants no reply."""

    message: Message


class StreamOpened(Event, frozen=True, gc=False):
    """The other end opened a stream."""

    stream: int
    open: Open


class StreamReceived(Event, frozen=True, gc=False):
    """One payload, in order; `end` if it is the last. Call `consumed` with its length once it is used."""

    stream: int
    payload: bytes
    end: bool


class StreamWritable(Event, frozen=True, gc=False):
    """There is more credit on this stream; 0 means on the connection, so on any stream."""

    stream: int


class StreamReset(Event, frozen=True, gc=False):
    """The stream ended at once, by the other end or for breaking its credit."""

    stream: int
    code: ResetCode


class Pong(Event, frozen=True, gc=False):
    """The answer to our ping with this token."""

    token: int


class Closed(Event, frozen=True, gc=False):
    """The other end said goodbye. Nothing follows."""

    code: CloseCode
    reason: str
