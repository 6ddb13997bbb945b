"""The Noise handshakes XX and IK over 25519, ChaChaPoly and SHA-256 (noiseprotocol.org, revision 34).

It knows no session, no certificate and no randomness: every private key, ephemeral ones too, is an argument.
"""

import hashlib
import hmac
from typing import Literal

from nacl import bindings
from nacl.exceptions import CryptoError

from meshwire.aead import KEY_BYTES, Aead
from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.limits import AEAD_TAG, TRANSPORT_MESSAGE_MAX

NONCE_MAX = 2**64 - 1  # reserved by the specification

Pattern = Literal["XX", "IK"]

MESSAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "XX": (("e",), ("e", "ee", "s", "es"), ("s", "se")),
    "IK": (("e", "es", "s", "ss"), ("e", "ee", "se")),
}


def public_of(private: bytes) -> bytes:
    """The X25519 public key of a private one."""
    return bindings.crypto_scalarmult_base(private)


def shared_secret(private: bytes, public: bytes) -> bytes:
    """X25519; a point of low order, which makes the secret all zero, is the other side's error."""
    try:
        return bindings.crypto_scalarmult(private, public)
    except CryptoError as error:
        raise RemoteWireError("a key exchange with a point of low order", CloseCode.DECRYPT) from error


class CipherState:
    """One direction of an encrypted channel: a key and a counter."""

    __slots__ = ("_aead", "_counter")

    def __init__(self, key: bytes) -> None:
        self._aead = Aead(key)
        self._counter = 0

    def encrypt(self, plaintext: bytes, ad: bytes = b"") -> bytes:
        """The sealed plaintext, 16 bytes longer."""
        if self._counter >= NONCE_MAX:
            raise LocalWireError("the nonces of this session are used up")
        sealed = self._aead.encrypt(self._counter, plaintext, ad)
        self._counter += 1
        return sealed

    def decrypt(self, ciphertext: bytes, ad: bytes = b"") -> bytes:
        """The plaintext; raises RemoteWireError(DECRYPT) for what was changed, dropped or reordered."""
        if self._counter >= NONCE_MAX:
            raise LocalWireError("the nonces of this session are used up")
        plaintext = self._aead.decrypt(self._counter, ciphertext, ad)
        if plaintext is None:
            raise RemoteWireError("a sealed message does not open", CloseCode.DECRYPT)
        self._counter += 1
        return plaintext


