"""The verb itself: the checks in their order, what they found, and the exit code."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import click
import msgspec
import trio

from meshnode.cli import client
from meshnode.cli.doctor import device, engine, network, running
from meshnode.cli.doctor.finding import CHECK_S, Check, Diagnosis, Finding, Found, Verdict, diagnosis, examine
from meshnode.cli.render import Screen
from meshnode.cli.verb import verb
from meshnode.config import Config
from meshnode.errors import CheckFailed, MeshError, NotRunning
from meshnode.observe.snapshot import Snapshot
from meshnode.seams import Seams, in_thread

MODELS_S = 60.0  # a large file that was touched is read again
REQUESTS_S = running.REQUEST_S * running.MODELS_TRIED_MAX + CHECK_S
MARKS = {Verdict.OK: "ok", Verdict.WARNING: "warning", Verdict.FAILED: "FAILED"}


@click.command()
@verb
async def doctor(screen: Screen, home: Path) -> None:
    """Look for what is wrong: on this device, with the running node, and with a real request through it.

    Each check is ok, a warning or failed, and says what to do next. Nothing is changed and nothing is paid for. The
    exit code is 0 unless a check failed.
    """
    findings: list[Finding] = []
    async for finding in _findings(home, Seams()):
        findings.append(finding)
        _tell(screen, finding)
    found = diagnosis(findings)
    screen.json(found)
    raise_if_failed(found)


def raise_if_failed(found: Diagnosis) -> None:
    """Raises CheckFailed that names the checks which failed."""
    failed = [finding.check for finding in found.findings if finding.verdict is Verdict.FAILED]
    if failed:
        raise CheckFailed(f"Failed: {', '.join(failed)}.", hint="What to do about each stands below it.")


async def _findings(home: Path, seams: Seams) -> AsyncIterator[Finding]:
    for name, check, limit_s in _on_device(home, seams):
        yield await examine(name, check, limit_s)
    settings = await in_thread(lambda: device.read_settings(home))
    for name, check, limit_s in _with(settings, home) if settings is not None else ():
        yield await examine(name, check, limit_s)
    seen = await _running(home)
    if isinstance(seen, Finding):
        yield seen
        for name, check, limit_s in _not_running(settings) if seen.verdict is not Verdict.FAILED else ():
            yield await examine(name, check, limit_s)
        return
    for name, check, limit_s in _of_node(seen):
        yield await examine(name, check, limit_s)


def _on_device(home: Path, seams: Seams) -> list[tuple[str, Check, float]]:
    return [
        ("home", _threaded(partial(device.writable_home, home)), CHECK_S),
        ("keys", _threaded(partial(device.private_keys, home, seams)), CHECK_S),
        ("disk", _threaded(partial(device.disk, home)), CHECK_S),
        ("clock", partial(device.clock, home, seams), CHECK_S),
        ("settings", _threaded(partial(device.settings, home)), CHECK_S),
    ]


def _with(settings: Config, home: Path) -> list[tuple[str, Check, float]]:
    return [
        ("worker", partial(engine.library, settings), CHECK_S),
        ("sandbox", partial(engine.containment, settings), CHECK_S),
        ("models", _threaded(partial(engine.models, settings, home)), MODELS_S),
        ("interfaces", _threaded(partial(network.interfaces, settings)), CHECK_S),
    ]


def _not_running(settings: Config | None) -> list[tuple[str, Check, float]]:
    """Only then: the ports of a node that runs are taken by itself."""
    return [("ports", _threaded(partial(network.ports, settings)), CHECK_S)] if settings is not None else []


def _of_node(seen: Snapshot) -> list[tuple[str, Check, float]]:
    api = running.Api(seen.api_url)
    checks: list[tuple[str, Callable[[Snapshot], Found]]] = [
        ("node", running.state),
        ("mesh", running.mesh),
        ("peers", running.peers),
        ("reachable", running.reachability),
    ]
    known = [(name, _threaded(partial(check, seen)), CHECK_S) for name, check in checks]
    return [
        *known,
        ("API", api.answers, CHECK_S),
        ("request", partial(api.request, seen.models), REQUESTS_S),
    ]


async def _running(home: Path) -> Snapshot | Finding:
    """The node of this home, or what there is to say when none answers."""
    holder = await in_thread(lambda: device.lock_holder(home))
    try:
        with trio.fail_after(CHECK_S):
            return await client.status(home)
    except NotRunning as error:
        if holder:
            hint = f"If it is not just starting or stopping, end it: kill {holder}" if holder != "?" else ""
            return Finding(
                "node", Verdict.FAILED, f"Process {holder} holds {home} and does not answer.", hint
            )
        hint = "Start it with `meshnode up`; then run this again, for a real request."
        return Finding("node", Verdict.WARNING, error.message, hint)
    except (MeshError, trio.TooSlowError, OSError, msgspec.MsgspecError) as error:
        said = str(error) or f"It does not answer within {CHECK_S:g} seconds."
        return Finding("node", Verdict.FAILED, said, f"See node.log in {os.fspath(home)}, or start it again.")


def _threaded(look: Callable[[], Found]) -> Check:
    async def check() -> Found:
        return await in_thread(look)

    return check


def _tell(screen: Screen, finding: Finding) -> None:
    screen.line(f"{MARKS[finding.verdict]:<8} {finding.check:<11} {finding.detail}")
    if finding.hint and finding.verdict is not Verdict.OK:
        screen.line(f"{'':<20} → {finding.hint}")
