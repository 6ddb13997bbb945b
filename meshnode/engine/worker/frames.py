"""The messages between a node and its worker: msgpack maps, each behind a 32-bit big-endian length.

Both ends import this file, so it knows neither llama.cpp nor trio. Wrong bytes are FrameError, never a guess.
"""

from collections.abc import Iterator, Sequence

import msgspec

from meshnode.terms import FinishReason, Job, Posture, Recheck, Redrawn, TokenLogprob, ToolCall

FRAME_MAX = 16 * 1024 * 1024  # a prompt of a megabyte fits many times over
LENGTH_BYTES = 4


class FrameError(Exception):
    """What came is not a frame of this protocol."""


class Command(msgspec.Struct, frozen=True, tag=True):
    """What a node says to its worker."""


class Wall(msgspec.Struct, frozen=True, kw_only=True):
    """What contains a worker: `kind` is bubblewrap (it is inside already), landlock (to be applied) or none.

    `readable` is what it may still read, `private` are files of its owner that it must not, known to exist
    outside; `memory_bytes` bounds its address space, 0 does not.
    """

    kind: str = "none"
    readable: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    memory_bytes: int = 0


class Open(Command, frozen=True):
    """The first command: load this model.

    `context` is in tokens; 0 means the most that is sensible. `shelf_bytes` is what idle conversations may take
    beside the cache. `plain` computes without the kernels for this very processor. `divided` gives each slot its own
    part of the context.
    """

    path: str
    slots: int
    context: int = 0
    threads: int = 1
    wall: Wall = Wall()
    shelf_bytes: int = 0
    plain: bool = False
    divided: bool = False


class Run(Command, frozen=True):
    """Answer a job; `number` names the run in all that follows.

    Runs of the same `scope` may share what was computed for a common beginning; an empty one shares nothing.
    """

    number: int
    job: Job
    scope: bytes = b""


class Cancel(Command, frozen=True):
    """End a run and free its slot; nothing more comes for it. An unknown number is no error."""

    number: int


class Threads(Command, frozen=True):
    """Compute with this many threads from the next step on."""

    count: int


class Inspect(Command, frozen=True):
    """Say what is held, after letting go of everything that nobody runs if told to `forget`."""

    forget: bool = False


class Check(Command, frozen=True):
    """Draw an answer again that was written elsewhere, while there is nothing else to do; Checked says the rest."""

    number: int
    check: Recheck


class Event(msgspec.Struct, frozen=True, tag=True):
    """What a worker says to its node."""


class Confined(Event, frozen=True):
    """What the worker found when it tried to break out, before it opened the model: what it says of that
    later could be the model's word.
    """

    posture: Posture


class Loading(Event, frozen=True):
    """How much of the model is read, 0 to 1."""

    done: float


class Ready(Event, frozen=True, kw_only=True):
    """The model runs. Speeds are measured just now, in tokens per second; `file_type` is GGUF's number."""

    metadata: dict[str, str]
    file_type: int
    parameters: int
    weights_bytes: int
    context: int
    slots: int
    threads: int
    prompt_tps: float
    generate_tps: float
    batch_gain: float
    features: tuple[str, ...] = ()


class Broken(Event, frozen=True):
    """The model cannot be run, and trying again would not help; the worker leaves after this."""

    message: str
    hint: str = ""


class Started(Event, frozen=True):
    """A run was counted and taken in."""

    number: int
    prompt_tokens: int


class Prefilled(Event, frozen=True):
    """`done` of a run's `total` prompt tokens are read."""

    number: int
    done: int
    total: int


class Written(Event, frozen=True):
    """Whole tokens and what they make, as in a Piece; `first_index` counts from the answer's start."""

    number: int
    first_index: int
    ids: tuple[int, ...]
    text: str
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Embedded(Event, frozen=True):
    """The vector of a run's input number `index`, as little-endian 32-bit floats."""

    number: int
    index: int
    values: bytes


class Ended(Event, frozen=True):
    """The clean end of a run."""

    number: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Refused(Event, frozen=True):
    """A run that cannot be, or broke; `code` is a MeshError's."""

    number: int
    code: str
    message: str
    hint: str = ""
    param: str = ""


class Checked(Event, frozen=True):
    """What a Check has found; nothing where it could not be, or gave way to a run."""

    number: int
    places: tuple[Redrawn, ...] = ()


class Measured(Event, frozen=True):
    """Speeds as real work shows them now, in tokens per second for one sequence; 0 is not measured anew."""

    prompt_tps: float
    generate_tps: float
    batch_gain: float


class Alive(Event, frozen=True):
    """A step was computed that had nothing to say: every token is held back."""


class Inspected(Event, frozen=True, kw_only=True):
    """Runs that have not ended, cells in use as the loop counts them, idle sequences, and how many sequences
    have anything in the cache as llama.cpp counts them."""

    runs: int
    cells: int
    idle: int
    occupied: int


AnyCommand = Open | Run | Cancel | Threads | Inspect | Check
AnyEvent = (
    Confined
    | Loading
    | Ready
    | Broken
    | Started
    | Prefilled
    | Written
    | Embedded
    | Ended
    | Refused
    | Checked
    | Measured
    | Alive
    | Inspected
)

_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(AnyCommand)
_events = msgspec.msgpack.Decoder(AnyEvent)


def pack(frames: Sequence[Command | Event]) -> bytes:
    """Frames as bytes for a pipe, in order."""
    packed = bytearray()
    for frame in frames:
        body = _encoder.encode(frame)
        packed += len(body).to_bytes(LENGTH_BYTES)
        packed += body
    return bytes(packed)


class FrameReader:
    """Cuts a byte stream into frames: `feed` it whatever came, and take the complete ones."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The bodies that are complete now. FrameError for an impossible length."""
        self._held += received
        while (body := self._next()) is not None:
            yield body

    def _next(self) -> bytes | None:
        if len(self._held) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._held[:LENGTH_BYTES])
        if not 0 < length <= FRAME_MAX:
            raise FrameError(f"a frame of {length} bytes; at most {FRAME_MAX} are allowed")
        end = LENGTH_BYTES + length
        if len(self._held) < end:
            return None
        body = bytes(self._held[LENGTH_BYTES:end])
        del self._held[:end]
        return body


def read_command(body: bytes) -> AnyCommand:
    """A command, or FrameError."""
    try:
        command: AnyCommand = _commands.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(str(error)) from error
    return command


def read_event(body: bytes) -> AnyEvent:
    """An event, or FrameError."""
    try:
        event: AnyEvent = _events.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(str(error)) from error
    return event
