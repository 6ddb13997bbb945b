"""The operator's word in whole meshes: revoking, endorsing, renewing, and who may do so besides the founder."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from meshnode.control.endorse import EndorseArguments
from meshnode.control.renew import RenewArguments
from meshnode.control.revoke import RevokeArguments
from meshnode.control.root import export_root, restore_root
from meshnode.errors import MeshError, NoCandidate, NotAllowed
from meshnode.identity import ROOT_FILE
from meshnode.node import Node
from meshnode.seams import Seams
from meshnode.terms import Privacy, Trust
from meshnode.testing.simulation import Simulation
from meshnode.trust import recovery
from meshnode.trust.certificates import DAY_MS, Certificate, certificate_of
from meshwire.records import read_record

Mesh = Callable[..., Any]
DAY_S = DAY_MS / 1000
QUIET: dict[str, Any] = {"engine": "none"}


async def gather(simulation: Simulation, *names: str, **settings: Any) -> list[Node]:
    """A mesh of these nodes, founded by the first; only the last has a model."""
    nodes = []
    for name in names:
        given = settings if name == names[-1] else QUIET
        nodes.append(await simulation.start(name, **given))
        if len(nodes) > 1:
            await nodes[-1].join(await nodes[0].invite())
    await simulation.until(lambda: all(len(reached(node)) == len(names) - 1 for node in nodes))
    return nodes


async def restarted(simulation: Simulation, *names: str) -> list[Node]:
    """These nodes, which stopped; they know where to dial each other, and nobody else is there to tell them."""
    for name in names:
        addresses = tuple(f"mem://{other}" for other in names if other != name)
        simulation.host(name).settings["bootstrap"] = addresses
    return [await simulation.restart(name) for name in names]


def reached(node: Node) -> set[str]:
    assert node.presence is not None
    return {peer.name for peer in node.presence.view().values() if peer.route is not None}


def linked(node: Node) -> set[str]:
    return {link.name for link in node.snapshot().links}


def own(node: Node) -> Certificate:
    assert node.presence is not None
    return certificate_of(read_record(node.presence.mesh.chain[0]))


def trust_in(node: Node, name: str) -> Trust:
    """The trust in a node with its only model."""
    assert node.presence is not None
    (candidate,) = [one for one in node.presence.candidates() if one.node == peer_id(node, name)]
    return candidate.trust


def peer_id(node: Node, name: str) -> bytes:
    assert node.presence is not None
    return next(peer.node for peer in node.presence.view().values() if peer.name == name)


async def served(node: Node, **wishes: Any) -> str:
    async with node.ask("Why?", max_tokens=2, deadline_s=20, **wishes) as running:
        async for _ in running.pieces:
            pass
        return f"{running.answer.served_by.split('#')[0]} {running.answer.trust}"


# --- Revocation ---


def test_a_revoked_node_is_cut_off_and_stays_out_after_everybody_restarted(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        nodes = dict(zip("abcd", await gather(simulation, "a", "b", "c", "d"), strict=True))
        thief = nodes["d"].identity.node
        assert await served(nodes["b"]) == "d trusted"
        gone = await nodes["a"].trust.revoke(RevokeArguments("d"))
        assert (gone.name, len(gone.serials)) == ("d", 1)
        honest = [nodes[name] for name in "abc"]
        await simulation.until(lambda: not any(cut_from(node, thief) for node in honest), within_s=15)
        for node in honest:
            assert node.presence is not None
            assert not node.presence.book.of(
                thief
            )  # what it said of itself counts no more, nor is it passed on
        with pytest.raises(MeshError):
            await served(nodes["b"])
        for name in "abcd":
            await simulation.stop(name)
        # Whoever signed it is not there to say so again.
        nodes = dict(zip("bcd", await restarted(simulation, "b", "c", "d"), strict=True))
        await simulation.until(lambda: reached(nodes["b"]) == {"c"} and reached(nodes["c"]) == {"b"})
        for _ in range(60):
            await trio.sleep(1)
            assert not cut_from(nodes["b"], thief)
            assert not cut_from(nodes["c"], thief)
            assert "d" not in reached(nodes["b"]) | reached(nodes["c"])

    mesh(play)


def cut_from(node: Node, other: bytes) -> list[Any]:
    """The links to a node that there still are."""
    assert node.presence is not None
    return [link for link in node.presence.links() if link.node == other and not link.joining]


def test_who_joins_after_a_restart_hears_of_old_revocations_from_whoever_kept_them(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        nodes = dict(zip("abcd", await gather(simulation, "a", "b", "c", "d"), strict=True))
        await nodes["a"].trust.endorse(EndorseArguments("b", roles=("issuer",), weights=("none",)))
        await simulation.until(lambda: "issuer" in own(nodes["b"]).roles)
        thief, certificate = nodes["d"].identity.node, own(nodes["d"])
        await nodes["a"].trust.revoke(RevokeArguments("d"))
        await simulation.until(lambda: all(not cut_from(nodes[name], thief) for name in "abc"), within_s=15)
        for name in "abcd":
            await simulation.stop(name)
        nodes = dict(zip("bc", await restarted(simulation, "b", "c"), strict=True))
        late = await simulation.start("e", **QUIET)
        await late.join(await nodes["b"].invite())
        assert late.presence is not None
        await simulation.until(lambda: late.presence.members.is_revoked(certificate.serial))  # type: ignore[union-attr]
        await simulation.stop("e")
        await simulation.stop("b")
        await simulation.stop("c")
        late = await simulation.restart("e")
        assert late.presence is not None
        assert late.presence.members.is_revoked(certificate.serial)

    mesh(play)


def test_a_partition_hears_of_a_revocation_when_it_heals(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        nodes = dict(zip("abcd", await gather(simulation, "a", "b", "c", "d"), strict=True))
        thief = nodes["d"].identity.node
        simulation.partition(("a", "b"), ("c", "d"))
        await nodes["a"].trust.revoke(RevokeArguments("d"))
        await trio.sleep(20)
        assert cut_from(nodes["c"], thief)
        simulation.heal()
        await simulation.until(lambda: "b" in linked(nodes["c"]), within_s=60)
        await simulation.until(lambda: not cut_from(nodes["c"], thief), within_s=15)

    mesh(play)


def test_a_renewed_certificate_is_taken_back_with_the_one_before(mesh: Mesh) -> None:
    """An issuer that has not heard of it renews; whoever has, and it too once it hears, goes by the serial."""

    async def play(simulation: Simulation) -> None:
        nodes = dict(zip("abc", await gather(simulation, "a", "b", "c"), strict=True))
        await nodes["a"].trust.endorse(EndorseArguments("b", roles=("issuer",), weights=("none",)))
        await simulation.until(lambda: "issuer" in own(nodes["b"]).roles)
        simulation.partition("a", ("b", "c"))
        await nodes["a"].trust.revoke(RevokeArguments("c"))
        (renewed,) = await nodes["b"].trust.renew(RenewArguments("c"))
        assert renewed.name == "c"
        simulation.heal()
        thief = nodes["c"].identity.node
        await simulation.until(lambda: not cut_from(nodes["b"], thief), within_s=90)
        with pytest.raises(NotAllowed):
            await nodes["b"].trust.renew(RenewArguments("c"))

    mesh(play)


def test_a_member_revokes_and_endorses_nobody(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        _, b, c = await gather(simulation, "a", "b", "c")
        for act in (b.trust.revoke(RevokeArguments("c")), b.trust.endorse(EndorseArguments("c"))):
            with pytest.raises(NotAllowed):
                await act
        assert [row.state for row in await c.trust.members()] == ["member"] * 3

    mesh(play)


# --- Endorsement ---


def test_sensitive_work_goes_to_who_is_endorsed_for_these_weights_and_to_nobody_else(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        a, b, _ = await gather(simulation, "a", "b", "c")
        sensitive = {"privacy": Privacy.SENSITIVE, "residency": ("eu",)}
        with pytest.raises(NoCandidate, match="not trusted enough"):
            await served(b, **sensitive)
        other = "sha256:" + "00" * 32
        told = await a.trust.endorse(EndorseArguments("c", labels=("eu",), weights=(other,)))
        assert (told.trust, told.by) == ("endorsed", "root")
        await simulation.until(lambda: "eu" in labels_of(b, "c"))
        assert trust_in(b, "c") is Trust.TRUSTED  # endorsed, and not with what it runs
        with pytest.raises(NoCandidate, match="not trusted enough"):
            await served(b, **sensitive)
        await a.trust.endorse(EndorseArguments("c"))
        await simulation.until(lambda: trust_in(b, "c") is Trust.ENDORSED)
        assert await served(b, **sensitive) == "c endorsed"
        with pytest.raises(NoCandidate, match="residency"):
            await served(b, privacy=Privacy.SENSITIVE, residency=("ch",))
        row = next(row for row in await b.trust.members() if row.name == "c")
        assert (row.trust, row.labels, row.by, len(row.weights)) == ("endorsed", ("trusted", "eu"), "root", 1)
        await a.trust.endorse(EndorseArguments("c", weights=("none",), without=("trusted",)))
        await simulation.until(lambda: trust_in(b, "c") is Trust.MEMBER)
        with pytest.raises(NoCandidate):
            await served(b, **sensitive)

    mesh(play)


def labels_of(node: Node, name: str) -> tuple[str, ...]:
    assert node.presence is not None
    return next((peer.labels for peer in node.presence.view().values() if peer.name == name), ())


def test_an_issuer_endorses_only_if_the_root_allows_it(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        a, b, _ = await gather(simulation, "a", "b", "c")
        await a.trust.endorse(EndorseArguments("b", roles=("issuer",), weights=("none",)))
        await simulation.until(lambda: "issuer" in own(b).roles)
        with pytest.raises(NotAllowed, match="allows to endorse"):
            await b.trust.endorse(EndorseArguments("c"))
        await a.trust.endorse(EndorseArguments("b", roles=("endorser",), weights=("none",)))
        await simulation.until(lambda: "endorser" in own(b).roles)
        told = await b.trust.endorse(EndorseArguments("c", weights=("any",)))
        assert told.by == "issuer"
        await simulation.until(lambda: trust_in(a, "c") is Trust.ENDORSED)
        assert await served(a, privacy=Privacy.SENSITIVE) == "c endorsed"
        with pytest.raises(NotAllowed):
            await b.trust.endorse(EndorseArguments("c", roles=("issuer",)))

    mesh(play)


def test_an_endorsement_outlives_a_restart_of_all(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        a, b, c = await gather(simulation, "a", "b", "c")
        await a.trust.endorse(EndorseArguments("c", labels=("eu",)))
        await simulation.until(lambda: trust_in(b, "c") is Trust.ENDORSED and own(c).endorsed)
        for name in "abc":
            await simulation.stop(name)
        b, c = await restarted(simulation, "b", "c")
        await simulation.until(lambda: reached(b) == {"c"} and trust_in(b, "c") is Trust.ENDORSED)
        assert own(c).endorsed
        assert await served(b, privacy=Privacy.SENSITIVE, residency=("eu",)) == "c endorsed"

    mesh(play)


# --- Issuers, renewal, recovery ---


def test_another_issuer_invites_while_the_founder_is_off(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        a, b, c = await gather(simulation, "a", "b", "c")
        with pytest.raises(NotAllowed):
            await b.invite()
        await a.trust.endorse(EndorseArguments("b", roles=("issuer",), weights=("none",)))
        await simulation.until(lambda: b.may_invite)
        await simulation.stop("a")
        late = await simulation.start("d", **QUIET)
        await late.join(await b.invite())
        await simulation.until(lambda: {"b", "c"} <= reached(late) and "d" in reached(c))
        assert await served(late) == "c trusted"

    mesh(play)


def test_certificates_are_renewed_by_themselves_for_those_who_are_there(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        a, b, _ = await gather(simulation, "a", "b", "c")
        before = own(b)
        await simulation.stop("c")
        for name in "ab":
            simulation.set_clock(name, 16 * DAY_S)
        await simulation.until(lambda: own(b).not_after_ms > before.not_after_ms, within_s=1200)
        assert own(b).serial == before.serial
        rows = {row.name: row for row in await a.trust.members()}
        assert rows["c"].until_ms < rows["b"].until_ms  # which is off, and has to be invited again one day
        await simulation.stop("a")
        await simulation.stop("b")
        for name in "ab":
            simulation.set_clock(name, 31 * DAY_S)  # the first certificate is over
        a, b = await simulation.restart("a"), await simulation.restart("b")
        await simulation.until(lambda: "b" in linked(a) and reached(a) == {"b"})

    mesh(play)


def test_the_root_key_is_restored_on_another_device_and_that_one_speaks_for_the_mesh(
    mesh: Mesh, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "MEMORY_BYTES", 1 << 20)
    file = tmp_path / "root.json"

    async def play(simulation: Simulation) -> None:
        a, b, c = await gather(simulation, "a", "b", "c")
        serial = own(b).serial
        seal = recovery.seal_root
        monkeypatch.setattr(
            "meshnode.control.root.seal_root", lambda *given: seal(*given, memory_bytes=1 << 20)
        )
        assert a.presence is not None
        export_root(a.config.home, file, "correct horse battery", a.presence.mesh, Seams())
        await simulation.stop("a")  # and never comes back
        assert b.presence is not None
        restore_root(b.config.home, file, "correct horse battery", b.presence.mesh)
        claimed = await b.trust.claim()
        assert (claimed.root, claimed.roles) == (True, ("issuer", "member"))
        assert own(b).serial == serial
        late = await simulation.start("d", **QUIET)
        await late.join(await b.invite())
        await simulation.until(lambda: {"b", "c"} <= reached(late))
        await b.trust.endorse(EndorseArguments("c"))
        await simulation.until(lambda: trust_in(late, "c") is Trust.ENDORSED)
        await b.trust.revoke(RevokeArguments("a"))
        assert c.presence is not None
        await simulation.until(lambda: not c.presence.members.is_member(a.identity.key))  # type: ignore[union-attr]

    mesh(play)


def test_a_root_key_that_is_there_at_the_start_makes_an_issuer(mesh: Mesh) -> None:
    async def play(simulation: Simulation) -> None:
        a, b, _ = await gather(simulation, "a", "b", "c")
        (a.config.home / ROOT_FILE).rename(b.config.home / ROOT_FILE)
        await simulation.stop("b")
        b = await simulation.restart("b")
        assert own(b).roles == ("issuer", "member")
        await simulation.until(lambda: "c" in reached(b))
        await b.trust.endorse(EndorseArguments("c", weights=("any",)))
        assert (await b.trust.members())[0].state == "member"

    mesh(play)
