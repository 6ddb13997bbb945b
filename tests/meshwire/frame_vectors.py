"""Golden vectors of frames: one of each kind, as bytes, for other implementations to check against."""

from typing import Any

from meshwire import accusing, ids, inner, numbers, signing
from meshwire import messages as m
from meshwire.codec import encode_data, encode_frame, encode_frame_as, encode_inner
from meshwire.digests import pack_digest
from meshwire.numbers import Flag, FrameType
from meshwire.padding import padded

ID = bytes(range(20))
KEY = bytes(range(32))
NOTICES: tuple[tuple[numbers.Message, int], ...] = (
    (m.Open("ask", request=b"r1", remaining_ms=60_000), 1),
    (m.Open("circuit", route=(ID, ID[::-1]), position=1, request=b"r2", origin=ID), 3),
    (m.Window(32_768), 1),
    (m.Window(1_048_576), 0),
    (m.Reset(numbers.ResetCode.CANCEL), 1),
    (m.Ping(7), 0),
    (m.Pong(7), 0),
    (m.GoAway(9, "stopping"), 0),
    (m.Join(b"t" * 8, b"m" * 32, KEY, b"", KEY[::-1], "laptop", 1_700_000_000_000), 1),
    (m.DhtPing(), 2),
    (m.DhtFind(ID, providers=True), 3),
    (m.DhtStore(ID, b"record"), 4),
    (m.GossipSyn(pack_digest([(ID[:8], 5), (ID[8:16], 2**40)]), 1_700_000_000_000), 5),
    (m.GossipAck((b"record",)), 0),
    (m.GossipAck((b"record",), pack_digest([(ID[:8], 5)])), 0),
    (m.RecordGet(ID, 4, "name"), 6),
    (m.PingReq(ID), 7),
    (accusing.accuse(signing.Signer(KEY), ID[:16], ids.NodeId(ID), 5), 0),
    (m.Refute(b"record"), 0),
    (m.Reserve(), 8),
)
REPLIES: tuple[numbers.Message, ...] = (
    m.Joined((b"member", b"issuer")),
    m.DhtPong(),
    m.DhtFound((b"node",), (b"model",)),
    m.DhtStored(),
    m.GossipSynAck(pack_digest([(ID[:8], 6)]), (b"record",)),
    m.RecordGot((b"record",)),
    m.Pinged(True),
    m.Reserved(3600),
)
REFUSAL = m.Refusal("busy", "Too much to do.", "Try later.", 1.5)
INNER: tuple[numbers.Message, ...] = (
    inner.Ask(b"job"),
    inner.Answer("smollm2:135m", 3),
    inner.Chunk(4, (11, 22), "two tokens"),
    inner.Progress(64, 128),
    inner.End("stop", 10, 20, 0),
    inner.Fail("context_length_exceeded", "Too long.", "Shorten it.", None, "messages"),
    inner.Chunk(
        6,
        (33,),
        calls=(inner.Call("call_1", "look", '{"at":1}'),),
        logprobs=(
            inner.TokenLogprob(
                b"\xc3", -0.5, (inner.Likelihood(b"\xc3", -0.5), inner.Likelihood(b"a", -1.25))
            ),
        ),
    ),
    inner.Chunk(7, (44,), more=True),
    inner.Vector(1, bytes.fromhex("0000803f")),
    inner.Probe(b"\x07" * 32, 1200, 256),
    inner.Answer("", 0, 2, 900, 300, 1500, 500),
    inner.Answer("", accepting=False),
    inner.Reattach(b"req-1", 42),
    inner.BlobAsk(KEY),
    inner.BlobOffer(1_048_577, 1_048_576, KEY + KEY[::-1]),
    inner.BlobGet(1),
    inner.Fail("busy", "Full.", "", 2.5, "", 7.5),
    inner.Progress(0, 0, True),
)
PADDED = ((inner.Chunk(4, (11, 22), "two tokens"), 64), (inner.Progress(0, 0, True), 32))


def frame_vectors() -> list[dict[str, Any]]:
    """Every vector: what it is, in words, and its bytes in hexadecimal."""
    found = [
        _vector(repr(message), number, Flag.NONE, encode_frame(message, number))
        for message, number in NOTICES
    ]
    found += [_vector(repr(reply), 9, Flag.REPLY, encode_frame(reply, 9, Flag.REPLY)) for reply in REPLIES]
    error = Flag.REPLY | Flag.ERROR
    found.append(_vector(repr(REFUSAL), 9, error, encode_frame_as(FrameType.DHT_FIND, REFUSAL, 9, error)))
    found.append(_vector("DATA b'payload'", 1, Flag.NONE, encode_data(1, b"payload")))
    found.append(_vector("DATA b'' END", 70_000, Flag.END, encode_data(70_000, b"", end=True)))
    found += [_vector(f"inner {message!r}", 0, Flag.NONE, encode_inner(message)) for message in INNER]
    found += [
        _vector(f"inner {message!r} padded to {bucket}", 0, Flag.NONE, padded(encode_inner(message), bucket))
        for message, bucket in PADDED
    ]
    return found


def _vector(what: str, stream: int, flags: int, raw: bytes) -> dict[str, Any]:
    return {"what": what, "stream": stream, "flags": int(flags), "hex": raw.hex()}


def type_rows() -> list[str]:
    """The table of types as specs/frames.md shows it: number, name, the struct and its fields in order."""
    return [f"| {number.value} | {number.name} | {_structs(number)} |" for number in FrameType]


def _structs(number: FrameType) -> str:
    tables = (("", m.NOTICES), ("reply: ", m.REPLIES), ("", inner.INNER))
    found = [f"{word}`{_signature(table[number])}`" for word, table in tables if number in table]
    if number is FrameType.DATA:
        return "bytes"
    return "<br>".join(found) or "reserved"


def _signature(struct: type[numbers.Message]) -> str:
    return f"{struct.__name__}({', '.join(struct.__struct_fields__)})"
