"""What the wire costs: round trips and small frames of ours, of py-libp2p, and of a bare trio-websocket.

Each alternative is a server and a client in two processes over loopback; rounds are interleaved and the median
of the rounds' ratios counts. Ours is sealed and multiplexed (Noise, streams under credit), py-libp2p is TCP with
Noise and yamux, the bare websocket is neither. STREAMS tasks send frames at once, each over a stream of its own;
bare, it is one task over one connection.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(Path(__file__).resolve().parent)]

import trio  # noqa: E402 - the paths come first
from shape import Row, arguments, report, rival_python  # noqa: E402

PAYLOAD = b"x" * 64
STREAMS = 8
ROUND_TRIPS, WARM_UP = 1_000, 100
MESH = b"m" * 16

Echo = Callable[[], Awaitable[None]]  # one round trip
Pour = Callable[[int], Awaitable[None]]  # send that many frames over one stream, return once all have arrived


# --- Ours ---


def _our_session(*, initiator: bool):
    from meshwire.session import SessionConfig, link_prologue
    from meshwire.signing import Signer

    mark = b"i" if initiator else b"r"
    return SessionConfig(
        initiator=initiator,
        pattern="XX",
        prologue=link_prologue(1, MESH),
        static_private=mark * 32,
        ephemeral_private=mark.upper() * 32,
        signer=Signer(mark * 32),
    )


async def _refuse(*_):
    return None


async def serve_ours() -> None:
    from meshnode.net.base import Hello
    from meshnode.net.establish import establish
    from meshnode.net.websocket import WebsocketNetwork

    async def on_stream(_link, stream, opening) -> None:
        if opening.kind == "echo":
            while (payload := await stream.receive()) is not None:
                await stream.send(payload)
        else:
            while await stream.receive() is not None:
                pass
            await stream.send(b"!", end=True)

    async def accept(transport) -> None:
        link = await establish(transport, _our_session(initiator=False), lambda _: True)
        await link.run(_refuse, on_stream, _refuse)

    async with trio.open_nursery() as nursery:
        network = WebsocketNetwork()
        print(await nursery.start(network.serve, "ws://127.0.0.1:0", Hello((1,), MESH), accept), flush=True)


async def call_ours(address: str) -> None:
    from meshnode.net.base import Hello
    from meshnode.net.establish import establish
    from meshnode.net.websocket import WebsocketNetwork
    from meshwire.messages import Open

    async with trio.open_nursery() as nursery:
        transport = await WebsocketNetwork().dial(address, Hello((1,), MESH))
        link = await establish(transport, _our_session(initiator=True), lambda _: True)
        nursery.start_soon(link.run, _refuse, _refuse, _refuse)
        echoing = await link.open(Open("echo"))

        async def echo() -> None:
            await echoing.send(PAYLOAD)
            await echoing.receive()

        async def pour(frames: int) -> None:
            stream = await link.open(Open("sink"))
            for _ in range(frames - 1):
                await stream.send(PAYLOAD)
            await stream.send(PAYLOAD, end=True)
            await stream.receive()

        await obey(echo, pour)
        nursery.cancel_scope.cancel()


# --- A bare trio-websocket ---


async def serve_bare() -> None:
    from trio_websocket import ConnectionClosed, serve_websocket

    async def serve(request) -> None:
        websocket = await request.accept()
        try:
            while (message := await websocket.get_message()) is not None:
                if message[:1] != b"#":
                    await websocket.send_message(message)
                    continue
                for _ in range(int(message[1:])):
                    await websocket.get_message()
                await websocket.send_message(b"!")
        except ConnectionClosed:
            return

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0, None)
        print(server.port, flush=True)


async def call_bare(address: str) -> None:
    from trio_websocket import open_websocket

    async with open_websocket("127.0.0.1", int(address), "/", use_ssl=False) as websocket:

        async def echo() -> None:
            await websocket.send_message(PAYLOAD)
            await websocket.get_message()

        async def pour(frames: int) -> None:
            await websocket.send_message(b"#%d" % frames)
            for _ in range(frames):
                await websocket.send_message(PAYLOAD)
            await websocket.get_message()

        await obey(echo, pour, streams=1)


# --- py-libp2p ---


def _libp2p_host(seed: bytes):
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.security.noise.transport import PROTOCOL_ID, Transport

    key_pair = create_new_key_pair(seed * 32)
    noise = Transport(key_pair, noise_privkey=create_noise_key_pair().private_key)
    return new_host(key_pair=key_pair, sec_opt={PROTOCOL_ID: noise}, muxer_preference="YAMUX")


async def _libp2p_read(stream, size: int) -> bytes:
    parts = b""
    while len(parts) < size and (part := await stream.read(size - len(parts))):
        parts += part
    return parts


async def serve_libp2p() -> None:
    from multiaddr import Multiaddr

    async def echo(stream) -> None:
        while payload := await _libp2p_read(stream, len(PAYLOAD)):
            await stream.write(payload)

    async def sink(stream) -> None:
        left = len(PAYLOAD) * int.from_bytes(await _libp2p_read(stream, 4), "big")
        while left:
            left -= len(await stream.read(min(left, 65_536)))
        await stream.write(b"!")

    host = _libp2p_host(b"s")
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        host.set_stream_handler("/echo/1", echo)
        host.set_stream_handler("/sink/1", sink)
        print(host.get_addrs()[0], flush=True)
        await trio.sleep_forever()


async def call_libp2p(address: str) -> None:
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    host = _libp2p_host(b"c")
    async with host.run(listen_addrs=[]):
        peer = info_from_p2p_addr(Multiaddr(address))
        await host.connect(peer)
        echoing = await host.new_stream(peer.peer_id, ["/echo/1"])

        async def echo() -> None:
            await echoing.write(PAYLOAD)
            await _libp2p_read(echoing, len(PAYLOAD))

        async def pour(frames: int) -> None:
            stream = await host.new_stream(peer.peer_id, ["/sink/1"])
            await stream.write(frames.to_bytes(4, "big"))
            for _ in range(frames):
                await stream.write(PAYLOAD)
            await stream.read(1)

        await obey(echo, pour)


# --- Measuring ---


async def obey(echo: Echo, pour: Pour, streams: int = STREAMS) -> None:
    """Measure what the lines on standard input ask for: `echo`, or `pour` and a number of frames a stream."""
    while line := (await trio.to_thread.run_sync(sys.stdin.readline)).split():
        if line[0] == "echo":
            figure = await _median_round_trip_us(echo)
        else:
            figure = await _frames_per_s(pour, int(line[1]) // streams, streams)
        print(figure, flush=True)


async def _median_round_trip_us(echo: Echo) -> float:
    times = []
    for _ in range(WARM_UP + ROUND_TRIPS):
        begun = time.perf_counter()
        await echo()
        times.append(1e6 * (time.perf_counter() - begun))
    return statistics.median(times[WARM_UP:])


async def _frames_per_s(pour: Pour, frames: int, streams: int) -> float:
    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(pour, frames)
    return frames * streams / (time.perf_counter() - begun)


ENDS = {
    "ours": (serve_ours, call_ours, 40_000),
    "libp2p": (serve_libp2p, call_libp2p, 2_000),
    "bare": (serve_bare, call_bare, 20_000),
}
"""For each alternative its two ends, and how many frames one measurement takes."""


class Pair:
    """A server and a client of one alternative, each in its own process."""

    def __init__(self, name: str) -> None:
        python = str(rival_python("wire")) if name == "libp2p" else sys.executable
        command = [python, __file__, "--end", name]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        address = self._line(self._server)
        self._client = subprocess.Popen(
            [*command, "--address", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, what: str) -> float:
        """One figure."""
        print(what, file=self._client.stdin, flush=True)
        return float(self._line(self._client))

    @staticmethod
    def _line(process: subprocess.Popen) -> str:
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{process.args} ended without an answer")
        return line

    def close(self) -> None:
        """End both processes."""
        for process in (self._client, self._server):
            process.kill()
            process.wait()


Figures = dict[str, list[float]]


def measure(rounds: int) -> tuple[Figures, Figures]:
    """The round trips in us and the frames/s of each alternative, a figure a round; the first is not counted."""
    pairs = {name: Pair(name) for name in ENDS}
    round_trips: Figures = {name: [] for name in ENDS}
    frames: Figures = {name: [] for name in ENDS}
    try:
        for _ in range(rounds + 1):
            for name, pair in pairs.items():
                round_trips[name].append(pair.measure("echo"))
            for name, pair in pairs.items():
                frames[name].append(pair.measure(f"pour {ENDS[name][2]}"))
    finally:
        for pair in pairs.values():
            pair.close()
    return _counted(round_trips), _counted(frames)


def _counted(figures: Figures) -> Figures:
    return {name: values[1:] for name, values in figures.items()}


def _row(name: str, figures: Figures, unit: str, rival: str, title: str, bound: str = "") -> Row:
    """Ours against a rival: the medians, and the median of the rounds' ratios."""
    ours, theirs = figures["ours"], figures[rival]
    paired = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return Row(name, statistics.median(ours), unit, statistics.median(theirs), title, bound, paired)


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--end", choices=ENDS, help="be one end of an alternative (used by the script itself)"
    )
    parser.add_argument("--address", default="", help="where the server listens; without it, be the server")
    options = parser.parse_args()
    if options.end:
        serve, call, _ = ENDS[options.end]
        trio.run(call, options.address) if options.address else trio.run(serve)
        return 0
    round_trips, frames = measure(options.rounds)
    rows = [
        _row("64-byte round trip", round_trips, "us", "bare", "trio-websocket", "<= 1.6"),
        _row("64-byte round trip", round_trips, "us", "libp2p", "py-libp2p", "<= 0.333"),
        _row("64-byte frames", frames, "1/s", "libp2p", "py-libp2p", ">= 20"),
        _row("64-byte frames", frames, "1/s", "bare", "trio-websocket"),
    ]
    return report("wire", rows, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
