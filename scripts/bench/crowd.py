"""Many streamed answers at once as their clients see them, in a process of its own, which knows no node.

Usage: crowd.py URL ASK, where ASK is JSON (see `Ask`); it prints JSON (see `Heard`). Good clients read at once
whatever comes. Of the slow ones some take a few bytes a second and others nothing at all after the head. It tells how
late it was itself, since what it notes late is not the node's fault.
"""

import math
import socket
import sys
from contextlib import suppress
from time import perf_counter, process_time
from urllib.parse import urlsplit

import msgspec
import trio

READ_BYTES = 65_536
EVENT = b"data: "
DONE = b"data: [DONE]"
TAIL_BYTES = 1024  # of an answer; the usage and the end lie in it
TICK_S = 0.01
SLOW_BYTES = 4096  # what a trickling client takes each second, and the size of every slow client's buffer
SEGMENT_BYTES = (
    1448  # as over a network: with loopback's 64 KiB the kernel alone takes 2.5 MB for each connection
)
WORDS, WORD_BYTES = 60, 4000  # of a slow client's question: the scripted engine gives its asker's words back
DEADLINE_MS = 600_000


class Ask(msgspec.Struct, kw_only=True):
    """How many clients of each kind, all begun within `start_s`; each good answer is `tokens` long."""

    good: int
    trickling: int = 0
    silent: int = 0
    tokens: int = 600
    start_s: float = 5.0
    settle_s: float = 1.0  # gaps count after that
    stay_s: float = 3.0  # that slow ones stay when the good ones have ended


class Heard(msgspec.Struct, kw_only=True):
    """Gaps between two reads that held events, of all good clients; `dropped` says how each broke off that did.

    `late_ms` is how much later than asked for this process woke, every TICK_S. `events` are those of good answers.
    """

    gaps_ms: list[float] = msgspec.field(default_factory=list)
    late_ms: list[float] = msgspec.field(default_factory=list)
    dropped: list[str] = msgspec.field(default_factory=list)
    ended: int = 0
    events: int = 0
    processor_s: float = 0.0


class Crowd:
    """All clients of one run."""

    def __init__(self, url: str, ask: Ask) -> None:
        place = urlsplit(url)
        self._host, self._port = str(place.hostname), place.port or 80
        self._ask = ask
        self._counted_from = math.inf
        self.heard = Heard()

    async def gather(self) -> None:
        """Begin all, wait for the good ones, and leave the others."""
        slow_ones = self._ask.trickling + self._ask.silent
        count = self._ask.good + slow_ones
        begun = perf_counter()
        self._counted_from = begun + self._ask.start_s + self._ask.settle_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_itself)
            async with trio.open_nursery() as good:
                for number in range(count):  # kinds mixed evenly
                    slow = number * slow_ones // count
                    if (number + 1) * slow_ones // count == slow:
                        good.start_soon(self._good, number)
                    else:
                        trickles = slow < self._ask.trickling
                        nursery.start_soon(self._slow, number, SLOW_BYTES if trickles else 0)
                    await trio.sleep(
                        max(0, begun + self._ask.start_s * (number + 1) / count - perf_counter())
                    )
            await trio.sleep(self._ask.stay_s if slow_ones else 0)
            nursery.cancel_scope.cancel()

    async def _good(self, number: int) -> None:
        stream = await trio.open_tcp_stream(self._host, self._port)
        async with stream:
            await stream.send_all(self._request(f"What is so good about number {number}?", self._ask.tokens))
            tail = await self._read(stream)
        if DONE in tail and b'"completion_tokens":%d,' % self._ask.tokens in tail:
            self.heard.ended += 1
        else:
            self.heard.dropped.append(tail[-300:].decode(errors="replace"))

    async def _read(self, stream: trio.SocketStream) -> bytes:
        """Read to the end of the answer; its last bytes."""
        tail, last = b"", math.inf
        heard, carried = self.heard, len(EVENT) - 1
        with suppress(trio.BrokenResourceError):
            while DONE not in tail and (data := await stream.receive_some(READ_BYTES)):
                now = perf_counter()
                events = (tail[-carried:] + data).count(EVENT)
                tail = (tail + data)[-TAIL_BYTES:]
                heard.events += events
                if events:
                    if last >= self._counted_from and last < math.inf:
                        heard.gaps_ms.append(round(1000 * (now - last), 2))
                    last = now
        return tail

    async def _slow(self, number: int, bytes_per_s: int) -> None:
        """A client that takes the first bytes, and then so many each second, or none."""
        with trio.socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
            await client.connect((self._host, self._port))
            question = " ".join(f"{number:03}-{word:02}".ljust(WORD_BYTES, "x") for word in range(WORDS))
            await trio.SocketStream(client).send_all(self._request(question, self._ask.tokens))
            await client.recv(SLOW_BYTES // 16)
            with suppress(OSError):
                while bytes_per_s and await client.recv(bytes_per_s):  # noqa: ASYNC110 - it waits for nothing
                    await trio.sleep(1.0)
            await trio.sleep_forever()

    def _request(self, question: str, tokens: int) -> bytes:
        body = msgspec.json.encode(
            {
                "model": "auto",
                "messages": [{"role": "user", "content": question}],
                "max_tokens": tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
                "mesh": {"cache": "off", "deadline_ms": DEADLINE_MS},
            }
        )
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        return head.encode() + body

    async def _watch_itself(self) -> None:
        """How late this process wakes."""
        while True:
            due = perf_counter() + TICK_S
            await trio.sleep(TICK_S)
            self.heard.late_ms.append(round(1000 * (perf_counter() - due), 2))


def main(url: str, ask: str) -> None:
    """Play one run."""
    crowd = Crowd(url, msgspec.json.decode(ask, type=Ask))
    trio.run(crowd.gather)
    crowd.heard.processor_s = process_time()
    sys.stdout.buffer.write(msgspec.json.encode(crowd.heard))


if __name__ == "__main__":
    main(*sys.argv[1:])