class _Symmetric:
    """Noise's SymmetricState: the running hash, the chaining key, and the cipher once there is a key."""

    __slots__ = ("_chaining", "_cipher", "hash")

    def __init__(self, protocol_name: bytes) -> None:
        self.hash = protocol_name.ljust(hashlib.sha256().digest_size, b"\0")
        self._chaining = self.hash
        self._cipher: CipherState | None = None

    def mix_hash(self, material: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + material).digest()

    def mix_key(self, material: bytes) -> None:
        self._chaining, key = _hkdf(self._chaining, material)
        self._cipher = CipherState(key)

    def seal(self, plaintext: bytes) -> bytes:
        sealed = plaintext if self._cipher is None else self._cipher.encrypt(plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def unseal(self, sealed: bytes) -> bytes:
        plaintext = sealed if self._cipher is None else self._cipher.decrypt(sealed, self.hash)
        self.mix_hash(sealed)
        return plaintext

    def overhead(self) -> int:
        return 0 if self._cipher is None else AEAD_TAG

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = _hkdf(self._chaining, b"")
        return CipherState(first), CipherState(second)


def _hkdf(chaining: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs (RFC 5869, with the chaining key as salt)."""
    secret = hmac.digest(chaining, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


class Handshake:
    """One side of one handshake. After any error it is over: a new one needs a new object.

    `write` and `read` take turns; once `finished`, `hash` names the session, `split` gives its ciphers.
    """

    def __init__(
        self,
        pattern: Pattern,
        initiator: bool,
        prologue: bytes,
        static_private: bytes,
        ephemeral_private: bytes,
        remote_static: bytes | None = None,
    ) -> None:
        if (pattern == "IK" and initiator) != (remote_static is not None):
            raise LocalWireError("the remote static key is for an IK initiator, and it needs one")
        if {len(static_private), len(ephemeral_private), len(remote_static or static_private)} != {KEY_BYTES}:
            raise LocalWireError(f"keys have {KEY_BYTES} bytes")
        self.remote_static = remote_static
        self._initiator = initiator
        self._messages = MESSAGES[pattern]
        self._next = 0
        self._failed = False
        self._static = static_private
        self._ephemeral = ephemeral_private
        self._remote_ephemeral: bytes | None = None
        self._symmetric = _Symmetric(f"Noise_{pattern}_25519_ChaChaPoly_SHA256".encode())
        self._symmetric.mix_hash(prologue)
        if pattern == "IK":
            self._symmetric.mix_hash(remote_static or public_of(static_private))

    @property
    def finished(self) -> bool:
        """Whether every message has passed."""
        return self._next == len(self._messages) and not self._failed

    @property
    def hash(self) -> bytes:
        """The handshake hash, 32 bytes; both sides hold the same one only if they saw the same handshake."""
        return self._symmetric.hash

    def write(self, payload: bytes = b"") -> bytes:
        """The next message, carrying `payload`; raises LocalWireError out of turn or if it is too long."""
        steps = self._turn(writing=True)
        message = b"".join(self._write_step(step) for step in steps) + self._symmetric.seal(payload)
        if len(message) > TRANSPORT_MESSAGE_MAX:
            raise LocalWireError("a handshake payload is too long")
        self._advance()
        return message

    def read(self, message: bytes) -> bytes:
        """The payload of the message received; raises RemoteWireError for one that is not genuine."""
        steps = self._turn(writing=False)
        if len(message) > TRANSPORT_MESSAGE_MAX:
            raise RemoteWireError("a handshake message is too long", CloseCode.TOO_LARGE)
        rest = message
        for step in steps:
            rest = self._read_step(step, rest)
        payload = self._symmetric.unseal(rest)
        self._advance()
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers for sending and for receiving."""
        if not self.finished:
            raise LocalWireError("the handshake is not finished")
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def _turn(self, *, writing: bool) -> tuple[str, ...]:
        """The steps of the message whose turn it is. Until it is through, the handshake counts as failed."""
        if self._failed or self._next >= len(self._messages):
            raise LocalWireError("the handshake is over")
        if writing != (self._initiator == (self._next % 2 == 0)):
            raise LocalWireError("it is the other side's turn in the handshake")
        self._failed = True
        return self._messages[self._next]

    def _advance(self) -> None:
        self._failed = False
        self._next += 1

    def _write_step(self, step: str) -> bytes:
        if step == "e":
            public = public_of(self._ephemeral)
            self._symmetric.mix_hash(public)
            return public
        if step == "s":
            return self._symmetric.seal(public_of(self._static))
        self._symmetric.mix_key(self._exchange(step))
        return b""

    def _read_step(self, step: str, message: bytes) -> bytes:
        """Take what the step stands for off the message; what is left of it."""
        if step == "e":
            self._remote_ephemeral, rest = _take(message, KEY_BYTES)
            self._symmetric.mix_hash(self._remote_ephemeral)
            return rest
        if step == "s":
            sealed, rest = _take(message, KEY_BYTES + self._symmetric.overhead())
            self.remote_static = self._symmetric.unseal(sealed)
            return rest
        self._symmetric.mix_key(self._exchange(step))
        return message

    def _exchange(self, step: str) -> bytes:
        """The Diffie-Hellman that `step` names: the initiator's key first, the responder's second."""
        own, other = (step[0], step[1]) if self._initiator else (step[1], step[0])
        private = self._ephemeral if own == "e" else self._static
        public = self._remote_ephemeral if other == "e" else self.remote_static
        if public is None:
            raise LocalWireError("the pattern uses a key before it was sent")
        return shared_secret(private, public)


def _take(message: bytes, count: int) -> tuple[bytes, bytes]:
    if len(message) < count:
        raise RemoteWireError("a handshake message is cut short", CloseCode.DECRYPT)
    return message[:count], message[count:]
