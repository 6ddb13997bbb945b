"""The facade: one authenticated, multiplexed session. Bytes in, events out; frames queued, messages out.

It owns the handshake, the seal, streams with their credit, and requests with their replies. It knows no
clock, no randomness and no sockets, and does not judge who is welcome: the caller answers `Introduced`.
"""

from dataclasses import dataclass

from meshwire import limits
from meshwire.codec import Frame, batches, decode_frames, encode_frame
from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.events import (
    Closed,
    Established,
    Event,
    Introduced,
    Notice,
    Reply,
    Request,
    StreamOpened,
    StreamReceived,
    StreamReset,
    StreamWritable,
)
from meshwire.events import Pong as Ponged
from meshwire.exchange import Exchange
from meshwire.ids import NodeId, node_id
from meshwire.introduction import circuit_prologue, link_prologue, read_introduction, write_introduction
from meshwire.messages import TYPE_OF, GoAway, Joined, Open, Ping, Pong, Refusal
from meshwire.multiplex import Multiplex
from meshwire.noise import Handshake, Pattern, public_of
from meshwire.numbers import Flag, FrameType, Message, ResetCode
from meshwire.seal import Seal
from meshwire.signing import Signer
from meshwire.states import ADMITS, SESSION_MOVES, SessionState, SessionStep, move

__all__ = [
    "Closed",
    "Established",
    "Event",
    "Introduced",
    "Notice",
    "Reply",
    "Request",
    "Session",
    "SessionConfig",
    "StreamOpened",
    "StreamReceived",
    "StreamReset",
    "StreamWritable",
    "circuit_prologue",
    "link_prologue",
]

OUTBOX_MAX = 4 * 1024 * 1024
"""Bytes that may wait to be sent. Credit and counts keep an honest session far below."""

REASON_MAX = 256

