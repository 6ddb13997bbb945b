"""What is fuzzed: each target takes any bytes and returns; it raises only for a defect.

A target catches the errors that its subject declares, and no others. The first bytes choose how the rest is brought
past the outer walls (a signature, a handshake, a seal), since random bytes alone would never see what lies behind.
"""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import msgpack

from meshnode.mesh import paths
from meshnode.mesh.ads import read_model_ad, read_node_ad
from meshnode.mesh.vitals import read_vitals
from meshnode.net.relay import RouteRefused, check_place
from meshnode.trust.certificates import certificate_of, revocation_of
from meshwire import limits, signing
from meshwire.codec import (
    decode_frames,
    decode_inner,
    encode_data,
    encode_frame,
    encode_frame_as,
    encode_inner,
)
from meshwire.errors import RemoteWireError
from meshwire.events import Introduced
from meshwire.ids import NodeId, node_id
from meshwire.introduction import write_introduction
from meshwire.messages import DhtPing, Open, Ping
from meshwire.noise import Handshake, public_of
from meshwire.numbers import KIND_CIRCUIT, FrameType
from meshwire.records import RecordType, read_record
from meshwire.seal import Seal
from meshwire.session import Session
from meshwire.states import SessionState
from tests.mesh.cast import Actor
from tests.meshwire import frame_vectors
from tests.meshwire.pairs import circuit_configs, config, keys


@dataclass(frozen=True)
class Target:
    """A subject of fuzzing: what takes an input, and inputs to begin with."""

    take: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


# --- Decoder: frames, and messages inside streams ---


def decoder(data: bytes) -> None:
    """Whatever can be read is written again as the same."""
    try:
        if data[:1] == b"\1":
            message = decode_inner(data[1:])
            assert decode_inner(encode_inner(message)) == message
            return
        frames = decode_frames(data[1:])
    except RemoteWireError:
        return
    for frame in frames:
        if frame.body is not None:
            assert decode_frames(_encoded(frame)) == [frame]
    if frames:
        assert _frames_in(data[1:-1]) < len(frames)  # what is cut short does not pass for whole


def _frames_in(message: bytes) -> int:
    try:
        return len(decode_frames(message))
    except RemoteWireError:
        return 0


def _encoded(frame) -> bytes:
    if frame.type == FrameType.DATA:
        return encode_data(frame.stream, frame.body, end=bool(frame.flags))
    return encode_frame_as(frame.type, frame.body, frame.stream, frame.flags)


def decoder_seeds() -> Iterator[bytes]:
    """The golden vectors, and what lies at the bounds."""
    for vector in frame_vectors.frame_vectors():
        yield (b"\1" if vector["what"].startswith("inner") else b"\0") + bytes.fromhex(vector["hex"])
    yield b"\0\x94\x18\x01\x00" + b"\x91" * 40
    yield b"\0\x94\x18\x01\x00\xdf\xff\xff\xff\xff"
    yield b"\0\x94\x02\x01\x00\xc6\xff\xff\xff\xff"


# --- Handshake and session: what a stranger, and what a hostile member can send ---


def handshake(data: bytes) -> None:
    """One message, at any point of a session's life, on either side; made wrong in one of four ways."""
    if len(data) < 4:
        return
    scene = SCENES[data[0] % len(SCENES)]
    session, peer = pickle.loads(_scene(scene))
    how, at, rest = data[1] % 4, int.from_bytes(data[2:4], "big"), data[4:]
    try:
        session.receive_data(_message(peer, how, at, rest))
    except RemoteWireError:
        return
    for message in session.data_to_send():
        assert len(message) <= limits.TRANSPORT_MESSAGE_MAX


def _message(peer: "Peer", how: int, at: int, rest: bytes) -> bytes:
    if how == 0:
        return rest
    if how == 1:  # a genuine message with some bytes changed
        genuine = bytearray(peer.genuine())
        for offset, byte in enumerate(rest[:32]):
            genuine[(at + offset) % len(genuine)] ^= byte
        return bytes(genuine)
    if how == 2:  # cut short or made longer
        return (peer.genuine() + rest)[: at % (limits.TRANSPORT_MESSAGE_MAX + 2)]
    return peer.carrying(rest[: limits.PLAINTEXT_MAX])  # sealed by who shook hands, with any content


