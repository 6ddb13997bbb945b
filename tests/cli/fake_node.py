"""A control socket and an API with a scripted node behind them, in a thread of their own."""

import json
import threading
from contextlib import contextmanager, suppress
from functools import partial
from types import SimpleNamespace

import trio
import trio.lowlevel

from meshnode.api import server
from meshnode.api.app import build
from meshnode.api.control_socket import serve
from meshnode.control.logs import logs_verbs
from meshnode.control.models import remove_verb
from meshnode.control.ping import ping_verb
from meshnode.control.pull import pull_verb
from meshnode.control.route import route_verb
from meshnode.control.sharing import pause_verb, resume_verb
from meshnode.control.status import status_verb
from meshnode.models.store import Removed
from meshnode.observe.snapshot import EngineView, MeshView, ModelView, PeerView, SharingView, Snapshot
from meshnode.observe.tail import Tail
from meshnode.routing.decision import CandidateView, DecisionView

SNAPSHOT = Snapshot(
    node="abcdefghijklmnop",
    name="desk",
    state="ready",
    mesh=MeshView(id="meshid", name="home", role="issuer"),
    uptime_s=3700,
    join_state="joined",
    mesh_addresses=("ws://10.0.0.1:8421",),
    engine=EngineView(kind="llama", state="ready", model="smollm2:135m", slots=8),
    peers=(PeerView(node="p" * 32, name="at\x1b[31mtic", state="linked", trust="trusted", rtt_ms=1.25),),
    models=(
        ModelView(name="smollm2:135m", quant="Q4_1", tier=2, context=8192, nodes=("n" * 32,), local=True),
    ),
)


def stored(name, size_bytes):
    return SimpleNamespace(
        name=name, digest=b"\1" * 32, size_bytes=size_bytes, source=name, licence="Apache-2.0", parts=()
    )


class FakeNode:
    """A control socket and an API in a thread of their own, as another process would be."""

    def __init__(self, home, doors):
        self.home = home
        self.doors = doors
        self.snapshot = SNAPSHOT
        self.asked = []
        self.refusal = None
        self.tail = Tail()
        self.pong = None  # what comes of a ping, by its number; None: nothing ever
        self.pings = 0
        self._ready = threading.Event()
        self._token = None
        self._stop = None

    async def _join(self, args, emit):
        self.asked.append(("join", dict(args)))
        await emit({"event": "progress", "step": "asking the issuer"})
        if self.refusal:
            raise self.refusal
        return {"mesh": "home"}

    async def _invite(self, args, _emit):
        self.asked.append(("invite", dict(args)))
        return {"ticket": "mesh1abc"}

    async def _fetch(self, arguments, report):
        self.asked.append(("pull", arguments.source, arguments.sha256, arguments.name))
        report(SimpleNamespace(step="fetching", done=1, total=2, bytes_per_s=2e6, left_s=61.0, peers=0))
        return stored("smollm2:135m", 98_000_000)

    def _explain(self, job):
        self.asked.append(("route", job.wish))
        good = CandidateView(
            node="abcdefghij", model="smollm2:135m", quant="Q4_1", trust="trusted", links=1, place=1,
            rung="trusted", total_s=1.25, terms={"rtt": 0.25, "wait": 0.0, "decode": 1.0}, proven=True,
        )  # fmt: skip
        bad = CandidateView(
            node="zyxw", model="a\x1bb", quant="?", trust="member", links=1, reason="another model"
        )
        return DecisionView(model=job.wish.model, candidates=(good, bad))

    async def _give_up(self, name, force):
        self.asked.append(("rm", name, force))
        return Removed(name, 98_000_000)

    def _pause(self, arguments):
        self.asked.append(("pause", arguments.everything, arguments.for_s))
        return SharingView(state="paused", why=("paused by its owner",), left_s=arguments.for_s or None)

    async def _resume(self):
        return SharingView(untold=("spare_idle_s",))

    async def _ping(self, node, *, timeout_s):
        self.asked.append(("ping", node, timeout_s))
        self.pings += 1
        view = self.pong(self.pings)
        if view is None:
            await trio.sleep_forever()
        return view

    async def _run(self):
        verbs = {
            "status": status_verb(lambda: self.snapshot),
            "route": route_verb(self._explain),
            "pull": pull_verb(self._fetch),
            "rm": remove_verb(self._give_up),
            "pause": pause_verb(self._pause),
            "resume": resume_verb(self._resume),
            "ping": ping_verb(self._ping),
            **logs_verbs(self.tail),
            "join": self._join,
            "invite": self._invite,
        }
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, self.home, verbs))
            api = partial(server.serve, build(self.doors), host="127.0.0.1", port=0, shutdown=self._stop)
            url = await nursery.start(api)
            self.snapshot = Snapshot(**{**self._fields(), "api_url": url})
            self._ready.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def _fields(self):
        return {name: getattr(SNAPSHOT, name) for name in SNAPSHOT.__struct_fields__}

    def stop(self):
        """End it, if it has not ended."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._stop.set)

    @contextmanager
    def running(self):
        thread = threading.Thread(target=trio.run, args=(self._run,))
        thread.start()
        assert self._ready.wait(10)
        try:
            yield self
        finally:
            self.stop()
            thread.join(10)


def lines_of(result):
    return [json.loads(line) for line in result.stdout.splitlines()]
