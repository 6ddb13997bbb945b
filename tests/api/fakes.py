"""A scripted node behind the doors, and a hand-made ASGI driver that works in virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import trio
from starlette.types import ASGIApp

from meshnode.engine.scripted import ScriptedEngine
from meshnode.observe.metrics import Metrics
from meshnode.observe.recent import Recent
from meshnode.observe.snapshot import ModelView, Snapshot
from meshnode.routing.decision import CandidateView, DecisionView
from meshnode.serve.readiness import Readiness
from meshnode.serve.running import Running
from meshnode.serve.scopes import Scopes
from meshnode.terms import Answer, Emitted, End, FinishReason, Job, Piece, Usage, Wish

ANSWER = Answer(
    model="smollm2:135m",
    served_by="büro\r\nx: y",
    path=("desk", "attic"),
    rung="peer",
    trust="trusted",
    tier=2,
    attempts=1,
)
END = End(FinishReason.STOP, Usage(7, 3, 2))
Step = Emitted | Exception | float | Callable[[], Awaitable[None]]


def piece(index: int, text: str) -> Piece:
    return Piece(index, (index,), text)


HELLO: tuple[Step, ...] = (piece(0, "Hel"), piece(1, "lo ☺"), END)


class FakeDoors:
    """Plays `steps`: items are emitted, numbers are pauses in s, errors raised, callables awaited."""

    def __init__(
        self, steps: Sequence[Step] = HELLO, *, refusal: Exception | None = None, place_s: float = 0
    ):
        self.steps = tuple(steps)
        self.refusal = refusal
        self.place_s = place_s
        self.jobs: list[Job] = []
        self.running = 0
        self.cancelled = 0
        self.left = trio.Event()
        self.state = "loading"
        self.candidates = 1
        self._ids = 0
        self.ready = Readiness(ready=True, by="local")
        self.wishes: list[Wish] = []
        self.recent = Recent()
        self.invited: list[int] = []

    @asynccontextmanager
    async def ask(self, job: Job) -> AsyncIterator[Running]:
        self.jobs.append(job)
        await trio.sleep(self.place_s)
        if self.refusal is not None:
            raise self.refusal
        self.running += 1
        try:
            async with aclosing(self._pieces()) as pieces:
                yield Running(ANSWER, pieces)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self.left.set()

    async def _pieces(self) -> AsyncGenerator[Emitted, None]:
        for step in self.steps:
            await trio.lowlevel.checkpoint()
            if isinstance(step, Exception):
                raise step
            if isinstance(step, int | float):
                await trio.sleep(step)
            elif callable(step):
                await step()
            else:
                yield step

    def models(self) -> Sequence[ModelView]:
        return (
            ModelView(name="smollm2:135m", quant="Q4_1", tier=2, context=8192, nodes=("desk",), local=True),
            ModelView(name="hf/owner:8b", quant="Q8_0", tier=6, context=4096, nodes=("attic",)),
        )

    def snapshot(self) -> Snapshot:
        return Snapshot(node="abc", name="desk", state=self.state)

    def readiness(self, wish: Wish) -> Readiness:
        self.wishes.append(wish)
        return self.ready

    def metrics(self) -> bytes:
        return Metrics(self.snapshot).exposition()

    def explain(self, job: Job) -> DecisionView:
        one = CandidateView(node="n", model=job.wish.model, quant="Q4", trust="trusted", links=1, place=1)
        return DecisionView(model=job.wish.model, candidates=(one,) * self.candidates)

    async def invite(self, expires_s: int) -> str:
        self.invited.append(expires_s)
        return "mesh1" + "abcdef234" * 30

    def new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    def tenant_tag(self, tenant: str) -> bytes:
        return f"tag of {tenant}".encode() if tenant else b""

    def wall(self) -> float:
        return 1_700_000_000.5


class ScriptedDoors(FakeDoors):
    """A node whose engine is the scripted one, without the walk."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__()
        self._engine = engine
        self._scopes = Scopes(b"secret")

    @asynccontextmanager
    async def ask(self, job: Job) -> AsyncIterator[Running]:
        self.jobs.append(job)
        async with self._engine.run(job, self._scopes.of(b"here", job)) as pieces:
            yield Running(ANSWER, pieces)

    def tenant_tag(self, tenant: str) -> bytes:
        return self._scopes.tag(tenant)


@asynccontextmanager
async def scripted_doors(**settings: Any) -> AsyncIterator[ScriptedDoors]:
    """Doors whose engine has just become ready."""
    engine = ScriptedEngine(**settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await trio.sleep(0.1)
        yield ScriptedDoors(engine)
        nursery.cancel_scope.cancel()


def request_body(**fields: Any) -> dict[str, Any]:
    return {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}], **fields}


class Exchange:
    """One request driven by hand: `send` the body, look at what came, `leave` when you like."""

    def __init__(
        self, body: bytes, *, path: str, headers: dict[str, str], closing: trio.Event | None
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[tuple[float, bytes]] = []
        self.ended = trio.Event()
        self.started = trio.Event()
        self.read_slowly_s = 0.0
        self._gone = trio.Event()
        self._parts: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        fixed = {"host": "127.0.0.1:8420", "content-type": "application/json", **headers}
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fixed.items()],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8420),
            "state": {} if closing is None else {"closing": closing},
        }

    def leave(self) -> None:
        self._gone.set()

    async def run(self, app: ASGIApp) -> None:
        await app(self.scope, self._receive, self._send)
        self.ended.set()

    async def _receive(self) -> dict[str, Any]:
        if self._parts:
            return self._parts.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
            self.started.set()
        elif message.get("body"):
            await trio.sleep(self.read_slowly_s)
            self.chunks.append((trio.current_time(), message["body"]))

    @property
    def text(self) -> str:
        return b"".join(data for _, data in self.chunks).decode()

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.text.split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


def chat(
    body: Any = None,
    *,
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
    closing: trio.Event | None = None,
) -> Exchange:
    raw = body if isinstance(body, bytes) else json.dumps(body or request_body()).encode()
    return Exchange(raw, path=path, headers=headers or {}, closing=closing)