@dataclass
class Peer:
    """The other end, just before it sends: its handshake, or its seal, and what it would have said."""

    handshake: Handshake
    payload: bytes
    seal: Seal | None = None

    def genuine(self) -> bytes:
        """What it would send."""
        return self.carrying(self.payload)

    def carrying(self, payload: bytes) -> bytes:
        """What it would send with this content."""
        return self.seal.close(payload) if self.seal else self.handshake.write(payload)


class Scene(NamedTuple):
    """A session that waits for the peer's message of this number; the last number is any after the handshake."""

    pattern: str
    initiator: bool
    number: int
    joining: bool = False


SCENES = (
    Scene("XX", initiator=False, number=1),
    Scene("XX", initiator=True, number=2),
    Scene("XX", initiator=False, number=3),
    Scene("IK", initiator=False, number=1),
    Scene("IK", initiator=True, number=2),
    Scene("XX", initiator=False, number=5),
    Scene("XX", initiator=True, number=4),
    Scene("XX", initiator=False, number=5, joining=True),
)


@cache
def _scene(scene: Scene) -> bytes:
    """The session, and the peer that would send it the message of the scene, pickled: the quickest way to copies."""
    both = (
        circuit_configs()
        if scene.pattern == "IK"
        else (config("a", initiator=True), config("b", initiator=False))
    )
    mine, theirs = both if scene.initiator else both[::-1]
    session = Session(mine)
    peer = Peer(
        Handshake(
            theirs.pattern,
            theirs.initiator,
            theirs.prologue,
            theirs.static_private,
            theirs.ephemeral_private,
            theirs.remote_static,
        ),
        b"",
    )
    introduction = write_introduction(theirs.signer, public_of(theirs.static_private), (), ())
    session.start()
    for number in range(1, scene.number + 1):
        whose_turn_is_it = number % 2 == theirs.initiator
        silent = scene.pattern == "XX" and number == 1
        peer.payload = b"" if silent else introduction
        if peer.handshake.finished and peer.seal is None:
            peer.seal = Seal(peer.handshake.split())
        if number == scene.number:
            break
        if whose_turn_is_it:
            _hear(session, peer.genuine(), joining=scene.joining)
        else:
            for message in session.data_to_send():
                peer.handshake.read(message) if peer.seal is None else peer.seal.open(message)
    if peer.seal:
        peer.payload = encode_frame(Ping(1))
    if session.state is SessionState.OPEN and scene.number > 4:
        session.request(DhtPing())
    return pickle.dumps((session, peer))


def _hear(session: Session, message: bytes, *, joining: bool) -> None:
    for event in session.receive_data(message):
        if isinstance(event, Introduced):
            session.admit_joining() if joining else session.admit()


def handshake_seeds() -> Iterator[bytes]:
    """Every scene and every way of making it wrong."""
    for scene in range(len(SCENES)):
        for how in range(4):
            yield bytes((scene, how, 0, 1)) + b"\x01"
        yield bytes((scene, 2, 0xFF, 0xFF))
    for message, number in frame_vectors.NOTICES:
        yield bytes((5, 3, 0, 0)) + encode_frame(message, number)
    for reply in frame_vectors.REPLIES:
        yield bytes((6, 3, 0, 0)) + encode_frame(reply, 1, 1)
    for scene in (0, 1, 3, 4):
        yield bytes((scene, 0, 0, 0)) + bytes(96)  # a point of low order
    static, _, signer = keys("a")
    yield bytes((2, 3, 0, 0)) + write_introduction(signer, public_of(static), (), ())


# --- Records ---

_KEY = keys("signer")[2]
READERS = {
    RecordType.NODE: read_node_ad,
    RecordType.MODEL: read_model_ad,
    RecordType.VITALS: read_vitals,
    RecordType.CERTIFICATE: certificate_of,
    RecordType.REVOCATION: revocation_of,
}


def record(data: bytes) -> None:
    """An envelope of any bytes; a well signed one with any body; a well formed body with any payload."""
    if len(data) < 2:
        return
    how, kind, rest = data[0] % 3, data[1], data[2:]
    try:
        # A signature that is good says nothing of what it signs, and most of the time would go into checking it.
        verify = signing.verify if how == 0 else _believe
        read = read_record(rest if how == 0 else _enveloped(how, kind, rest), verify)
        assert read_record(read.raw, verify).raw == read.raw
        if read.type in READERS:
            READERS[read.type](read)
    except RemoteWireError:
        return


