"""Hardware is attested by what an embedding program brings, and by nothing else."""

from contextlib import AsyncExitStack

import pytest

from meshnode import Attestation, Node
from meshnode.control.endorse import EndorseArguments
from meshnode.errors import ConfigInvalid
from meshnode.mesh.ads import EVIDENCE_BYTES_MAX
from meshnode.node.attesting import REMEMBERED_MAX
from meshnode.terms import Trust
from tests.node.small_mesh import World, until

KEY, REPORT = b"k" * 32, b"a report"


def test_without_a_verifier_nobody_is_attested() -> None:
    assert not Attestation(evidence=REPORT).holds(KEY, REPORT)


def test_a_verifier_is_asked_once_and_only_a_plain_yes_counts() -> None:
    asked = []

    def verify(key: bytes, evidence: bytes) -> bool:
        asked.append((key, evidence))
        if evidence == b"broken":
            raise RuntimeError("no connection")
        return evidence == REPORT

    attestation = Attestation(verify=verify)
    for _ in range(3):
        assert attestation.holds(KEY, REPORT)
        assert not attestation.holds(KEY, b"another")
        assert not attestation.holds(KEY, b"broken")
    assert len(asked) == 3
    assert not Attestation(verify=lambda _key, _evidence: "yes").holds(KEY, REPORT)  # type: ignore[arg-type,return-value]
    for number in range(REMEMBERED_MAX + 10):
        attestation.holds(KEY, number.to_bytes(4, "big"))
    assert len(attestation._known) == REMEMBERED_MAX


def test_evidence_is_bounded() -> None:
    with pytest.raises(ConfigInvalid):
        Attestation(evidence=bytes(EVIDENCE_BYTES_MAX + 1))


def trusted(node: Node, other: Node) -> Trust:
    assert node.presence is not None
    return next(one.trust for one in node.presence.candidates() if one.node == other.identity.node)


async def test_an_endorsed_node_whose_evidence_is_believed_is_trusted_as_hardware(world: World) -> None:
    judge = Attestation(verify=lambda _key, evidence: evidence == REPORT)
    shows = Attestation(evidence=REPORT)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a", attestation=judge))
        b = await stack.enter_async_context(world.node("b"))
        c = await stack.enter_async_context(world.node("c", engine="scripted", attestation=shows))
        for node in (b, c):
            await node.join(await a.invite())
        await until(lambda: a.models() and b.models())
        assert trusted(a, c) is Trust.TRUSTED  # evidence alone makes nobody endorsed
        await a.trust.endorse(EndorseArguments("c", weights=("any",)))
        await until(lambda: trusted(a, c) is Trust.HARDWARE)
        await until(lambda: trusted(b, c) is Trust.ENDORSED)  # which has no verifier
