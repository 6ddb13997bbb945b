"""Hard filters: who may serve a request at all. One reason for each node that may not; it scores nobody."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from meshnode.routing import quality, quants
from meshnode.terms import Candidate, CloudOffer, Feature, ModelCard, Place, Privacy, Wish
from meshnode.terms.privacy import TRUST_NEEDED
from meshwire.limits import ROUTE_LINKS

AUTO = "auto"
AUTO_TASK = "auto:"
DIGEST_PREFIX = "sha256:"
CLOUD_CLASSES = (Privacy.PUBLIC, Privacy.PRIVATE)


class Reason(StrEnum):
    """Why a candidate was ruled out. The first that holds, in this order, is the one that is named."""

    TRIED = "already tried for this request"
    MODEL = "another model"
    TIER = "a lower quant tier than asked for"
    CONTEXT = "too little context for the counted prompt"
    FEATURES = "lacks a feature"
    SIGNER = "weights not signed by whom the request demands"
    FOREIGN = "was found to answer with other weights than it claims"
    PRIVACY = "not trusted enough for the privacy class"
    CLASS = "its owner does not let this privacy class leave for it"
    RELAY = "reached through relays, which the privacy class forbids"
    RESIDENCY = "does not carry the residency labels"
    PLACE = "not a place the request allows"
    PRICE = "could cost more than the request allows"
    DEARER = "asks more than it advertises"
    ENERGY = "could take more energy than the request allows"
    UNMETERED = "cannot tell what energy it takes, which the request limits"
    BUDGET = "could cost more than its budget covers"
    EXPIRED = "its ad or vitals have expired"
    UNREACHABLE = "no path to it is known"
    HOPS = "farther than a route may go"
    BREAKER = "failed lately, and is left alone for a while"
    BUSY = "takes no work now"


Tried = Collection[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ModelWish:
    """A model name, read. Empty parts match anything; `task` is what the mesh picks a model for, if it does."""

    name: str = ""
    digest: str = ""
    min_tier: int = 0
    task: str = ""

    @property
    def auto(self) -> bool:
        """Whether the mesh picks the model."""
        return not self.name and not self.digest

    @property
    def family(self) -> str:
        """The family that the name begins with; empty when it names none."""
        return self.name.partition(":")[0]

    def fits(self, card: ModelCard) -> bool:
        """Whether a model is the one meant: by digest, by `family:size`, or by family alone."""
        if self.digest:
            return card.digest.hex() == self.digest
        name = card.name.lower()
        return (
            not self.name or name == self.name or (":" not in self.name and card.family.lower() == self.name)
        )


def parse_model(text: str) -> ModelWish:
    """Read `family:size`, `family:size@q4`, `family`, `sha256:…`, `auto`, `auto:code` or nothing.

    A suffix that is no tier, and a task that is none, is kept as part of the name, so that it matches nothing and the
    refusal names what was asked for.
    """
    word = text.strip().lower()
    if word.startswith(DIGEST_PREFIX):
        return ModelWish(digest=word.removeprefix(DIGEST_PREFIX))
    name, _, suffix = word.partition("@")
    tier = quants.parse_tier(suffix) if suffix else 0
    if tier is None:
        return ModelWish(name=word)
    task = name.removeprefix(AUTO_TASK)
    if name == AUTO or (task != name and task in quality.TASKS):
        return ModelWish(min_tier=tier, task="" if name == AUTO else task)
    return ModelWish(name=name, min_tier=tier)


def reject(
    candidate: Candidate,
    wish: Wish,
    model: ModelWish,
    *,
    tried: Tried = (),
    counted_tokens: int = 0,
    too_dear: bool = False,
) -> Reason | None:
    """The reason why a candidate may not serve, or None if it may.

    `tried` holds (node, weights digest) pairs; `counted_tokens` is what a worker has counted for prompt and
    answer, 0 before any has: an estimate rules nobody out. `too_dear` says that it could cost more than is allowed.
    """
    card = candidate.card
    checks = (
        (Reason.TRIED, (candidate.node, card.digest) in tried),
        (Reason.MODEL, not model.fits(card)),
        (Reason.TIER, card.tier < max(wish.min_tier, model.min_tier)),
        (Reason.CONTEXT, 0 < card.context < counted_tokens),
        (Reason.FEATURES, not set(wish.features) <= set(card.features)),
        (Reason.FEATURES, card.only_embeds and Feature.EMBEDDINGS not in wish.features),
        (Reason.SIGNER, bool(wish.signed_by) and not _is_signed_by(card, wish.signed_by)),
        (Reason.FOREIGN, candidate.distrusted),
        (Reason.PRIVACY, candidate.cloud is None and candidate.trust < TRUST_NEEDED[wish.privacy]),
        (Reason.CLASS, not _class_may_leave(candidate.cloud, wish.privacy)),
        (Reason.RELAY, wish.privacy is Privacy.SENSITIVE and len(candidate.path) > 1),
        (Reason.RESIDENCY, not set(wish.residency) <= set(candidate.labels)),
        (Reason.PLACE, not _place_allows(candidate, wish)),
        (Reason.PRICE, too_dear),
        (Reason.BUDGET, not _is_covered(candidate.cloud)),
        (Reason.EXPIRED, candidate.ad_expired),
        (Reason.UNREACHABLE, not candidate.reachable),
        (Reason.HOPS, len(candidate.path) > ROUTE_LINKS),
        (Reason.BUSY, not candidate.accepting),
    )
    return next((reason for reason, holds in checks if holds), None)


def _is_signed_by(card: ModelCard, keys: tuple[str, ...]) -> bool:
    """Whether one of these keys, in hex, signed the weights; a card's signature was verified when it came."""
    return bool(card.signer) and card.signer.hex() in {key.lower() for key in keys}


def is_local(candidate: Candidate) -> bool:
    """Whether this is the node itself: the only one that is trusted as such."""
    return candidate.trust >= TRUST_NEEDED[Privacy.LOCAL]


def _place_allows(candidate: Candidate, wish: Wish) -> bool:
    if candidate.cloud is not None and not wish.cloud:
        return False
    match wish.place:
        case Place.LOCAL:
            return is_local(candidate)
        case Place.MESH:
            return not is_local(candidate) and candidate.cloud is None
        case Place.CLOUD:
            return candidate.cloud is not None
        case Place.PREFER_LOCAL:
            return True


def _class_may_leave(cloud: CloudOffer | None, privacy: Privacy) -> bool:
    """Whether a class may go to a commercial API: as its owner says, and the two strictest never."""
    return cloud is None or (privacy in cloud.privacy and privacy in CLOUD_CLASSES)


def _is_covered(cloud: CloudOffer | None) -> bool:
    return cloud is None or cloud.most_usd <= min(cloud.request_usd, cloud.left_usd)
