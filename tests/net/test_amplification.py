"""A stranger gets little more out of a node than it puts in: at most ten bytes for each of its own."""

import base64

import pytest
import trio

from meshnode.errors import MeshError
from meshnode.net import connection, websocket
from meshnode.net.base import Transport
from meshnode.net.establish import establish
from meshnode.net.hello import to_header
from meshwire import limits
from meshwire.session import Session
from tests.meshwire.pairs import config
from tests.net.stage import HELLO, Stage, give

TIMES = 10
CERTIFICATE = 300  # more than one has
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: " + base64.b64encode(bytes(16)) + b"\r\n"
)
WITH_HELLO = b"sec-websocket-protocol: meshnode.1\r\nx-meshnode: " + to_header(HELLO) + b"\r\n\r\n"


def frame(payload: bytes) -> bytes:
    """A masked binary frame, whose mask is zero."""
    return bytes([0x82, 0x80 | len(payload)]) + bytes(4) + payload


def first_message() -> bytes:
    session = Session(config("a", initiator=True))
    session.start()
    return session.data_to_send()[0]


async def accept(transport: Transport) -> None:
    """As a member with two certificates answers."""
    chain = (bytes(CERTIFICATE), bytes(CERTIFICATE))
    try:
        await establish(transport, config("b", initiator=False, chain=chain), lambda _introduced: True)
    except MeshError:
        return


@pytest.mark.parametrize(
    "said",
    [
        [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"],
        [b"\x16\x03\x01 certainly not HTTP \r\n\r\n"],
        [UPGRADE + b"\r\n"],
        [UPGRADE + WITH_HELLO],
        [UPGRADE + WITH_HELLO, frame(first_message())],
        [UPGRADE + WITH_HELLO, frame(first_message()), frame(bytes(100))],
        [UPGRADE + WITH_HELLO, b"\x89\x80" + bytes(4)],
    ],
    ids=["http", "noise", "browser", "hello", "handshake", "garbage", "ping"],
)
def test_a_stranger_gets_few_bytes_for_its_own(said: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.4)
    monkeypatch.setattr(websocket, "HANDSHAKE_S", 0.4)
    monkeypatch.setattr(connection, "CLOSE_S", 0.1)

    async def play(stage: Stage) -> None:
        port = int((await stage.listen(accept=accept)).rpartition(":")[2])
        got: list[int] = []
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for part in said:
                await stream.send_all(part)
                got.append(len(await stream.receive_some()))
            with trio.move_on_after(2):
                while more := await stream.receive_some():
                    got.append(len(more))
        assert 0 < sum(got) <= TIMES * sum(map(len, said))
        if len(said) > 1 and said[1] == frame(first_message()):
            assert got[1] > 2 * CERTIFICATE  # it was answered as a node is

    give("websocket", play)
