"""Domain-separated Ed25519 signatures over exact bytes. It knows no messages, nor where seeds come from."""

from struct import pack

from nacl import bindings
from nacl.exceptions import CryptoError

from meshwire.errors import CloseCode, LocalWireError, RemoteWireError

SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64

DOMAIN_RECORD = b"meshnode/record/1"
DOMAIN_STATIC = b"meshnode/static/1"
DOMAIN_ACCUSE = b"meshnode/accuse/1"


def signed_bytes(domain: bytes, kind: int | bytes, body: bytes) -> bytes:
    """What is signed: domain, kind and body, each after its length (u32, big-endian).

    The lengths keep one part from posing as another. An integer `kind` is one byte.
    """
    tag = bytes([kind]) if isinstance(kind, int) else kind
    return b"".join((pack(">I", len(domain)), domain, pack(">I", len(tag)), tag, pack(">I", len(body)), body))


class Signer:
    """An Ed25519 key pair made from a 32-byte seed (RFC 8032, deterministic)."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise LocalWireError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        self.public: bytes
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes that the pair was made from."""
        return self._secret[:SEED_BYTES]

    def sign(self, domain: bytes, kind: int | bytes, body: bytes) -> bytes:
        """The 64-byte signature over `signed_bytes(domain, kind, body)`."""
        return bindings.crypto_sign(signed_bytes(domain, kind, body), self._secret)[:SIGNATURE_BYTES]


def verify(public: bytes, domain: bytes, kind: int | bytes, body: bytes, signature: bytes) -> None:
    """Return if the signature is good; raise RemoteWireError(BAD_SIGNATURE) if not, whatever the reason."""
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        raise RemoteWireError("a key or signature of the wrong length", CloseCode.BAD_SIGNATURE)
    try:
        bindings.crypto_sign_open(signature + signed_bytes(domain, kind, body), public)
    except CryptoError as error:
        raise RemoteWireError("a signature does not match", CloseCode.BAD_SIGNATURE) from error
