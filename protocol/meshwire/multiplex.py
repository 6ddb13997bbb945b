"""All streams of one session: their numbers, bounds and credit, and the connection's credit over them.

It turns frames into events and calls into frames; when that is allowed at all is the session's business.
"""

from collections.abc import Callable

from meshwire import limits
from meshwire.codec import Frame, encode_data, encode_frame
from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.events import Event, StreamOpened, StreamReceived, StreamReset, StreamWritable
from meshwire.messages import Open, Reset, Window
from meshwire.numbers import Flag, ResetCode
from meshwire.states import StreamState, StreamStep
from meshwire.streams import FRAME_COST, Inflow, Outflow, Stream, cost

UNREAD_SHARE = 16  # a stream of which much is unread may take a sixteenth of what is left for all


class Multiplex:
    """The streams of one session. `put` queues a frame. The initiator's streams have odd numbers."""

    def __init__(self, *, initiator: bool, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._streams: dict[int, Stream] = {}
        self._next = 1 if initiator else 2
        self._last_theirs = 0
        self._inflow = Inflow(limits.CONNECTION_CREDIT, shared=True)
        self._outflow = Outflow(limits.CONNECTION_CREDIT)

    def __contains__(self, number: int) -> bool:
        return number in self._streams

    # --- Sending ---

    def open(self, message: Open) -> int:
        """Open a stream of ours; its number."""
        if not self.within_bounds(ours=True):
            raise LocalWireError("too many streams are open")
        number = self._next
        self._put(encode_frame(message, number))
        self._next += 2
        self._streams[number] = Stream(number, ours=True)
        return number

    def within_bounds(self, *, ours: bool) -> bool:
        """Whether that side may open one more: not too many, nor too many that had no answer yet."""
        same = [stream for stream in self._streams.values() if stream.ours == ours]
        unanswered = sum(not stream.answered for stream in same)
        return len(same) < limits.INBOUND_STREAMS and unanswered < limits.PENDING_OPENS

    def credit(self, number: int) -> int:
        """The longest payload that may be sent on the stream now."""
        stream = self._streams.get(number)
        if stream is None or not stream.may_send:
            return 0
        return max(0, self._room(stream) - FRAME_COST)

    def _room(self, stream: Stream) -> int:
        """What may be spent on a stream now: a share of what is left for all, where much of its own is not read.

        As in Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches" (1998): so
        streams that nobody reads leave room for others. Less than half of a window may have been read all the same,
        since that much is not given back yet.
        """
        spent = stream.outflow.spent
        room = min(stream.outflow.left, self._outflow.left)
        if 2 * spent < limits.STREAM_CREDIT:
            return room
        return max(0, min(room, self._outflow.left // UNREAD_SHARE - spent))

    def send(self, number: int, payload: bytes, end: bool) -> None:
        """Queue one payload."""
        stream = self._streams.get(number)
        if stream is None or not stream.may_send or not (payload or end):
            raise LocalWireError(f"stream {number} cannot be sent on")
        amount = cost(len(payload))
        if amount > self._room(stream):
            raise LocalWireError(f"{len(payload)} bytes are more than stream {number} has credit for")
        frame = encode_data(number, payload, end=end)
        stream.outflow.take(amount)
        self._outflow.take(amount)
        stream.answered = stream.answered or not stream.ours
        self._put(frame)
        if end:
            stream.step(StreamStep.SEND_END)
            self._drop_if_done(stream)

    def consumed(self, number: int, payload_bytes: int) -> None:
        """Give back the credit of one received payload."""
        stream = self._streams.get(number)
        if stream is None:
            return  # a reset has given it back already
        amount = cost(payload_bytes)
        credit = stream.consume(amount)
        if credit:
            stream.answered = stream.answered or not stream.ours
            self._put(encode_frame(Window(credit), number))
        self._give_back(amount)
        self._drop_if_done(stream)

    def reset(self, number: int, code: ResetCode) -> None:
        """End a stream at once, if it is not over already."""
        stream = self._streams.get(number)
        if stream is None:
            return
        if stream.state is not StreamState.CLOSED:
            self._put(encode_frame(Reset(code), number))
        self._drop(stream)

    def _give_back(self, amount: int) -> None:
        """Return credit on the connection."""
        credit = self._inflow.give(amount)
        if credit:
            self._put(encode_frame(Window(credit)))

    def _drop(self, stream: Stream) -> None:
        if stream.state is not StreamState.CLOSED:  # else it ended both ways, with something left unread
            stream.step(StreamStep.RESET)
        del self._streams[stream.number]
        self._give_back(stream.held)

    def _drop_if_done(self, stream: Stream) -> None:
        if stream.done:
            del self._streams[stream.number]

    # --- Receiving ---

    def on_data(self, frame: Frame, found: list[Event]) -> None:
        """One payload: accounted for, and in order."""
        number, payload, end = frame.stream, frame.body, frame.flags == Flag.END
        amount = cost(len(payload))
        if not self._inflow.take(amount):
            raise RemoteWireError("more data than the connection's credit", CloseCode.CREDIT)
        stream = self._find(number)
        if stream is None:  # it crossed our RESET
            self._give_back(amount)
            return
        if not stream.may_receive or not (payload or end):
            raise RemoteWireError(f"data on stream {number} after its END, or none at all")
        if not stream.receive(amount):
            self._give_back(amount)
            self.reset(number, ResetCode.CREDIT)
            found.append(StreamReset(number, ResetCode.CREDIT))
            return
        self._give_back(0)  # what was due may be half of what is free now
        stream.answered = stream.answered or stream.ours
        if end:
            stream.step(StreamStep.RECEIVE_END)
            self._drop_if_done(stream)
        found.append(StreamReceived(number, payload, end))

    def on_open(self, frame: Frame, found: list[Event]) -> None:
        """The other end opens a stream; one too many is reset."""
        number = frame.stream
        if number % 2 == self._next % 2 or number <= self._last_theirs:
            raise RemoteWireError(f"stream {number} cannot be opened by the other end now")
        self._last_theirs = number
        if not self.within_bounds(ours=False):
            self._put(encode_frame(Reset(ResetCode.TOO_MANY), number))
            return
        self._streams[number] = Stream(number, ours=False)
        found.append(StreamOpened(number, frame.body))

    def on_window(self, frame: Frame, found: list[Event]) -> None:
        """Credit for a stream, or for the connection."""
        if frame.stream == 0:
            self._outflow.add(frame.body.credit)
            found.append(StreamWritable(0))
            return
        stream = self._find(frame.stream)
        if stream is not None:
            stream.outflow.add(frame.body.credit)
            stream.answered = stream.answered or stream.ours
            found.append(StreamWritable(frame.stream))

    def on_reset(self, frame: Frame, found: list[Event]) -> None:
        """The other end gives a stream up."""
        stream = self._find(frame.stream)
        if stream is not None:
            self._drop(stream)
            found.append(StreamReset(frame.stream, frame.body.code))

    def _find(self, number: int) -> Stream | None:
        """The stream, None if it is over; raises RemoteWireError if there never was one."""
        stream = self._streams.get(number)
        if stream is None:
            ours = number % 2 == self._next % 2
            if not 0 < number <= (self._next - 2 if ours else self._last_theirs):
                raise RemoteWireError(f"a frame for stream {number}, which was never opened")
        return stream
