"""The messages that travel inside streams, sealed end to end; one frozen struct each.

A field's position is its key on the wire (see `fields`), so fields are appended, never moved or removed.
"""

from typing import Annotated

import msgspec

from meshwire import limits
from meshwire.fields import grown
from meshwire.numbers import U8, U32, FrameType, Message, Name, PublicKey, Sentence


class Ask(Message, frozen=True):
    """A job, packed by the floor that knows what a job is."""

    job: bytes


class Probe(Message, frozen=True):
    """Before an Ask on the same stream: how busy is the model with these weights, for a request of this size?"""

    digest: PublicKey
    prompt_tokens: U32 = 0
    output_tokens: U32 = 0


class Answer(Message, frozen=True):
    """The worker accepts: what it will run. To a Probe: how it is, and for how long it keeps a place.

    The queue is in requests and tokens, without the asker's own place; `first_token_ms` is when it would begin to
    answer, `price_usd` what it asks for a million answer tokens at this moment.
    """

    model: Name
    tier: U8 = 0
    in_flight: U32 = 0
    queued_prefill: U32 = 0
    queued_decode: U32 = 0
    first_token_ms: U32 = 0
    held_ms: U32 = 0
    accepting: bool = True
    price_usd: Annotated[Annotated[float, msgspec.Meta(ge=0)] | None, grown(64)] = None


class Call(msgspec.Struct, frozen=True):
    """A call of a tool, complete; `arguments` is the JSON text that the model wrote."""

    id: Name
    name: Name
    arguments: str = ""


class Likelihood(msgspec.Struct, frozen=True):
    """The bytes of a token and the natural logarithm of its probability."""

    token: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True):
    """The likelihood of a token that was written, and of the likeliest in its place, best first."""

    token: bytes
    logprob: float
    top: tuple[Likelihood, ...] = ()


class Chunk(Message, frozen=True):
    """Some tokens and what they make; `first_index` counts tokens from the start of the whole answer.

    `logprobs` has one entry for each of `ids`. With `more` the next is a Chunk too, and both count only together.
    """

    first_index: U32
    ids: tuple[U32, ...] = ()
    text: str = ""
    calls: tuple[Call, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    more: bool = False


class Progress(Message, frozen=True):
    """`done` of `total` prompt tokens have been read. With `filler` it says nothing, and only keeps the beat."""

    done: U32
    total: U32
    filler: Annotated[bool, grown(64)] = False


class End(Message, frozen=True):
    """The clean end of an answer; its absence is truncation."""

    reason: Name
    prompt_tokens: U32 = 0
    completion_tokens: U32 = 0
    cached_tokens: U32 = 0


class Fail(Message, frozen=True):
    """The answer ends with an error. `estimate_s` is when a full node would have begun to answer, in seconds."""

    code: Name
    message: Sentence = ""
    hint: Sentence = ""
    retry_after_s: float | None = None
    param: Name = ""
    estimate_s: Annotated[float | None, grown(64)] = None


class Vector(Message, frozen=True):
    """The embedding of input number `index`, as little-endian 32-bit floats."""

    index: U32
    values: Annotated[bytes, msgspec.Meta(min_length=4, max_length=limits.VECTOR_MAX)]


class Reattach(Message, frozen=True):
    """Instead of an Ask: go on with the answer to `request`, from piece or vector number `next_item` on.

    Items are counted from 0 over all that the worker has sent for this request. An Answer accepts.
    """

    request: Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
    next_item: U32 = 0


class BlobAsk(Message, frozen=True):
    """Asks for the file with this SHA-256. With `brief` its chunks are known already: the offer has no hashes."""

    digest: PublicKey
    brief: bool = False


class BlobOffer(Message, frozen=True):
    """The file is here: its size, the size of all chunks but the last, and the SHA-256 of each, in order."""

    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=limits.BLOB_SIZE_MAX)]
    chunk_bytes: Annotated[int, msgspec.Meta(ge=limits.BLOB_CHUNK_MIN, le=limits.BLOB_SIZE_MAX)]
    hashes: Annotated[bytes, msgspec.Meta(max_length=32 * limits.BLOB_CHUNKS_MAX)]


class BlobGet(Message, frozen=True):
    """Asks for one chunk, whose bytes follow as payloads that are no messages."""

    index: U32


INNER: dict[FrameType, type[Message]] = {
    FrameType.PROBE: Probe,
    FrameType.ASK: Ask,
    FrameType.ANSWER: Answer,
    FrameType.CHUNK: Chunk,
    FrameType.PROGRESS: Progress,
    FrameType.END: End,
    FrameType.REATTACH: Reattach,
    FrameType.FAIL: Fail,
    FrameType.VECTOR: Vector,
    FrameType.BLOB_ASK: BlobAsk,
    FrameType.BLOB_OFFER: BlobOffer,
    FrameType.BLOB_GET: BlobGet,
}
"""Messages inside DATA."""
