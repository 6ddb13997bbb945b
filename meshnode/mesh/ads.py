"""What nodes advertise: one record for the node, one for each model. It knows shapes and bounds, not truth.

An ad is a claim by its owner alone; what was measured outweighs it elsewhere.
"""

from typing import Annotated, TypeVar

import msgspec

from meshnode.terms import ModelCard
from meshnode.trust.weights import Statement
from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.fields import grown, pack_fields, unpack_fields
from meshwire.records import Record, RecordType

ADDRESSES_MAX = 8
RELAYS_MAX = 4
AD_TTL_MS = 15 * 60 * 1000
AD_REFRESH_S = 5 * 60.0
TOMBSTONE_TTL_MS = AD_TTL_MS
EVIDENCE_BYTES_MAX = 256  # a record has little room: a token, or the digest of what a verifier can fetch

Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Id = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
Text = Annotated[str, msgspec.Meta(max_length=64)]
Address = Annotated[str, msgspec.Meta(max_length=128)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class NodeAd(msgspec.Struct, frozen=True, kw_only=True):
    """A node: how to reach it, the key that end-to-end sessions with it use, and its posture.

    `addresses` are URLs, best first; `static_key` is its X25519 key; `relays` are nodes that hold a link to
    it and have promised to carry circuits there, for one that cannot be dialled; `carries` says whether it carries
    those of others. The posture says what is really in force, not what was wished. `evidence` is about its hardware;
    what it proves is for a verifier that the reader's own program brings.
    """

    name: Text
    static_key: Key
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=ADDRESSES_MAX)] = ()
    relays: Annotated[tuple[Id, ...], msgspec.Meta(max_length=RELAYS_MAX)] = ()
    version: Text = ""
    sandboxed: bool = False
    attested: bool = False
    signed_weights: bool = False
    carries: bool = True
    evidence: Annotated[bytes, msgspec.Meta(max_length=EVIDENCE_BYTES_MAX), grown(66)] = b""

    @property
    def dialable(self) -> bool:
        """Whether others can open a link to it."""
        return bool(self.addresses)


class ModelAd(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a node offers it: the fields of its card, and what it costs.

    `price_usd` is per million generated tokens; `watts` what the machine draws while it generates, 0 when it
    cannot tell; `signature` is `signer`'s over the digest at `signed_at_ms`, see `meshnode.trust.weights`.
    """

    model: Text
    family: Text
    size: Text
    quant: Text
    tier: Annotated[int, msgspec.Meta(ge=0, le=6)]
    digest: Key
    context: Count
    prompt_tps: Amount = 0.0
    generate_tps: Amount = 0.0
    slots: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    batch_gain: Annotated[float, msgspec.Meta(ge=1, le=1024)] = 1.0
    features: Annotated[tuple[Text, ...], msgspec.Meta(max_length=16)] = ()
    price_usd: Amount = 0.0
    watts: Amount = 0.0
    signer: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    signed_at_ms: Count = 0
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""

    @property
    def record_name(self) -> str:
        """The name of its record: each model in each quantisation is a record of its own."""
        return f"{self.model}@{self.quant}"

    @property
    def card(self) -> ModelCard:
        """The facts that the decision needs."""
        return ModelCard(
            name=self.model,
            family=self.family,
            size=self.size,
            quant=self.quant,
            tier=self.tier,
            digest=self.digest,
            context=self.context,
            prompt_tps=self.prompt_tps,
            generate_tps=self.generate_tps,
            slots=self.slots,
            batch_gain=self.batch_gain,
            features=self.features,
            watts=self.watts,
            signer=self.signer,
            signed_at_ms=self.signed_at_ms,
            signature=self.signature,
        )


def model_ad(card: ModelCard, *, price_usd: float = 0.0) -> ModelAd:
    """The ad for a card."""
    return ModelAd(
        model=card.name,
        family=card.family,
        size=card.size,
        quant=card.quant,
        tier=card.tier,
        digest=card.digest,
        context=card.context,
        prompt_tps=card.prompt_tps,
        generate_tps=card.generate_tps,
        slots=card.slots,
        batch_gain=card.batch_gain,
        features=card.features,
        price_usd=price_usd,
        watts=card.watts,
        signer=card.signer,
        signed_at_ms=card.signed_at_ms,
        signature=card.signature,
    )


def node_payload(ad: NodeAd) -> dict[int, object]:
    """The payload of a NODE record; raises LocalWireError for an ad that others would refuse."""
    return _checked(ad, "")


def model_payload(ad: ModelAd) -> dict[int, object]:
    """The payload of a MODEL record; raises LocalWireError for an ad that others would refuse."""
    return _checked(ad, ad.record_name)


def read_node_ad(record: Record) -> NodeAd:
    """The ad in a NODE record; raises RemoteWireError."""
    return _read(NodeAd, record, RecordType.NODE)


def read_model_ad(record: Record) -> ModelAd:
    """The ad in a MODEL record; raises RemoteWireError, also if the record goes by another name.

    Who signed the weights is left out of it when the signature is not theirs.
    """
    ad = _read(ModelAd, record, RecordType.MODEL)
    if record.name != ad.record_name:
        raise RemoteWireError("a model record under a name that is not its model's")
    if not _signature_holds(ad):
        return msgspec.structs.replace(ad, signer=b"", signed_at_ms=0, signature=b"")
    return ad


def _signature_holds(ad: ModelAd) -> bool:
    if not ad.signer:
        return not ad.signature
    return Statement(ad.signer, ad.digest, ad.signed_at_ms, ad.signature).holds


A = TypeVar("A", bound=msgspec.Struct)


def _read(cls: type[A], record: Record, kind: RecordType) -> A:
    if record.type is not kind:
        raise RemoteWireError(f"a {record.type.name} record where a {kind.name} record belongs")
    return unpack_fields(cls, record.payload)


def _checked(ad: NodeAd | ModelAd, name: str) -> dict[int, object]:
    payload = pack_fields(ad, name=name)
    try:
        unpack_fields(type(ad), payload)
    except RemoteWireError as error:
        raise LocalWireError(f"this ad cannot be published: {error}") from error
    return payload
