"""A request that demands signed weights, across a mesh: whoever has them is asked, and a forged claim is none."""

from contextlib import AsyncExitStack

import msgspec
import pytest

from meshnode.engine.scripted import scripted_card
from meshnode.errors import MeshError
from meshnode.node import engines
from meshnode.routing.policy import Reason
from meshnode.terms import ModelCard
from meshnode.trust.weights import sign
from meshwire.records import RecordType
from meshwire.signing import Signer
from tests.node.small_mesh import MODEL, World, text_of

ANN, BOB = Signer(b"a" * 32), Signer(b"b" * 32)


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch):
    """Have every scripted engine claim that `signer` signed its weights."""

    def claim(signer: bytes) -> None:
        def signed(name: str, **facts: object) -> ModelCard:
            card = scripted_card(name, **facts)
            statement = sign(ANN, card.digest, 1)
            return msgspec.structs.replace(card, signer=signer, signed_at_ms=1, signature=statement.signature)

        monkeypatch.setattr(engines, "scripted_card", signed)

    return claim


async def test_a_peer_with_weights_signed_by_one_of_the_keys_answers(world: World, claimed) -> None:
    claimed(ANN.public)
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        keys = (BOB.public.hex(), ANN.public.hex())
        async with a.ask("hello", model=MODEL, max_tokens=2, signed_by=keys) as running:
            assert running.answer.served_by.startswith("c#")
            await text_of(running)
        with pytest.raises(MeshError, match=Reason.SIGNER):
            async with a.ask("hello", model=MODEL, max_tokens=2, signed_by=keys[:1]):
                pass
        told = a.presence.view()[c.identity.node].ad
        assert told.signed_weights


async def test_a_peer_that_forges_a_signer_has_unsigned_weights(world: World, claimed) -> None:
    claimed(BOB.public)
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        with pytest.raises(MeshError, match=Reason.SIGNER):
            async with a.ask("hello", model=MODEL, max_tokens=2, signed_by=(BOB.public.hex(),)):
                pass
        (ad,) = a.presence.view()[c.identity.node].models
        assert ad.signer == b""
        assert a.presence.book.get(c.identity.node, RecordType.NODE) is not None
