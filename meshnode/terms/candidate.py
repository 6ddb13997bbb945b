"""A model as a node offers it, and a node that could serve a request. Facts only; scoring is elsewhere."""

from enum import StrEnum

import msgspec

from meshnode.terms.money import CloudOffer
from meshnode.terms.privacy import Trust


class Feature(StrEnum):
    """What an engine can do beyond plain chat."""

    TOOLS = "tools"
    JSON_SCHEMA = "json-schema"
    LOGPROBS = "logprobs"
    EMBEDDINGS = "embeddings"
    TOKEN_IDS = "token-ids"  # noqa: S105 - of a language model
    TEXT = "text"  # to go on with a bare text


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One model in one quantisation, as an engine runs it.

    `name` is `family:size`, such as `smollm2:135m`; `tier` 0 to 6; `digest` is the SHA-256 of the weights;
    `context` is in tokens; `prompt_tps` and `generate_tps` are measured tokens per second for one sequence
    (0 = not measured yet); `slots` is how many requests run at once; `batch_gain` is how much the total speed
    grows when all slots are busy; `watts` what the machine draws while it generates (0 = it cannot tell).
    `signature` is `signer`'s over the digest at `signed_at_ms`, see `meshnode.trust.weights`; empty for
    weights that nobody signed.
    """

    name: str
    family: str
    size: str
    quant: str
    tier: int
    digest: bytes
    context: int
    prompt_tps: float = 0.0
    generate_tps: float = 0.0
    slots: int = 1
    batch_gain: float = 1.0
    features: tuple[str, ...] = ()
    watts: float = 0.0
    signer: bytes = b""
    signed_at_ms: int = 0
    signature: bytes = b""

    @property
    def only_embeds(self) -> bool:
        """Whether it makes vectors and writes no answers."""
        return self.features == (Feature.EMBEDDINGS,)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A node that may serve, with all that the decision needs.

    `node` is its NodeId; `path` the NodeIds of the links' far ends, the last being `node` (empty for this
    node itself); `rtt_ms` the sum over the path, None when unknown; queue figures are those last heard.
    `deprioritised` says that it would rather leave the request to others; `retry_after_s`, where it is known, in
    how many seconds a node that is not accepting will be; `price_usd` is what its owner asks for a million answer
    tokens. `distrusted` says that it was found to answer with other weights than these. `cloud` is there for a
    commercial API, which is no node: then `node` and `path` only tell it from others.
    """

    node: bytes
    card: ModelCard
    trust: Trust
    labels: tuple[str, ...] = ()
    path: tuple[bytes, ...] = ()
    rtt_ms: float | None = None
    in_flight: int = 0
    queued_prefill: int = 0
    queued_decode: int = 0
    accepting: bool = True
    ad_expired: bool = False
    reachable: bool = True
    deprioritised: bool = False
    retry_after_s: float | None = None
    price_usd: float = 0.0
    distrusted: bool = False
    cloud: CloudOffer | None = None
