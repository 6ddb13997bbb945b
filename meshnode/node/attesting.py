"""Where an embedding program brings its own way to attest hardware; without one nothing is attested, and nobody's
evidence counts. It knows no hardware itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from meshnode.errors import ConfigInvalid
from meshnode.mesh.ads import EVIDENCE_BYTES_MAX

REMEMBERED_MAX = 1024

Verify = Callable[[bytes, bytes], bool]
log = structlog.get_logger("meshnode.node.attesting")


@dataclass(frozen=True, slots=True)
class Attestation:
    """What this node shows of its hardware, and how it judges what others show.

    `evidence` is at most 256 bytes that this node advertises, such as a token or the digest of a report to be
    fetched. `verify(key, evidence)` says whether the evidence of the node with this public key proves its hardware.
    It is asked on the event loop, once for each pair, so it must not wait: what takes long is looked up beforehand.
    A verifier that raises has proved nothing. An endorsed node whose evidence it accepts is trusted as `hardware`.
    """

    evidence: bytes = b""
    verify: Verify | None = None
    _known: dict[tuple[bytes, bytes], bool] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse evidence that no record could carry; raises ConfigInvalid."""
        if len(self.evidence) > EVIDENCE_BYTES_MAX:
            raise ConfigInvalid(f"Evidence has at most {EVIDENCE_BYTES_MAX} bytes.", param="attestation")

    def holds(self, key: bytes, evidence: bytes) -> bool:
        """Whether the evidence of the node with this key is believed here."""
        if self.verify is None:
            return False
        pair = (key, evidence)
        if pair not in self._known:
            if len(self._known) >= REMEMBERED_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[pair] = self._judged(*pair)
        return self._known[pair]

    def _judged(self, key: bytes, evidence: bytes) -> bool:
        assert self.verify is not None
        try:
            return self.verify(key, evidence) is True
        except Exception:
            log.exception("the verifier failed", peer=key.hex()[:16])
            return False
