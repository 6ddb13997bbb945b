"""From what a worker reports about a model file to the card that a node advertises. Pure."""

import re

from meshnode.engine.worker.frames import Ready
from meshnode.routing.quants import quant_of
from meshnode.terms import Feature, ModelCard

FAMILY_MAX_CHARS = 48


def build_card(ready: Ready, *, name: str, digest: bytes) -> ModelCard:
    """The card of a running model. `name` is what the operator calls it; empty takes it from the file."""
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
        features=(Feature.TOKEN_IDS,),
    )


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
