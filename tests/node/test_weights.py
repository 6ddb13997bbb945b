"""Model files fetched from other nodes of the mesh, in simulated meshes: several at once, liars, losses, refusals."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio

from meshnode.control.invite import invite
from meshnode.errors import BadRequest, DownloadFailed, ModelFileInvalid, ModelNotFound, NotAllowed
from meshnode.models.signed import statement_of
from meshnode.node import engines
from meshnode.testing.simulation import Simulation
from meshnode.trust.certificates import LABEL_TRUSTED
from meshnode.trust.weights import sign
from meshwire.limits import BLOB_CHUNK_MIN
from meshwire.signing import Signer
from tests.node.weights_play import CHUNKS, MODEL, Mill

Mesh = Callable[..., Any]
SLOW = {"share_kb_per_s": 256}  # a chunk takes 4 s


@pytest.fixture
def mill(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Mill:
    return Mill(tmp_path, monkeypatch)


def name_of(part: Any) -> str:
    return str(part.name.split("#")[0])


def spoil(begin: int, found: bytes) -> bytes:
    """One bit of every chunk is another."""
    return bytes([found[0] ^ 1]) + found[1:] if begin % BLOB_CHUNK_MIN == 0 else found


def spoil_third(begin: int, found: bytes) -> bytes:
    """One bit of the third chunk is another."""
    return spoil(0, found) if begin == 2 * BLOB_CHUNK_MIN else found


def test_a_model_comes_from_all_who_have_it_at_once(mesh: Mesh, mill: Mill) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation)
        seen = []
        model = await a.pull(f"mesh:{MODEL}", on_progress=seen.append)
        assert model.digest == mill.digest
        assert model.path.read_bytes() == mill.content
        assert model.name == MODEL
        assert {name for name, _ in mill.reads} == {"b", "c", "d"}
        assert {index for _, index in mill.reads} == set(range(CHUNKS))
        assert sum(part.given_bytes for part in model.parts) == len(mill.content)
        assert max(progress.peers for progress in seen) > 1
        again = await a.pull(f"mesh:{MODEL}")
        assert again.path == model.path

    mesh(play)


def test_who_sends_another_chunk_than_it_promised_is_named_and_nobody_else(mesh: Mesh, mill: Mill) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation)
        mill.watch("c", simulation.host("c").node, spoil)
        model = await a.pull(f"mesh:{MODEL}")
        assert model.path.read_bytes() == mill.content
        assert [name_of(part) for part in model.parts if part.wrong] == ["c"]
        assert [name_of(part) for part in model.parts if part.problem] == ["c"]
        assert sum(part.given_bytes for part in model.parts if part.wrong) == 0
        assert "wrong weights" in simulation.timeline.told()

    mesh(play)


@pytest.mark.parametrize("liars", ["c", "bc"], ids=("one", "the majority"))
def test_who_promises_other_chunks_is_named_once_the_whole_file_shows_it(
    mesh: Mesh, mill: Mill, liars: str
) -> None:
    """The liars give what they promise, so that only the digest of the whole tells."""

    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation)
        for name in liars:
            library = simulation.host(name).node._weights._library
            mill.watch(name, simulation.host(name).node, spoil_third)
            promise = library._promise

            async def lying(*given: Any, promise: Any = promise) -> Any:
                told = await promise(*given)
                chunk = mill.content[2 * BLOB_CHUNK_MIN : 3 * BLOB_CHUNK_MIN]
                other = hashlib.sha256(spoil(0, chunk)).digest()
                return told._replace(hashes=told.hashes[:64] + other + told.hashes[96:])

            library._promise = lying
        model = await a.pull(f"mesh:{MODEL}")
        assert model.path.read_bytes() == mill.content
        assert sorted(name_of(part) for part in model.parts if part.wrong) == list(liars)
        fetched = [index for _, index in mill.reads]
        assert all(fetched.count(index) <= 2 for index in (0, 1, 3, 4))  # what all agree on stays

    mesh(play)


def test_where_all_lie_there_is_no_model_and_all_are_named(mesh: Mesh, mill: Mill) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation, "bc")
        for name in "bc":
            mill.watch(name, simulation.host(name).node, spoil)
        with pytest.raises(ModelFileInvalid, match=r"No node gives.*b#.*c#"):
            await a.pull(f"mesh:{MODEL}")
        assert a.models_store.models() == []

    mesh(play)


@pytest.mark.parametrize("silent", [False, True], ids=("killed", "no power"))
def test_what_a_lost_peer_was_asked_for_comes_from_the_others(mesh: Mesh, mill: Mill, silent: bool) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation, **SLOW)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _lose() -> None:
                await trio.sleep(6.0)
                await simulation.crash("b", silent=silent)

            model = await a.pull(f"mesh:{MODEL}")
        assert model.path.read_bytes() == mill.content
        assert not any(part.wrong for part in model.parts)

    mesh(play)


def test_a_pull_waits_out_a_partition(mesh: Mesh, mill: Mill) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation, **SLOW)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _part() -> None:
                await trio.sleep(5.0)
                simulation.partition("a", "bcd")
                await trio.sleep(20.0)
                simulation.heal()

            model = await a.pull(f"mesh:{MODEL}")
        assert model.path.read_bytes() == mill.content

    mesh(play)


def test_where_all_peers_are_lost_it_says_so_and_goes_on_from_there_later(mesh: Mesh, mill: Mill) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation, "bc", **SLOW)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _lose() -> None:
                await trio.sleep(20.0)
                await simulation.crash("b")
                await simulation.crash("c")

            with pytest.raises(DownloadFailed, match=r"No node is left .* MB are kept"):
                await a.pull(f"mesh:{MODEL}")
        before = {index for _, index in mill.reads}
        held = a.models_store.cache / "incoming" / mill.digest.hex() / "chunks.done"
        kept = {index for index, mark in enumerate(held.read_bytes()) if mark}
        assert kept
        assert kept <= before
        mill.reads.clear()
        for name in "bc":
            mill.watch(name, await simulation.restart(name))
        await simulation.until(a.models, within_s=60)
        model = await a.pull(f"mesh:{MODEL}")
        assert model.path.read_bytes() == mill.content
        assert not kept & {index for _, index in mill.reads}  # nothing was fetched twice

    mesh(play)


def test_chunks_that_the_disk_lost_are_fetched_again_and_nobody_is_blamed(mesh: Mesh, mill: Mill) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation, "bc", **SLOW)
        with trio.move_on_after(20.0):
            await a.pull(f"mesh:{MODEL}")
        part = a.models_store.cache / "incoming" / mill.digest.hex() / "chunks.part"
        kept = part.with_name("chunks.done").read_bytes().index(1)
        with part.open("r+b") as file:
            file.seek(kept * BLOB_CHUNK_MIN)
            file.write(bytes(100))
        model = await a.pull(f"mesh:{MODEL}")
        assert model.path.read_bytes() == mill.content
        assert not any(each.wrong for each in model.parts)

    mesh(play)


@pytest.mark.parametrize(
    ("setting", "open_mesh"), [("nobody", False), ("auto", True)], ids=("closed to all", "an open mesh")
)
def test_who_does_not_share_refuses(mesh: Mesh, mill: Mill, setting: str, open_mesh: bool) -> None:
    async def play(simulation: Simulation) -> None:
        b = await mill.holder(simulation, "b", share_models=setting, open_mesh=open_mesh)
        a = await simulation.start("a", engine="none", open_mesh=open_mesh)
        mill.on_own_machine("a", a)
        await a.join("mem://b" if open_mesh else await b.invite())
        await simulation.until(a.models)
        with pytest.raises(
            NotAllowed, match=r"Every node that has it refuses \(b#.*gives its model files to"
        ):
            await a.pull(f"mesh:{MODEL}")
        assert mill.reads == []

    mesh(play)


def test_only_trusted_nodes_get_what_is_for_them(mesh: Mesh, mill: Mill) -> None:
    async def play(simulation: Simulation) -> None:
        b = await mill.holder(simulation, "b", share_models="trusted")
        for name, labels in (("a", (LABEL_TRUSTED,)), ("c", ())):
            node = await simulation.start(name, engine="none")
            mill.on_own_machine(name, node)
            presence = b.presence
            ticket = await invite(
                b.identity,
                presence.mesh,
                b._store,
                b.seams,
                addresses=presence.addresses,
                expires_s=600,
                labels=labels,
            )
            await node.join(ticket)
            await simulation.until(node.models)
        assert (await simulation.host("a").node.pull(f"mesh:{MODEL}")).digest == mill.digest
        with pytest.raises(NotAllowed, match="trusted nodes only"):
            await simulation.host("c").node.pull(f"mesh:{MODEL}")

    mesh(play)


def test_errors_say_what_there_is(mesh: Mesh, mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation, "b")
        with pytest.raises(ModelNotFound, match=rf"No node of the mesh offers big:70b.*{MODEL}@scripted"):
            await a.pull("mesh:big:70b")
        mill.digest = b"\7" * 32
        c = await simulation.start("c", model=MODEL)
        await c.join(await a.invite())
        await simulation.until(lambda: len(a.models()) == 2)
        with pytest.raises(BadRequest, match=r"2 different files.*mesh:sha256:"):
            await a.pull(f"mesh:{MODEL}")
        with pytest.raises(DownloadFailed, match="does not have that model as a file"):
            await a.pull("mesh:sha256:" + mill.digest.hex())

    mesh(play)


def test_who_signed_the_weights_comes_along(mesh: Mesh, mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(b"a" * 32)
    statement = sign(signer, mill.digest, 1)
    plain = engines.scripted_card

    def signed(name: str, **facts: Any) -> Any:
        card = plain(name, **facts)
        return msgspec.structs.replace(
            card, signer=signer.public, signed_at_ms=1, signature=statement.signature
        )

    monkeypatch.setattr(engines, "scripted_card", signed)

    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation, "b")
        model = await a.pull(f"mesh:{MODEL}")
        assert statement_of(a.models_store, model.digest) == statement

    mesh(play)
