"""From what a worker reports about a model file to the card that a node advertises. Pure."""

import re

import msgspec

from meshnode.engine.worker.frames import Measured, Ready
from meshnode.routing.quants import quant_of
from meshnode.terms import Feature, ModelCard
from meshnode.trust.weights import Statement

FAMILY_MAX_CHARS = 48
MOVED = 0.2  # of a speed, before it is told anew: every change is a signature, and a verification everywhere


def build_card(ready: Ready, *, name: str, digest: bytes, statement: Statement | None = None) -> ModelCard:
    """The card of a running model. `name` is what the operator calls it; empty takes it from the file.

    `statement` says who vouches for the weights, and was verified.
    """
    family, size = _family(ready), _size(ready)
    if ":" in name:
        family, size = name.split(":", 1)
    bits = ready.weights_bytes * 8 / ready.parameters if ready.parameters else 0.0
    quant = quant_of(ready.file_type if ready.file_type >= 0 else None, bits)
    return ModelCard(
        name=f"{family}:{size}",
        family=family,
        size=size,
        quant=quant.name,
        tier=quant.tier,
        digest=digest,
        context=ready.context,
        prompt_tps=round(ready.prompt_tps, 1),
        generate_tps=round(ready.generate_tps, 1),
        slots=ready.slots,
        batch_gain=round(ready.batch_gain, 2),
        features=ready.features or (Feature.TOKEN_IDS,),
        signer=statement.signer if statement else b"",
        signed_at_ms=statement.signed_at_ms if statement else 0,
        signature=statement.signature if statement else b"",
    )


def refreshed(card: ModelCard, measured: Measured, watts: float) -> ModelCard:
    """The card with speeds and watts as they are now, or the very same card when none has moved by a fifth."""
    now = {
        "prompt_tps": round(measured.prompt_tps, 1) or card.prompt_tps,
        "generate_tps": round(measured.generate_tps, 1) or card.generate_tps,
        "batch_gain": max(1.0, round(measured.batch_gain, 2)) if measured.batch_gain else card.batch_gain,
        "watts": round(watts, 1) or card.watts,
    }
    moved = any(abs(new - getattr(card, name)) > MOVED * getattr(card, name) for name, new in now.items())
    return msgspec.structs.replace(card, **now) if moved else card


def _family(ready: Ready) -> str:
    known = ready.metadata
    text = known.get("general.basename") or known.get("general.name") or known.get("general.architecture", "")
    word = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    return word[:FAMILY_MAX_CHARS] or "model"


def _size(ready: Ready) -> str:
    label = ready.metadata.get("general.size_label", "").lower()
    if re.fullmatch(r"[0-9a-z.]{1,16}", label):
        return label
    millions = ready.parameters / 1e6
    return f"{millions / 1000:.3g}b" if millions >= 1000 else f"{millions:.0f}m"
