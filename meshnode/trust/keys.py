"""API keys: a public id and a secret in one line of text, and the rules by which one is good. Pure.

What is kept of a key is a digest of its secret, which is 32 random bytes: nobody can guess their way back from it, so
it needs no slow hash.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

import msgspec

from meshnode.errors import KeyRefused
from meshnode.terms.profile import Profile, Scope

PREFIX = "mn"
ID_BYTES = 5
SECRET_BYTES = 32
_TAG = b"meshnode/api-key/1"
_SHAPE = re.compile(rf"{PREFIX}-([a-z2-7]{{8}})-([a-z2-7]{{52}})")


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a node keeps of a key. `profile` names one of its settings' profiles; `limits` were given with the key.

    `expires_ms` and `revoked_ms` are 0 where that has not been said.
    """

    id: str
    name: str
    digest: bytes
    scopes: tuple[Scope, ...]
    profile: str = ""
    limits: Profile = Profile()
    made_ms: int
    expires_ms: int = 0
    revoked_ms: int = 0

    def is_good(self, now_ms: int) -> bool:
        """Whether it opens anything now."""
        return not self.revoked_ms and not self._is_over(now_ms)

    def _is_over(self, now_ms: int) -> bool:
        return 0 < self.expires_ms <= now_ms


def new_id(entropy: Callable[[int], bytes]) -> str:
    """A fresh public id: eight letters and digits."""
    return _base32(entropy(ID_BYTES))


def key_text(identifier: str, secret: bytes) -> str:
    """The whole key, as its owner gets it."""
    return f"{PREFIX}-{identifier}-{_base32(secret)}"


def digest_of(text: str) -> bytes:
    """What is kept of a key, given as a whole."""
    return hashlib.sha256(_TAG + text.encode()).digest()


def id_in(text: str) -> str:
    """The public id in a key; empty for what is none."""
    found = _SHAPE.fullmatch(text)
    return found[1] if found else ""


def check(row: KeyRow | None, text: str, now_ms: int) -> KeyRow:
    """The row, if `text` is its key and is good now. Raises KeyRefused; who lacks the secret learns no more."""
    kept = bytes(32) if row is None else row.digest
    same = hmac.compare_digest(digest_of(text), kept)  # in constant time
    if row is None or not same:
        raise KeyRefused("This API key is not one of this node's.", hint="`meshnode keys create` makes one.")
    if row.revoked_ms:
        raise KeyRefused(f"The API key {row.id} ({row.name}) was revoked.")
    if not row.is_good(now_ms):
        raise KeyRefused(f"The API key {row.id} ({row.name}) has expired.")
    return row


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode("ascii").rstrip("=").lower()
