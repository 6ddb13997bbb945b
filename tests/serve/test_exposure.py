"""A node whose engine is not contained works for its owner alone, unless the owner takes the risk."""

import trio

from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import NotAllowed
from meshnode.serve.admit import Admission
from meshnode.serve.inbound import Inbound
from meshnode.serve.local import Bench
from meshnode.serve.remote import run_on_link
from meshnode.serve.scopes import Scopes
from meshnode.terms import Posture
from tests.net.hubs import open_world
from tests.serve.test_remote import JOB


class Bare(ScriptedEngine):
    """An engine whose worker could do anything."""

    posture = Posture(why="bubblewrap is not installed")  # type: ignore[assignment]


async def ask(engine: ScriptedEngine, *, allow: bool) -> int | NotAllowed:
    """Ask it from another node; how many pieces and other things came, or why none did."""
    bench = Bench((engine,), Scopes(b"test"), allow_unsandboxed=allow)
    inbound = Inbound(Admission(4), bench, lambda _job: scripted_card(slots=1))
    async with open_world() as world, trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await nursery.start(inbound.run)
        a, b = await world.line("a", "b")
        b.on_ask = inbound.serve  # type: ignore[method-assign]
        answer: int | NotAllowed
        try:
            with trio.fail_after(60):
                async with run_on_link(a.up[0], JOB) as pieces:
                    answer = len([emitted async for emitted in pieces])
        except NotAllowed as error:
            answer = error
        nursery.cancel_scope.cancel()
    return answer


async def test_others_work_is_refused_where_nothing_contains_it() -> None:
    refused = await ask(Bare(scripted_card(slots=1)), allow=False)
    assert isinstance(refused, NotAllowed)
    assert "without a sandbox" in refused.message
    assert "--allow-unsandboxed" in refused.hint


async def test_it_is_done_where_the_owner_allows_it_or_it_is_contained() -> None:
    card = scripted_card(slots=1)
    contained = await ask(ScriptedEngine(card, answer_tokens=5), allow=False)
    assert isinstance(contained, int)
    assert await ask(Bare(card, answer_tokens=5), allow=True) == contained


async def test_a_node_is_contained_when_all_of_its_engines_are() -> None:
    good, bare = ScriptedEngine(scripted_card()), Bare(scripted_card())
    assert Bench((good,), Scopes(b"test")).contained
    assert not Bench((good, bare), Scopes(b"test")).contained
    assert not Bench((), Scopes(b"test")).contained
    assert not Bench((bare,), Scopes(b"test"), allow_unsandboxed=True).contained  # allowed is not contained