def _enveloped(how: int, kind: int, content: bytes) -> bytes:
    body = content
    if how == 2:
        body = b"\x95" + b"".join(map(msgpack.packb, (_KEY.public, 1, 1_700_000_000_000, 900_000))) + content
    return msgpack.packb([1, _KEY.public, kind, body, bytes(signing.SIGNATURE_BYTES)])


def _believe(*_: object) -> None:
    """Stands for a signature that is good."""


def record_seeds() -> Iterator[bytes]:
    """Records of each kind, whole, and as bodies and payloads."""
    for kind in RecordType:
        whole = Actor(1).sign(7, kind, "name", content="content")
        yield bytes((0, kind)) + whole.raw
        yield bytes((1, kind)) + msgpack.packb([_KEY.public, 1, 2, 3, {}])
        yield bytes((2, kind)) + msgpack.packb(
            {0: "name", 1: b"x" * 32, 2: ["mem://a"], 3: 1.5, 4: [[b"n" * 20, 3.0]]}
        )
        yield bytes((2, kind)) + msgpack.packb(dict(whole.payload))


# --- Routes ---

NODES = tuple(node_id(bytes((number,)) * 32) for number in range(6))


def route(data: bytes) -> None:
    """An OPEN of any bytes, one with any of a few nodes, and a graph of any claims."""
    if not data:
        return
    how, rest = data[0] % 3, data[1:]
    if how == 0:
        _route_of_bytes(rest)
    elif how == 1:
        _route_of_nodes(rest)
    else:
        _routes_of_claims(rest)


def _route_of_bytes(rest: bytes) -> None:
    try:
        (frame, *_) = decode_frames(b"\x94\x01\x01\x00" + rest)
    except RemoteWireError:
        return
    for node in NODES[:2]:
        _check(node, NODES[2], frame.body)


def _route_of_nodes(rest: bytes) -> None:
    numbers = [byte % len(NODES) for byte in rest[:8]]
    if len(numbers) < 4:
        return
    own, came_from, origin, *way = (NODES[number] for number in numbers)
    position = rest[1] % 6
    _check(own, came_from, Open(KIND_CIRCUIT, tuple(way[: limits.ROUTE_LINKS]), position, b"r", 0, origin))


def _check(node: NodeId, came_from: NodeId, opening: Open) -> None:
    try:
        check_place(node, came_from, opening)
    except RouteRefused:
        return
    hops = (opening.origin, *opening.route)
    assert 1 <= len(opening.route) <= limits.ROUTE_LINKS
    assert opening.route[opening.position] == node
    assert hops[opening.position] == came_from
    assert len(set(hops)) == len(hops)


def _routes_of_claims(rest: bytes) -> None:
    claims, links = {}, {NODES[number]: float(number) for number in range(1, 1 + len(rest) % 4)}
    for start in range(0, min(len(rest), 60) - 3, 4):
        node, other, rtt_ms, said = rest[start : start + 4]
        old = claims.get(NODES[node % 6])
        named = {**(old.neighbours if old else {}), NODES[other % 6]: float(rtt_ms)}
        claims[NODES[node % 6]] = paths.Claim(said, named, full=bool(said & 1))
    found = paths.routes(NODES[0], paths.graph(NODES[0], links, claims))
    for node, way in found.items():
        assert way.path[-1] == node
        assert NODES[0] not in way.path
        assert way.path[0] in links
        assert len(set(way.path)) == len(way.path) <= paths.LINKS_LOOKED_AT


def route_seeds() -> Iterator[bytes]:
    """Routes as frames, as nodes, and claims."""
    for message, _ in frame_vectors.NOTICES[:2]:
        yield b"\0" + encode_frame(message)[4:]
    yield bytes((0,)) + encode_frame(Open(KIND_CIRCUIT, (NODES[0], NODES[1]), 0, b"r", 5, NODES[2]))[4:]
    yield bytes((1, 0, 2, 2, 0, 1))
    yield bytes((1, 1, 0, 2, 0, 1, 3))
    yield bytes((2, 0, 1, 10, 2, 1, 2, 20, 3, 2, 3, 10, 1))


TARGETS = {
    "decoder": Target(decoder, decoder_seeds),
    "handshake": Target(handshake, handshake_seeds),
    "record": Target(record, record_seeds),
    "route": Target(route, route_seeds),
}
