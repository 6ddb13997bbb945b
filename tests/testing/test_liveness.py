"""Who is dead, on whole nodes: crashes are seen, the living stay, lies are not believed, who leaves is let go."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import trio

from meshnode.net import watch
from meshnode.net.link import Link
from meshnode.net.neighbours import Neighbours
from meshnode.node import Node
from meshnode.testing.simulation import Simulation, simulate
from meshwire.accusing import accuse
from meshwire.ids import NodeId
from meshwire.messages import Refute
from meshwire.numbers import Message
from meshwire.records import RecordType

QUIET: dict[str, Any] = {"engine": "none"}


async def gather(simulation: Simulation, count: int) -> list[Node]:
    nodes = [await simulation.start(f"n{number}", **QUIET) for number in range(count)]
    for node in nodes[1:]:
        await node.join(await nodes[0].invite())
    await simulation.until(lambda: all(len(routes(node)) == count - 1 for node in nodes))
    await trio.sleep(6)
    return nodes


def routes(node: Node) -> list[NodeId]:
    """To whom this node sees a way."""
    assert node.presence is not None
    return [other for other, peer in node.presence.view().items() if peer.route is not None]


def dead(nodes: Sequence[Node]) -> int:
    """How many are believed dead, by whomever."""
    return sum(len(node.presence.watch.dead()) for node in nodes if node.presence is not None)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_silent_crash_is_seen_within_ten_seconds(count: int) -> None:
    async def play(simulation: Simulation) -> None:
        nodes = await gather(simulation, count)
        gone = nodes.pop()
        await simulation.crash(gone.config.name, silent=True)
        begun = trio.current_time()
        who = gone.identity.node
        await simulation.until(lambda: not any(who in routes(node) for node in nodes), within_s=10)
        assert trio.current_time() - begun > 2
        assert all(node.presence and node.presence.book.get(who, RecordType.NODE) for node in nodes)
        await simulation.restart(gone.config.name)
        await simulation.until(lambda: all(who in routes(node) for node in nodes), within_s=15)

    simulate(1, play)


def test_a_paused_node_is_back_as_soon_as_it_speaks() -> None:
    async def play(simulation: Simulation) -> None:
        nodes = await gather(simulation, 5)
        simulation.pause("n2")
        await simulation.until(lambda: dead(nodes) >= 4, within_s=10)
        simulation.resume("n2")
        await simulation.until(lambda: dead(nodes) == 0, within_s=3)
        for _ in range(20):
            await trio.sleep(0.5)
            assert dead(nodes) == 0

    simulate(2, play)


def test_after_a_one_way_partition_nobody_stays_dead() -> None:
    async def play(simulation: Simulation) -> None:
        nodes = await gather(simulation, 6)
        simulation.partition(("n0", "n1", "n2"), ("n3", "n4", "n5"), one_way=True)
        await trio.sleep(20)
        simulation.heal()
        await simulation.until(lambda: dead(nodes) == 0, within_s=15)
        await trio.sleep(10)
        assert dead(nodes) == 0

    simulate(3, play)


def lying(monkeypatch: pytest.MonkeyPatch, *, denies: bool, links_count: bool, forged: bool = False) -> None:
    """Two hostile watchers, or one that forges the other's word, accuse an honest node again and again."""
    if not denies:
        monkeypatch.setattr(watch.Watch, "_deny", lambda _watch, _now: None)
    if not links_count:
        monkeypatch.setattr(watch, "is_live", lambda _sight, _now: False)

    async def play(simulation: Simulation) -> None:
        nodes = await gather(simulation, 5)
        victim, liars = nodes[0].identity.node, nodes[1:3]
        for _ in range(40):
            for liar in liars:
                lie(liars[0] if forged else liar, liar, victim)
            await trio.sleep(0.25)
            assert all(victim in routes(node) for node in nodes[3:])

    simulate(4, play)


def lie(liar: Node, accuser: Node, victim: NodeId) -> None:
    """Accuse, by the liar's own watch but without its eyes; in another's name if that is not the liar."""
    assert liar.presence is not None
    vitals = liar.presence.book.get(victim, RecordType.VITALS)
    assert vitals is not None
    message = accuse(liar.identity.signer, liar.presence.mesh.id, victim, vitals.seq)
    liar.presence.watch._neighbours.tell_all(msgspec.structs.replace(message, accuser=accuser.identity.key))


def test_a_live_link_outweighs_what_watchers_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, denies=False, links_count=True)


def test_what_watchers_lie_is_denied_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, denies=True, links_count=False)


def test_one_hostile_watcher_cannot_speak_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, denies=False, links_count=False, forged=True)


def test_a_denial_that_overtook_its_accusation_goes_on_once_when_that_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed_on: list[Message] = []
    monkeypatch.setattr(Neighbours, "hand_on", lambda _self, message, _sender: handed_on.append(message))

    async def play(simulation: Simulation) -> None:
        victim, middle, accuser = await gather(simulation, 3)
        assert victim.presence
        assert middle.presence
        heard = middle.presence.watch
        accused = heard._book.get(victim.identity.node, RecordType.VITALS)
        assert accused
        message = accuse(accuser.identity.signer, middle.presence.mesh.id, victim.identity.node, accused.seq)
        denial = Refute(victim.presence.watch._ties.sign_vitals())
        await heard.notice(link_to(middle, victim), denial)
        await heard.notice(
            link_to(middle, accuser), msgspec.structs.replace(message, accuser=middle.identity.key)
        )
        assert not handed_on, "nobody has accused it, or only a forger"
        for _ in range(2):
            await heard.notice(link_to(middle, accuser), message)
        assert handed_on == [denial]

    simulate(5, play)


def link_to(node: Node, other: Node) -> Link:
    """A node's link to another."""
    assert node.presence is not None
    return next(link for link in node.presence.watch._neighbours.links() if link.node == other.identity.node)


def test_whoever_leaves_is_gone_at_once_and_back_when_it_starts_again() -> None:
    async def play(simulation: Simulation) -> None:
        nodes = await gather(simulation, 4)
        who = nodes[3].identity.node
        await simulation.stop("n3")
        await simulation.until(lambda: not any(knows(node, who) for node in nodes[:3]), within_s=3)
        for _ in range(20):
            await trio.sleep(0.5)
            assert not any(knows(node, who) for node in nodes[:3])
        await simulation.restart("n3")
        await simulation.until(lambda: all(who in routes(node) for node in nodes[:3]), within_s=15)

    simulate(5, play)


def knows(node: Node, who: NodeId) -> bool:
    assert node.presence is not None
    return who in node.presence.view()
