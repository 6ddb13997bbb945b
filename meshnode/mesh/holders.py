"""Which file a name means in the mesh, and who says that they have it. Pure: it reads ads, and believes none."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meshnode.errors import BadRequest, ModelNotFound
from meshnode.mesh.ads import ModelAd
from meshnode.mesh.peers import Peer
from meshwire.ids import NodeId

DIGEST_SCHEME = "sha256:"
CHOICES_MAX = 8


class Holding(NamedTuple):
    """A file, as its ads describe it, and the nodes that advertise it; `named` says that it was asked for by name."""

    ad: ModelAd
    nodes: tuple[NodeId, ...]
    named: bool

    @property
    def source(self) -> str:
        """What to pull to get this one again."""
        return self.ad.record_name if self.named else f"{DIGEST_SCHEME}{self.ad.digest.hex()}"


def find_holding(view: Mapping[NodeId, Peer], wanted: str) -> Holding:
    """The one file that `NAME`, `NAME@QUANT` or `sha256:HEX` means.

    Raises ModelNotFound if nobody advertises it, BadRequest if several files go by that name.
    """
    found: dict[bytes, list[tuple[NodeId, ModelAd]]] = {}
    for node, peer in view.items():
        for ad in peer.models:
            if _means(wanted.lower(), ad):
                found.setdefault(ad.digest, []).append((node, ad))
    if not found:
        raise ModelNotFound(f"No node of the mesh offers {wanted}.", hint=_offered(view))
    if len(found) > 1:
        raise BadRequest(
            f"{wanted} means {len(found)} different files in the mesh.",
            hint="Say which: " + "; ".join(_choices(found.values())),
            param="source",
        )
    ((digest, holders),) = found.items()
    signed = next((ad for _, ad in holders if ad.signer), holders[0][1])
    return Holding(signed, tuple(node for node, _ in holders), wanted.lower() != f"sha256:{digest.hex()}")


def _means(wanted: str, ad: ModelAd) -> bool:
    return wanted in (ad.model.lower(), ad.record_name.lower(), f"{DIGEST_SCHEME}{ad.digest.hex()}")


def _choices(found: Iterable[list[tuple[NodeId, ModelAd]]]) -> list[str]:
    """How to ask for each of them alone."""
    holdings = list(found)
    names = [holders[0][1].record_name for holders in holdings]
    lines = []
    for name, holders in zip(names, holdings, strict=True):
        word = name if names.count(name) == 1 else f"{DIGEST_SCHEME}{holders[0][1].digest.hex()}"
        count = len({node for node, _ in holders})
        lines.append(f"mesh:{word} ({holders[0][1].quant}, {count} node{'s' if count > 1 else ''})")
    return sorted(lines)[:CHOICES_MAX]


def _offered(view: Mapping[NodeId, Peer]) -> str:
    names = sorted({ad.record_name for peer in view.values() for ad in peer.models})
    if not names:
        return "No other node offers any model now; see `meshnode peers`."
    return "There are: " + ", ".join(names[:CHOICES_MAX]) + ("…" if len(names) > CHOICES_MAX else "") + "."
