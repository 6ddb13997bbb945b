"""Real nodes as processes of their own on this machine, for tests and demonstrations: started, asked, killed.

A process is `meshnode up --json`, or another program that takes the same options and prints the same events;
what it logs goes to a file in its home.
"""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from meshnode.cli import client
from meshnode.errors import EngineFailed, MeshError, from_code
from meshnode.observe.snapshot import Snapshot

UP = ("-m", "meshnode.cli.main", "up", "--json")
STOP_WITHIN_S = 12.0
LOG_FILE = "node.stderr"
LOOK_EVERY_S = 0.05


class NodeProcess:
    """One node process; made by `node_process`."""

    def __init__(self, home: Path, process: trio.Process) -> None:
        self.home = home
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._news = trio.Event()
        self.ended = False

    async def read_events(self) -> None:
        """Collect what it prints until it ends."""
        assert self.process.stdout is not None
        rest = b""
        async for chunk in self.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            self.events += [msgspec.json.decode(line) for line in lines if line.strip()]
            self._tell()
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def event(self, name: str) -> dict[str, Any]:
        """The first event of this name, waited for; raises the node's own error if it ends without."""
        while True:
            for event in self.events:
                if event.get("event") == name:
                    return event
            for event in self.events:
                facts = event.get("error", event)
                if (self.ended or event.get("event") == "error") and "code" in facts:
                    raise from_code(facts["code"], facts["message"], hint=facts.get("hint", ""))
            if self.ended:
                raise MeshError(f"The node in {self.home} ended: {self.log_tail()}")
            await self._news.wait()

    async def api_url(self) -> str:
        """Where its API listens."""
        return str((await self.event("api"))["url"])

    async def mesh_address(self) -> str:
        """Where other nodes reach it now; a node that joined another mesh may listen on another port."""
        await self.event("mesh")
        return (await self.until(lambda seen: bool(seen.mesh_addresses))).mesh_addresses[0]

    async def call(self, verb: str, **arguments: object) -> Any:
        """Ask its control socket."""
        return await client.call(self.home, verb, arguments, Any)

    async def invite(self) -> str:
        """A new ticket."""
        return str((await self.call("invite", expires_s=3600))["ticket"])

    async def snapshot(self) -> Snapshot:
        """What it looks like now."""
        return await client.status(self.home)

    async def until(self, holds: Any) -> Snapshot:
        """Its snapshot as soon as `holds(snapshot)`."""
        while not holds(snapshot := await self.snapshot()):
            await trio.sleep(LOOK_EVERY_S)
        return snapshot

    async def until_ready(self) -> Snapshot:
        """Its snapshot once its engine serves; raises the node's error if the engine gives up."""
        await self.event("mesh")
        seen = await self.until(lambda seen: seen.state in ("ready", "failed"))
        if seen.state == "failed":
            raise EngineFailed(seen.engine.detail)
        return seen

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()

    def log_tail(self) -> str:
        """The last lines of its log."""
        log = self.home / LOG_FILE
        return "\n".join(log.read_text(errors="replace").splitlines()[-10:]) if log.exists() else ""


@asynccontextmanager
async def node_process(
    home: Path,
    arguments: Sequence[str] = (),
    *,
    program: Sequence[str] = UP,
    env: dict[str, str] | None = None,
    within: Sequence[str] = (),
) -> AsyncIterator[NodeProcess]:
    """A node running from `home` on free loopback ports, stopped at the end of the context.

    `program` is what Python is told to run; `arguments` come after the ports and so can set others. `within` is
    a command that turns into the one it is given, such as `ip netns exec NAME`.
    """
    failure: Exception | None = None
    home.mkdir(parents=True, exist_ok=True)
    ports = ("--api-port", "0", "--mesh-port", "0", "--mesh-host", "127.0.0.1")
    command = [*within, sys.executable, *program, "--home", str(home), *ports, *arguments]
    with (home / LOG_FILE).open("ab") as log:
        async with trio.open_nursery() as nursery:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=env
            )
            node = NodeProcess(home, process)
            nursery.start_soon(node.read_events)
            try:
                yield node
            except Exception as error:  # noqa: BLE001 - raised below, out of the nursery that would wrap it
                failure = error
            finally:
                with trio.CancelScope(shield=True):
                    await _stop(process)
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _stop(process: trio.Process) -> None:
    """SIGTERM, and SIGKILL for one that does not listen."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    with trio.move_on_after(STOP_WITHIN_S):
        await process.wait()
        return
    process.kill()
    await process.wait()
