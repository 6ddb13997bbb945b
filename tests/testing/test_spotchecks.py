"""A peer that answers with another model than it claims, in whole meshes: found and left alone, honest ones never."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from meshnode.control.endorse import EndorseArguments
from meshnode.errors import NoCandidate
from meshnode.node import Node
from meshnode.routing.policy import Reason
from meshnode.routing.spotchecks import ANSWERS_LEAST, DISTRUSTED_MS
from meshnode.terms import Job, Place, Privacy, Sampling, Turn, Wish
from meshnode.testing.misdeeds import AnswersWithAnotherModel
from meshnode.testing.simulation import Simulation, simulate

QUIET = 3.0  # in which the checks that wait are made


async def mesh_of(simulation: Simulation, *names: str, **settings: Any) -> list[Node]:
    """A mesh of these, who all have the same model; h is hostile."""
    nodes: list[Node] = []
    for name in names:
        hostile = AnswersWithAnotherModel() if name == "h" else None
        given = settings if name == "a" else {}
        nodes.append(await simulation.start(name, hostile=hostile, **given))
        if name != "a":
            await nodes[-1].join(await nodes[0].invite())
    await simulation.until(lambda: len(nodes[0].presence.candidates()) == len(names) - 1)  # type: ignore[union-attr]
    return nodes


async def served(node: Node, times: int, **wishes: Any) -> Counter[str]:
    """Who served so many requests that may only be served elsewhere."""
    asked: dict[str, Any] = {"place": "mesh", "max_tokens": 32, "deadline_s": 30, **wishes}
    by: Counter[str] = Counter()
    for number in range(times):
        async with node.ask(f"Why {number}?", **asked) as running:
            async for _ in running.pieces:
                pass
            by[running.answer.served_by.partition("#")[0]] += 1
    await trio.sleep(QUIET)
    return by


def distrusted(node: Node) -> set[str]:
    """Whom it shows as distrusted."""
    return {peer.name for peer in node.snapshot().peers if peer.distrusted}


def audited(simulation: Simulation, name: str) -> list[str]:
    """The lines of a node's audit log that are about distrust."""
    files = sorted(Path(simulation.host(name).disk, "audit").glob("*"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if '"decision":"distrusted"' in line]


def test_a_peer_with_another_model_is_found_and_asked_no_more_and_an_honest_one_is() -> None:
    async def play(simulation: Simulation) -> None:
        a, *_ = await mesh_of(simulation, "a", "b", "h")
        simulation.shape("a", "b", delay_s=0.2)  # so that the hostile one is the nearer
        first = await served(a, 30)
        assert first["h"] >= ANSWERS_LEAST
        assert distrusted(a) == {"h"}
        assert await served(a, 10) == {"b": 10}
        assert len(audited(simulation, "a")) == 1
        assert " of 128 tokens in 4 answers" in audited(simulation, "a")[0]

    simulate(1, play)


def test_it_is_found_also_where_nothing_is_left_to_chance() -> None:
    async def play(simulation: Simulation) -> None:
        a, *_ = await mesh_of(simulation, "a", "h")
        with pytest.raises(NoCandidate, match=Reason.FOREIGN):
            await served(a, 30, temperature=0.0)
        assert distrusted(a) == {"h"}

    simulate(1, play)


def test_honest_peers_are_never_accused() -> None:
    async def play(simulation: Simulation) -> None:
        nodes = await mesh_of(simulation, "a", "b", "c", spot_checks=1.0)
        assert sum((await served(nodes[0], 200)).values()) == 200
        assert distrusted(nodes[0]) == set()
        assert audited(simulation, "a") == []

    simulate(1, play)


def test_distrust_outlives_a_restart_and_ends_after_a_week() -> None:
    async def play(simulation: Simulation) -> None:
        a, h = await mesh_of(simulation, "a", "h")
        with pytest.raises(NoCandidate):
            await served(a, 30)
        await simulation.stop("a")
        simulation.host("a").settings["bootstrap"] = ("mem://h",)
        a = await simulation.restart("a")
        await simulation.until(lambda: a.presence and a.presence.candidates())
        assert distrusted(a) == {"h"}
        refused = explained(a)["h"]
        assert refused == Reason.FOREIGN
        for name in "ah":
            simulation.set_clock(name, DISTRUSTED_MS / 1000 + 60)
        await simulation.until(lambda: not distrusted(a) and not explained(a).get("h"), within_s=120)
        assert h.presence is not None

    simulate(1, play)


def explained(node: Node) -> dict[str, str]:
    """Why each peer may not serve; empty where it may."""
    wish = Wish(place=Place.MESH)
    job = Job(id="x", wish=wish, turns=(Turn(role="user", content="Why?"),), sampling=Sampling())
    names = {peer.node: peer.name for peer in node.snapshot().peers}
    return {names[one.node]: one.reason for one in node.explain(job).candidates if one.node in names}


def test_others_do_not_hear_of_it() -> None:
    async def play(simulation: Simulation) -> None:
        a, b, _ = await mesh_of(simulation, "a", "b", "h")
        simulation.shape("a", "b", delay_s=0.2)
        await served(a, 30)
        await trio.sleep(30)
        assert (distrusted(a), distrusted(b)) == ({"h"}, set())

    simulate(1, play)


@pytest.mark.parametrize("settings", [{"spot_checks": 0.0}, {"engine": "none"}], ids=("off", "no weights"))
def test_without_checks_it_is_asked_for_ever(settings: dict[str, Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a, *_ = await mesh_of(simulation, "a", "h", **settings)
        assert await served(a, 30) == {"h": 30}
        assert distrusted(a) == set()

    simulate(1, play)


def test_of_the_strictest_classes_nothing_is_checked() -> None:
    async def play(simulation: Simulation) -> None:
        a, h = await mesh_of(simulation, "a", "h")
        await a.trust.endorse(EndorseArguments("h"))
        await simulation.until(lambda: explained(a).get("h") == "")
        assert await served(a, 30, privacy=Privacy.SENSITIVE) == {"h": 30}
        assert distrusted(a) == set()
        assert h.presence is not None

    simulate(1, play)
