"""What only a real socket can do: speak something else, nothing at all, or a websocket in bad faith."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio_websocket import ConnectionClosed, open_websocket
from wsproto.events import BytesMessage, Ping, TextMessage
from wsproto.utilities import ProtocolError

from meshnode.errors import ConfigInvalid, PortInUse, Unreachable, WrongMesh, WrongProtocol
from meshnode.net import connection, websocket, writer
from meshnode.net.base import Hello, Transport
from meshnode.net.establish import establish
from meshnode.net.hello import agree, from_header, to_header
from meshnode.net.link import Link, StreamLost
from meshnode.net.websocket import WebsocketNetwork, join_address, split_address
from meshwire.limits import TRANSPORT_MESSAGE_MAX, UNAUTHENTICATED_PER_ADDRESS
from meshwire.messages import DhtPing, DhtPong, Open
from tests.meshwire.pairs import MESH
from tests.net.stage import HELLO, Stage, give, until

HEADERS = [(b"x-meshnode", to_header(HELLO))]


async def dial_something(answer: Callable[[trio.SocketStream], Awaitable[None]]) -> Unreachable:
    """What dialling a server that answers like that ends with."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        with trio.fail_after(2), pytest.raises(Unreachable) as caught:
            await WebsocketNetwork().dial(f"ws://127.0.0.1:{port}", HELLO)
        nursery.cancel_scope.cancel()
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 1000000\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0\1\2\3" * 100,
    ],
)
async def test_something_else_that_listens_there_is_named(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_S", 0.3)

    async def speak(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(answer)
        await trio.sleep(5)

    error = await dial_something(speak)
    assert isinstance(error, WrongProtocol)
    assert "no meshnode" in error.message


async def test_a_server_that_hangs_up_is_unreachable() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.aclose()

    assert "closed the connection" in (await dial_something(hang_up)).message


async def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_S", 0.1)

    async def sleep(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    assert "did not answer" in (await dial_something(sleep)).message


class Bad:
    """A listener that counts what it accepted, and a websocket client in bad faith."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.received: list[bytes] = []

    async def accept(self, transport: Transport) -> None:
        try:
            while True:
                self.received.append(await transport.receive())
        except Unreachable as error:
            self.errors.append(str(error))

    def play(self, act: Callable[[object], Awaitable[None]]) -> None:
        async def main(stage: Stage) -> None:
            port = int((await stage.listen(accept=self.accept)).rpartition(":")[2])
            async with open_websocket(
                "127.0.0.1", port, "/", use_ssl=False, subprotocols=["meshnode.1"], extra_headers=HEADERS
            ) as socket:
                await act(socket)
                with trio.fail_after(2):
                    await until(lambda: bool(self.errors))
                await socket._stream.aclose()  # the library leaves it open when the other end hangs up

        give("websocket", main)


async def send_fragments(socket: object) -> None:
    for _ in range(100_000):
        await socket._send(BytesMessage(data=b"", message_finished=False))  # type: ignore[attr-defined]


def test_a_flood_of_fragments_is_refused_at_the_first() -> None:
    bad = Bad()

    async def flood(socket: object) -> None:
        with pytest.raises((ConnectionClosed, ProtocolError)):  # whichever of its tasks notices first
            await send_fragments(socket)

    bad.play(flood)
    assert "fragments" in bad.errors[0]
    assert bad.received == []


def test_text_is_refused() -> None:
    bad = Bad()

    async def speak(socket: object) -> None:
        await socket._send(TextMessage(data="hello"))  # type: ignore[attr-defined]

    bad.play(speak)
    assert "text" in bad.errors[0]


def test_a_message_too_long_is_refused() -> None:
    bad = Bad()

    async def speak(socket: object) -> None:
        await socket._send(BytesMessage(data=bytes(TRANSPORT_MESSAGE_MAX)))  # type: ignore[attr-defined]
        await socket._send(BytesMessage(data=bytes(TRANSPORT_MESSAGE_MAX + 1)))  # type: ignore[attr-defined]

    bad.play(speak)
    assert "too long" in bad.errors[0]
    assert [len(message) for message in bad.received] == [TRANSPORT_MESSAGE_MAX]


def test_websocket_pings_are_answered() -> None:
    bad = Bad()

    async def ping(socket: object) -> None:
        with trio.fail_after(2):
            await socket.ping(b"1")  # type: ignore[attr-defined]
        await socket._send(Ping(payload=b"2"))  # type: ignore[attr-defined]
        await socket._stream.aclose()  # type: ignore[attr-defined]

    bad.play(ping)


async def http(port: int, request: bytes) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        answer = b""
        with trio.move_on_after(2):
            while part := await stream.receive_some(4096):
                answer += part
        return answer


def test_a_browser_is_told_that_this_is_the_wrong_door() -> None:
    async def play(stage: Stage) -> None:
        port = int((await stage.listen()).rpartition(":")[2])
        answer = await http(port, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 4")
        answer = await http(port, b"\x16\x03\x01 certainly not HTTP \r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 4") or answer == b""
        upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        answer = await http(port, b"GET / HTTP/1.1\r\nhost: localhost\r\n" + upgrade + key)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"its API is elsewhere" in answer
        link = await stage.dial()
        assert link.alive

    give("websocket", play)


def test_strangers_from_one_address_are_few() -> None:
    async def play(stage: Stage) -> None:
        port = int((await stage.listen()).rpartition(":")[2])
        strangers = [
            await trio.open_tcp_stream("127.0.0.1", port) for _ in range(UNAUTHENTICATED_PER_ADDRESS)
        ]
        await trio.sleep(0.05)
        with pytest.raises(Unreachable):
            await stage.connect()
        for stranger in strangers:
            await stranger.aclose()
        await trio.sleep(0.05)
        assert (await stage.dial()).alive

    give("websocket", play)


def test_known_nodes_are_many() -> None:
    """Links that were admitted count neither as strangers nor against the rate."""

    async def play(stage: Stage) -> None:
        await stage.listen()
        links = [await stage.dial(f"node {number}") for number in range(2 * UNAUTHENTICATED_PER_ADDRESS)]
        assert all(link.alive for link in links)

    give("websocket", play)


def test_a_slow_handshake_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_S", 0.1)

    async def play(stage: Stage) -> None:
        port = int((await stage.listen()).rpartition(":")[2])
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        with trio.fail_after(2):
            assert await stream.receive_some() == b""
        await stream.aclose()

    give("websocket", play)


def test_a_goodbye_that_is_not_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CLOSE_S", 0.1)

    async def play(stage: Stage) -> None:
        async def deaf(transport: Transport) -> None:
            await trio.sleep_forever()

        await stage.listen(accept=deaf)
        transport = await stage.connect()
        with trio.fail_after(1):
            await transport.aclose()

    give("websocket", play)


async def fill(link: Link) -> None:
    """Send on new streams until the socket takes no more, and wait there."""
    small = trio.socket.SO_SNDBUF
    link._transport._connection._stream.setsockopt(trio.socket.SOL_SOCKET, small, 8192)  # type: ignore[attr-defined]
    while True:
        stream = await link.open(Open("ask"))
        await stream.send(bytes(30_000))
        await stream.send(bytes(30_000))


def test_a_peer_that_reads_nothing_loses_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "WRITE_STALL_S", 0.2)

    async def play(stage: Stage) -> None:
        async def deaf(transport: Transport) -> None:
            await establish(transport, stage.config("b", initiator=False), lambda _: True)
            await trio.sleep_forever()

        await stage.listen(accept=deaf)
        link = await stage.dial()
        with trio.fail_after(5), pytest.raises((StreamLost, Unreachable)):
            await fill(link)
        assert "has not taken anything" in str(link.error)

    give("websocket", play)


def test_a_caller_that_leaves_in_the_middle_of_a_write_leaves_a_whole_link() -> None:
    async def play(stage: Stage) -> None:
        listen = trio.Event()

        async def late(transport: Transport) -> None:
            link = await establish(transport, stage.config("b", initiator=False), lambda _: True)
            await listen.wait()
            await link.run(stage.on_request, stage.on_stream, stage.on_notice)

        await stage.listen(accept=late)
        link = await stage.dial()
        await trio.sleep(0.1)  # the first ping is written: nobody else writes
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, link)
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
            listen.set()
        assert link.alive
        assert await link.request(DhtPing()) == DhtPong()

    give("websocket", play)


async def test_a_taken_port_names_its_holder() -> None:
    async with trio.open_nursery() as nursery:
        network = WebsocketNetwork()
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        with pytest.raises(PortInUse, match=f"Port {port} .* taken by .*pid"):
            await nursery.start(network.serve, f"ws://127.0.0.1:{port}", HELLO, None)
        await listener.aclose()


async def test_an_address_that_is_not_ours_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigInvalid):
        await WebsocketNetwork().serve("ws://203.0.113.1:0", HELLO, None)  # type: ignore[arg-type]  # never called


# --- Hellos and addresses ---


def test_headers_come_back_as_they_were() -> None:
    for hello in (HELLO, Hello((3, 2, 1), b""), Hello((1,), bytes(range(16)))):
        assert from_header(to_header(hello)) == hello


@pytest.mark.parametrize(
    "value", [b"", b"1", b"x; -", b"1; abc", b"1; " + b"00" * 15, b"\xff; -", b"1,2,3,4,5,6,7,8,9; -"]
)
def test_a_header_that_is_none_is_none(value: bytes) -> None:
    assert from_header(value) is None


def test_agreement() -> None:
    assert agree(Hello((3, 2), MESH), Hello((1, 2, 3), b""), "there") == Hello((3, 2), b"")
    with pytest.raises(WrongMesh):
        agree(Hello((1,), MESH), Hello((1,), b"y" * 16), "there")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("ws://10.0.0.1:8421", ("10.0.0.1", 8421, False)),
        ("wss://example.org:443/", ("example.org", 443, True)),
        ("ws://[::1]:8421", ("::1", 8421, False)),
    ],
)
def test_addresses_are_taken_apart(address: str, parts: tuple[str, int, bool]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "10.0.0.1:8421", "http://a:1", "ws://a", "ws://a:99999", "ws://a:1/x", "ws://:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigInvalid):
        split_address(address)


def test_addresses_are_put_together() -> None:
    assert join_address("::1", 5) == "ws://[::1]:5"
    assert join_address("10.0.0.1", 5) == "ws://10.0.0.1:5"
