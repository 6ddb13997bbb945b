"""The Noise handshakes: official vectors, an independent implementation, and hostile messages."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.noise import MESSAGES, CipherState, Handshake, public_of, shared_secret

VECTORS = json.loads((Path(__file__).parent / "noise_vectors.json").read_text())["vectors"]
PATTERNS = ("XX", "IK")
INITIATOR_STATIC, INITIATOR_EPHEMERAL = b"\x11" * 32, b"\x12" * 32
RESPONDER_STATIC, RESPONDER_EPHEMERAL = b"\x21" * 32, b"\x22" * 32


def pair(
    pattern: Any, prologue: bytes = b"p", other_prologue: bytes | None = None
) -> tuple[Handshake, Handshake]:
    """An initiator and a responder that know what the pattern wants them to know."""
    known = public_of(RESPONDER_STATIC) if pattern == "IK" else None
    initiator = Handshake(pattern, True, prologue, INITIATOR_STATIC, INITIATOR_EPHEMERAL, known)
    theirs = prologue if other_prologue is None else other_prologue
    return initiator, Handshake(pattern, False, theirs, RESPONDER_STATIC, RESPONDER_EPHEMERAL)


def run(initiator: Handshake, responder: Handshake) -> None:
    """Pass every message across."""
    sides = [initiator, responder]
    while not initiator.finished:
        sides[1].read(sides[0].write(b"payload"))
        sides.reverse()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["protocol_name"])
def test_official_vectors(vector: dict[str, Any]) -> None:
    known = vector.get("init_remote_static")
    pattern: Any = vector["protocol_name"].split("_")[1]
    initiator = Handshake(
        pattern,
        True,
        bytes.fromhex(vector["init_prologue"]),
        bytes.fromhex(vector["init_static"]),
        bytes.fromhex(vector["init_ephemeral"]),
        bytes.fromhex(known) if known else None,
    )
    responder = Handshake(
        pattern,
        False,
        bytes.fromhex(vector["resp_prologue"]),
        bytes.fromhex(vector["resp_static"]),
        bytes.fromhex(vector["resp_ephemeral"]),
    )
    handshakes = len(MESSAGES[pattern])
    sides = [initiator, responder]
    for message in vector["messages"][:handshakes]:
        sent = sides[0].write(bytes.fromhex(message["payload"]))
        assert sent.hex() == message["ciphertext"]
        assert sides[1].read(sent).hex() == message["payload"]
        sides.reverse()
    assert initiator.finished
    assert responder.finished
    assert initiator.hash.hex() == responder.hash.hex() == vector["handshake_hash"]
    ciphers = [side.split() for side in sides]
    for message in vector["messages"][handshakes:]:
        sealed = ciphers[0][0].encrypt(bytes.fromhex(message["payload"]))
        assert sealed.hex() == message["ciphertext"]
        assert ciphers[1][1].decrypt(sealed).hex() == message["payload"]
        ciphers.reverse()


def other_side(pattern: str, *, initiator: bool) -> Any:
    """The same side, by the `noiseprotocol` package."""
    connection: Any = NoiseConnection.from_name(f"Noise_{pattern}_25519_ChaChaPoly_SHA256".encode())
    connection.set_prologue(b"cross")
    if initiator:
        connection.set_as_initiator()
    else:
        connection.set_as_responder()
    static = INITIATOR_STATIC if initiator else RESPONDER_STATIC
    connection.set_keypair_from_private_bytes(Keypair.STATIC, static)
    if pattern == "IK" and initiator:
        connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public_of(RESPONDER_STATIC))
    connection.start_handshake()
    return connection


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("we_start", [True, False])
def test_agrees_with_an_independent_implementation(pattern: Any, we_start: bool) -> None:
    ours = pair(pattern, b"cross")[0 if we_start else 1]
    theirs = other_side(pattern, initiator=not we_start)
    our_turn = we_start
    while not ours.finished:
        if our_turn:
            assert bytes(theirs.read_message(ours.write(b"from us"))) == b"from us"
        else:
            assert ours.read(bytes(theirs.write_message(b"from them"))) == b"from them"
        our_turn = not our_turn
    assert bytes(theirs.get_handshake_hash()) == ours.hash
    send, receive = ours.split()
    for n in range(3):
        assert bytes(theirs.decrypt(send.encrypt(b"to %d" % n))) == b"to %d" % n
        assert receive.decrypt(bytes(theirs.encrypt(b"fro %d" % n))) == b"fro %d" % n


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_side_learns_the_others_static_key(pattern: Any) -> None:
    initiator, responder = pair(pattern)
    run(initiator, responder)
    assert responder.remote_static == public_of(INITIATOR_STATIC)
    assert initiator.remote_static == public_of(RESPONDER_STATIC)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(data=st.data())
def test_any_flipped_bit_ends_the_handshake(pattern: Any, data: st.DataObject) -> None:
    initiator, responder = pair(pattern)
    broken = data.draw(st.integers(0, len(MESSAGES[pattern]) - 1))
    sides = [initiator, responder]
    for _ in range(broken):
        sides[1].read(sides[0].write(b"payload"))
        sides.reverse()
    message = bytearray(sides[0].write(b"payload"))
    bit = data.draw(st.integers(0, len(message) * 8 - 1))
    message[bit // 8] ^= 1 << (bit % 8)
    if pattern == "XX" and broken == 0:
        # The first message is in the clear: a change shows in the hash that the second is sealed with.
        sides[1].read(bytes(message))
        with pytest.raises(RemoteWireError):
            sides[0].read(sides[1].write())
        return
    with pytest.raises(RemoteWireError) as caught:
        sides[1].read(bytes(message))
    assert caught.value.code is CloseCode.DECRYPT
    with pytest.raises(LocalWireError):
        sides[1].write()


@pytest.mark.parametrize("pattern", PATTERNS)
@given(cut=st.integers(0, 400))
def test_a_message_cut_short_is_refused(pattern: Any, cut: int) -> None:
    initiator, responder = pair(pattern)
    if pattern == "XX":
        responder.read(initiator.write())
        initiator, responder = responder, initiator
    message = initiator.write()
    with pytest.raises(RemoteWireError):
        responder.read(message[: min(cut, len(message) - 1)])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_another_prologue_does_not_agree(pattern: Any) -> None:
    initiator, responder = pair(pattern, b"mesh one", b"mesh two")
    with pytest.raises(RemoteWireError):
        run(initiator, responder)


LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_a_point_of_low_order_is_their_error(point: bytes) -> None:
    with pytest.raises(RemoteWireError) as caught:
        shared_secret(RESPONDER_STATIC, point)
    assert caught.value.code is CloseCode.DECRYPT
    responder = pair("XX")[1]
    responder.read(point)
    with pytest.raises(RemoteWireError):
        responder.write()


def test_using_a_side_out_of_turn_is_our_error() -> None:
    initiator, responder = pair("XX")
    with pytest.raises(LocalWireError):
        responder.write()
    with pytest.raises(LocalWireError):
        initiator.read(bytes(32))
    with pytest.raises(LocalWireError):
        initiator.split()
    run(initiator, responder)
    with pytest.raises(LocalWireError):
        initiator.write()


def test_keys_of_the_wrong_kind_are_our_error() -> None:
    with pytest.raises(LocalWireError):
        Handshake("IK", True, b"", bytes(32), bytes(32))
    with pytest.raises(LocalWireError):
        Handshake("XX", True, b"", bytes(32), bytes(32), bytes(32))
    with pytest.raises(LocalWireError):
        Handshake("XX", True, b"", bytes(31), bytes(32))


def test_handshake_messages_are_bounded() -> None:
    initiator, responder = pair("XX")
    with pytest.raises(LocalWireError):
        initiator.write(bytes(65_535))
    with pytest.raises(RemoteWireError) as caught:
        responder.read(bytes(65_536))
    assert caught.value.code is CloseCode.TOO_LARGE


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_cipher_round_trip_and_order(plaintext: bytes, ad: bytes) -> None:
    sender, receiver = CipherState(bytes(32)), CipherState(bytes(32))
    first, second = sender.encrypt(plaintext, ad), sender.encrypt(plaintext, ad)
    assert first != second
    with pytest.raises(RemoteWireError):
        receiver.decrypt(second, ad)
    assert receiver.decrypt(first, ad) == plaintext
    with pytest.raises(RemoteWireError):
        receiver.decrypt(first, ad)
    assert receiver.decrypt(second, ad) == plaintext
    with pytest.raises(RemoteWireError):
        receiver.decrypt(b"short")