_DATA = int(FrameType.DATA)
_REPLY = int(Flag.REPLY)  # plain: an enum's `&` is slow
_RUNNING = (SessionState.JOINING, SessionState.OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """One side of one session.

    `ephemeral_private` must be fresh for each session. `remote_static` is what an IK initiator expects.
    `chain` holds our raw certificates. Plaintexts are padded to multiples of `pad_bucket` bytes, 0 for not at
    all. With `sealed` off, which is for tests, frames after the handshake travel in the clear.
    """

    initiator: bool
    pattern: Pattern
    prologue: bytes
    static_private: bytes
    ephemeral_private: bytes
    signer: Signer
    chain: tuple[bytes, ...] = ()
    features: tuple[str, ...] = ()
    remote_static: bytes | None = None
    sealed: bool = True
    pad_bucket: int = 0


class Session:
    """One session. Feed `receive_data`, act on its events, send what `data_to_send` gives after each call.

    Methods raise LocalWireError when used out of turn or beyond the bounds; only `receive_data` raises
    RemoteWireError, after which the session is closed.
    """

    def __init__(self, config: SessionConfig) -> None:
        self._config = config
        self._handshake = Handshake(
            config.pattern,
            config.initiator,
            config.prologue,
            config.static_private,
            config.ephemeral_private,
            config.remote_static,
        )
        self.state = SessionState.HANDSHAKE
        self._admitted: frozenset[int] = frozenset()
        self.confirmed = False
        self.peer_key = b""
        self.peer_chain: tuple[bytes, ...] = ()
        self.peer_features: tuple[str, ...] = ()
        self._sealing: Seal | None = None
        self._ready: list[bytes] = []  # whole messages
        self._frames: list[bytes] = []  # frames to seal
        self._frames_bytes = 0
        self._streams = Multiplex(initiator=config.initiator, put=self._put)
        self._exchange = Exchange(self._put)
        self._on_frame = {
            FrameType.OPEN: self._streams.on_open,
            FrameType.WINDOW: self._streams.on_window,
            FrameType.RESET: self._streams.on_reset,
            FrameType.PING: self._on_ping,
            FrameType.PONG: self._on_pong,
            FrameType.GOAWAY: self._on_goaway,
        }

    # --- The handshake and its answer ---

    @property
    def initiator(self) -> bool:
        """Whether this side began."""
        return self._config.initiator

    @property
    def features(self) -> tuple[str, ...]:
        """What either side says of the session."""
        return (*self._config.features, *self.peer_features)

    @property
    def peer_id(self) -> NodeId:
        """The other end's id, once introduced."""
        return node_id(self.peer_key)

    @property
    def handshake_hash(self) -> bytes:
        """Names the session; equal at both ends and nowhere else. Final once both have been introduced."""
        return self._handshake.hash

    def start(self) -> None:
        """Queue the initiator's first handshake message. The responder has nothing to start."""
        if self._config.initiator:
            self._ready.append(self._handshake.write(self._own_payload(first=True)))

    def admit(self) -> None:
        """Answer Introduced: the other end is welcome."""
        self._answer(SessionStep.ADMIT)

    def admit_joining(self) -> None:
        """Answer Introduced: one end has no certificate yet, so only JOIN may pass."""
        self._answer(SessionStep.ADMIT_JOINING)

    def promote(self, chain: tuple[bytes, ...] = ()) -> None:
        """The certificate came. Sending or receiving a Joined does this by itself, so no frame races it."""
        if self.state is not SessionState.OPEN:
            self._step(SessionStep.PROMOTE)
        self.peer_chain = chain or self.peer_chain

    def refuse(self, code: CloseCode, reason: str) -> None:
        """Answer Introduced: the other end is not welcome. It hears why, unless that tells it who we are."""
        if not self._handshake.finished and not self._config.initiator:
            self._ready.append(self._handshake.write(self._own_payload()))
        self._split_if_finished()
        self.goaway(code, reason)

    def _answer(self, step: SessionStep) -> None:
        self._step(step)
        if not self._handshake.finished:
            self._ready.append(self._handshake.write(self._own_payload()))
            self._split_if_finished()
            return
        if self._config.initiator:
            self.confirmed = True  # IK: the responder answered only because it had admitted us
        else:
            self._ready.append(self._seal(b""))  # XX: tells the initiator that it is admitted

    def _own_payload(self, *, first: bool = False) -> bytes:
        """Our introduction, except in the first message of XX, which anybody can read."""
        config = self._config
        if first and config.pattern == "XX":
            return b""
        return write_introduction(
            config.signer, public_of(config.static_private), config.chain, config.features
        )

    def _split_if_finished(self) -> None:
        if self._handshake.finished and self._sealing is None:
            config = self._config
            self._sealing = Seal(self._handshake.split(), bucket=config.pad_bucket, on=config.sealed)

    def _step(self, step: SessionStep) -> None:
        self.state = move(SESSION_MOVES, self.state, step)
        self._admitted = frozenset(int(number) for number in ADMITS[self.state])  # plain: enums hash slowly

    # --- Sending ---

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` would give anything."""
        return bool(self._frames or self._ready)

    @property
    def queued_bytes(self) -> int:
        """How much waits to be sealed and sent."""
        return self._frames_bytes

    def data_to_send(self) -> list[bytes]:
        """What to send now: whole transport messages, as few as hold the queued frames. Empties the queue."""
        ready, self._ready = self._ready, []
        frames, self._frames = self._frames, []
        self._frames_bytes = 0
        if len(frames) == 1:
            ready.append(self._seal(frames[0]))
        elif frames:
            ready.extend(self._seal(batch) for batch in batches(frames))
        return ready

    def request(self, message: Message) -> int:
        """Ask; the number under which the Reply will come."""
        self._require(TYPE_OF[type(message)])
        return self._exchange.request(message)

    def forget(self, number: int) -> None:
        """Stop waiting for a reply; it is dropped if it still comes."""
        self._exchange.forget(number)

    def reply(self, number: int, message: Message) -> None:
        """Answer their request."""
        self._require(TYPE_OF[type(message)])
        self._exchange.reply(number, message)
        if isinstance(message, Joined) and self.state is SessionState.JOINING:
            self.promote(message.chain)

    def refuse_request(self, number: int, refusal: Refusal) -> None:
        """Answer their request with an error."""
        self._require()
        self._exchange.refuse(number, refusal)

    def notify(self, message: Message) -> None:
        """Send a message that wants no reply."""
        self._require(TYPE_OF[type(message)])
        self._put(encode_frame(message))

    def ping(self, token: int) -> None:
        """Ask for a Pong with this token."""
        self._require(FrameType.PING)
        self._put(encode_frame(Ping(token)))

    def goaway(self, code: CloseCode, reason: str = "") -> None:
        """Close the session, telling the other end why if that is possible already. Safe to call twice."""
        if self.state is SessionState.CLOSED:
            return
        if self._sealing is not None:
            self._put(encode_frame(GoAway(code, reason[:REASON_MAX])))
        self._step(SessionStep.CLOSE)

    def _require(self, number: FrameType = FrameType.PING) -> None:
        """Raise LocalWireError unless a frame of this type may be sent now."""
        if int(number) not in self._admitted:
            raise LocalWireError(f"{number.name} cannot be sent when {self.state!s}")

    def _put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._frames_bytes += len(frame)

    def _seal(self, plaintext: bytes) -> bytes:
        if self._sealing is None:
            raise LocalWireError("the handshake is not finished")
        return self._sealing.close(plaintext)

    # --- Streams ---

    def open(self, message: Open) -> int:
        """Open a stream; its number. Raises LocalWireError unless `may_open`."""
        self._require(FrameType.OPEN)
        return self._streams.open(message)

    @property
    def may_open(self) -> bool:
        """Whether the bounds allow one more stream of ours."""
        return self._streams.within_bounds(ours=True)

    def has_stream(self, stream: int) -> bool:
        """Whether the stream is still going: not ended both ways and used up, nor reset."""
        return stream in self._streams

    def credit(self, stream: int) -> int:
        """The longest payload that may be sent on the stream now; 0 if none, or if it has ended."""
        return self._streams.credit(stream)

    def send_data(self, stream: int, payload: bytes, end: bool = False) -> None:
        """Queue one payload, which arrives as one; `end` closes our half. An empty payload needs `end`."""
        self._require(FrameType.DATA)
        self._streams.send(stream, payload, end)

    def consumed(self, stream: int, payload_bytes: int) -> None:
        """One received payload of this length was used up: its credit goes back. Harmless after a reset."""
        if self.state is SessionState.OPEN:
            self._streams.consumed(stream, payload_bytes)

    def reset(self, stream: int, code: ResetCode) -> None:
        """End a stream at once, both ways. Harmless if it is over already."""
        if self.state is SessionState.OPEN:
            self._streams.reset(stream, code)

    # --- Receiving ---

    def receive_data(self, message: bytes) -> list[Event]:
        """What one transport message means; raises RemoteWireError, after which the session is closed."""
        try:
            if self._sealing is not None and self.state in _RUNNING:
                return self._receive_sealed(self._sealing, message)
            return self._receive_handshake(message)
        except RemoteWireError as error:
            self.goaway(error.code, error.code.name.lower())
            raise

    def _receive_handshake(self, message: bytes) -> list[Event]:
        if self.state is SessionState.CLOSED:
            return []
        if self.state is SessionState.INTRODUCED:
            raise LocalWireError("Introduced has not been answered")
        payload = self._handshake.read(message)
        static = self._handshake.remote_static
        if static is None:  # the first message of XX
            self._ready.append(self._handshake.write(self._own_payload()))
            return []
        return [self._introduce(payload, static)]

    def _introduce(self, payload: bytes, static: bytes) -> Event:
        introduction = read_introduction(payload, static, self._config.signer.public)
        self.peer_key, self.peer_chain = introduction.key, introduction.chain
        self.peer_features = introduction.features
        self._split_if_finished()
        self._step(SessionStep.INTRODUCE)
        return Introduced(introduction.key, introduction.chain, introduction.features)

    def _receive_sealed(self, sealing: Seal, message: bytes) -> list[Event]:
        if len(message) > limits.TRANSPORT_MESSAGE_MAX:
            raise RemoteWireError("a message is too long", CloseCode.TOO_LARGE)
        frames = decode_frames(sealing.open(message))
        found: list[Event] = []
        if not self.confirmed and not (frames and frames[0].type == FrameType.GOAWAY):
            self.confirmed = True
            found.append(Established())
        for frame in frames:
            if self.state is SessionState.CLOSED:
                break
            self._receive_frame(frame, found)
        if self._frames_bytes > OUTBOX_MAX:
            raise RemoteWireError("the other end asks for more than it reads", CloseCode.TOO_MANY)
        return found

    def _receive_frame(self, frame: Frame, found: list[Event]) -> None:
        if frame.type not in self._admitted:
            if frame.type < limits.KNOWN_KEYS:
                raise RemoteWireError(f"frame type {frame.type} is not admitted when {self.state!s}")
        elif frame.type == _DATA:
            self._streams.on_data(frame, found)
        elif frame.flags & _REPLY:
            awaited = self._exchange.on_reply(frame, found)
            if awaited and isinstance(frame.body, Joined) and self.state is SessionState.JOINING:
                self.promote()
        elif frame.type in self._on_frame:
            self._on_frame[FrameType(frame.type)](frame, found)
        else:
            self._exchange.on_request(frame, found)

    def _on_ping(self, frame: Frame, _: list[Event]) -> None:
        self._put(encode_frame(Pong(frame.body.token)))

    def _on_pong(self, frame: Frame, found: list[Event]) -> None:
        found.append(Ponged(frame.body.token))

    def _on_goaway(self, frame: Frame, found: list[Event]) -> None:
        self._step(SessionStep.CLOSE)
        found.append(Closed(frame.body.close_code, frame.body.reason))
