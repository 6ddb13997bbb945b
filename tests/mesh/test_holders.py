"""Which file a name means, among what peers advertise."""

import pytest

from meshnode.errors import BadRequest, ModelNotFound
from meshnode.mesh.ads import ModelAd
from meshnode.mesh.holders import find_holding
from meshnode.mesh.peers import Peer
from meshnode.terms import Trust
from meshwire.ids import NodeId

ONE, TWO = b"\1" * 32, b"\2" * 32


def ad(name: str, quant: str, digest: bytes, signer: bytes = b"") -> ModelAd:
    return ModelAd(
        model=name, family="f", size="s", quant=quant, tier=2, digest=digest, context=1, signer=signer
    )


def view(**models: list[ModelAd]) -> dict[NodeId, Peer]:
    return {
        NodeId(name.encode() * 20): Peer(
            NodeId(name.encode() * 20), b"", None, None, 0, tuple(ads), Trust.MEMBER, (), False, None, None
        )
        for name, ads in models.items()
    }


def test_a_name_means_the_one_file_that_goes_by_it() -> None:
    found = find_holding(view(a=[ad("m:1b", "Q4", ONE)], b=[ad("m:1b", "Q4", ONE, b"k" * 32)], c=[]), "M:1B")
    assert found.ad.digest == ONE
    assert found.nodes == (b"a" * 20, b"b" * 20)
    assert found.source == "m:1b@Q4"
    assert found.ad.signer == b"k" * 32  # who signed it is known if one of them says so


def test_of_two_files_of_one_name_the_quantisation_or_the_digest_tells() -> None:
    there = view(a=[ad("m:1b", "Q4", ONE)], b=[ad("m:1b", "Q8", TWO)])
    with pytest.raises(BadRequest, match=r"2 different files.*mesh:m:1b@Q4 \(Q4, 1 node\); mesh:m:1b@Q8"):
        find_holding(there, "m:1b")
    assert find_holding(there, "m:1b@q8").ad.digest == TWO
    same = view(a=[ad("m:1b", "Q4", ONE)], b=[ad("m:1b", "Q4", TWO)])
    with pytest.raises(BadRequest, match=f"mesh:sha256:{ONE.hex()}.*mesh:sha256:{TWO.hex()}"):
        find_holding(same, "m:1b@Q4")
    by_digest = find_holding(same, f"sha256:{TWO.hex()}")
    assert (by_digest.nodes, by_digest.source) == ((b"b" * 20,), f"sha256:{TWO.hex()}")


def test_what_nobody_offers_is_said_with_what_there_is() -> None:
    with pytest.raises(ModelNotFound, match="There are: m:1b@Q4"):
        find_holding(view(a=[ad("m:1b", "Q4", ONE)]), "other")
    with pytest.raises(ModelNotFound, match="No other node offers any model"):
        find_holding(view(a=[]), "other")
