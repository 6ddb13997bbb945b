"""The audit log's chain: what a line says, how lines hold each other, and the signed head that holds the end. Pure.

Each line carries the hash of the one before and its own, over its exact bytes and the node's key; so a line that was
changed is found at itself, and one that was put in or taken out at its place. A chain without a key can be rewritten
from any line on, or cut: the head, which the node signs and others remember, is what that cannot be squared with.
"""

import hashlib
import re
from enum import StrEnum
from struct import pack
from typing import Annotated

import msgspec

from meshnode.terms import Privacy
from meshwire import signing
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId, to_text

TAG = b"meshnode/audit-line/1"
DOMAIN = b"meshnode/audit-head/1"
KIND = b"head"
HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)
LINE_BYTES_MAX = 8192
WORD_CHARACTERS_MAX = 128
REASON_CHARACTERS_MAX = 500
PATH_MAX = 8
DECISION_ONLY = frozenset(
    {Privacy.SENSITIVE, Privacy.LOCAL}
)  # classes of which nothing beyond the decision is kept

_SEALED = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n')
_SEAL_BYTES = len(b',"hash":""}\n') + 2 * HASH_BYTES
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


class Kind(StrEnum):
    """What a line is about."""

    SENT = "sent"  # a request left this node
    REFUSED = "refused"  # a request was not served, or served no further
    DISTRUSTED = "distrusted"  # a node was found to answer with other weights than it claims
    MENDED = "mended"  # an unfinished last line was taken away when the node started
    GAP = "gap"  # the node found its log damaged when it started, and began a new one


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision about a request, and never anything of its content.

    `request` is its id, `privacy` its class; `rung` the step of the ladder, `where` the node id or the upstream's
    name, `weights` the digest, `trust` how far that place is trusted, all empty for a refusal; `reason` says why.
    `model` and `path` (the ids of the nodes on the way) are kept only of classes that allow more than the decision.
    """

    kind: Kind
    request: str = ""
    privacy: Privacy | None = None
    rung: str = ""
    where: str = ""
    weights: bytes = b""
    trust: str = ""
    reason: str = ""
    model: str = ""
    path: tuple[bytes, ...] = ()


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision as it stands in the log. `n` counts from 1; `at` is UTC; `previous` is the hash of line n - 1."""

    n: Count
    at: str
    decision: str
    request: str = ""
    privacy: str = msgspec.field(default="", name="class")
    rung: str = ""
    where: str = ""
    weights: str = ""
    trust: str = ""
    reason: str = ""
    model: str = ""
    path: tuple[str, ...] = ()
    previous: str = ""


class Point(msgspec.Struct, frozen=True):
    """A place in the chain: after line `n`, whose hash it is. Line 0 is before the first."""

    n: Count = 0
    hash: Hash = NO_HASH


class Head(msgspec.Struct, frozen=True):
    """The node's signed word: its log goes from behind `base`, which older files led up to, to `end`."""

    base: Point
    end: Point
    signature: bytes = b""


class Damaged(Exception):
    """These bytes are not the line that belongs here; the message says why."""


def line_of(key: bytes, after: Point, decision: Decision, at: str) -> tuple[bytes, Point]:
    """The next line's bytes, and the place after it. `key` is the node's; `at` the time as text."""
    bare = decision.privacy in DECISION_ONLY
    line = Line(
        n=after.n + 1,
        at=at,
        decision=decision.kind,
        request=_word(decision.request),
        privacy=decision.privacy or "",
        rung=_word(decision.rung),
        where=_word(decision.where),
        weights=decision.weights.hex(),
        trust=_word(decision.trust),
        reason=_printable(decision.reason, REASON_CHARACTERS_MAX),
        model="" if bare else _word(decision.model),
        path=() if bare else tuple(to_text(NodeId(node)) for node in decision.path[:PATH_MAX]),
        previous=after.hash.hex(),
    )
    body = msgspec.json.encode(line)[:-1]
    digest = _hash(key, body)
    return body + b',"hash":"' + digest.hex().encode() + b'"}\n', Point(line.n, digest)


def read_line(key: bytes, raw: bytes) -> tuple[Line, Point]:
    """What a line says and the place after it, if its bytes are as they were written; raises Damaged."""
    if len(raw) > LINE_BYTES_MAX or not raw.endswith(b"\n"):
        raise Damaged("it has no end")
    sealed = _SEALED.fullmatch(raw[-_SEAL_BYTES:])
    if sealed is None:
        raise Damaged("it does not end with a hash")
    body = raw[:-_SEAL_BYTES]
    digest = _hash(key, body)
    if sealed[1].decode() != digest.hex():
        raise Damaged("its bytes do not have the hash that it names")
    try:
        line = msgspec.json.decode(body + b"}", type=Line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"it is no line of an audit log: {error}") from error
    return line, Point(line.n, digest)


def check_follows(line: Line, after: Point) -> None:
    """Return if the line is the one after that place; raises Damaged."""
    if line.n != after.n + 1:
        raise Damaged(f"it is number {line.n} where {after.n + 1} belongs")
    if line.previous != after.hash.hex():
        raise Damaged("the line before is not the one that it follows")


def sign_head(signer: signing.Signer, base: Point, end: Point) -> Head:
    """The head of a log, signed."""
    return Head(base, end, signer.sign(DOMAIN, KIND, _head_body(base, end)))


def head_holds(key: bytes, head: Head) -> bool:
    """Whether the node with this key signed it."""
    try:
        signing.verify(key, DOMAIN, KIND, _head_body(head.base, head.end), head.signature)
    except RemoteWireError:
        return False
    return True


def _head_body(base: Point, end: Point) -> bytes:
    """What is signed: numbers as u64, big-endian, each with its hash."""
    return pack(">Q", base.n) + base.hash + pack(">Q", end.n) + end.hash


def _hash(key: bytes, body: bytes) -> bytes:
    return hashlib.sha256(TAG + pack(">I", len(key)) + key + body).digest()


def _word(text: str) -> str:
    return _printable(text, WORD_CHARACTERS_MAX)


def _printable(text: str, most: int) -> str:
    """Bounded, and without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text[:most])
