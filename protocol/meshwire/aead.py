"""ChaCha20-Poly1305 (RFC 8439), as a link needs it: one key, many short messages.

It calls libsodium through PyNaCl's compiled module. PyNaCl's own wrapper checks every argument at every call and
formats the errors that it might raise, which takes twice as long as the cipher itself on a short message (3.4 µs
against 1.1). Here the key is checked once, and the nonce cannot be wrong.
"""

from struct import Struct

from nacl._sodium import ffi, lib

from meshwire.errors import LocalWireError
from meshwire.limits import AEAD_TAG

KEY_BYTES = 32

_nonce = Struct("<4xQ").pack
_bytes = ffi.typeof("unsigned char[]")
_encrypt = lib.crypto_aead_chacha20poly1305_ietf_encrypt
_decrypt = lib.crypto_aead_chacha20poly1305_ietf_decrypt


class Aead:
    """The cipher under one key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if type(key) is not bytes or len(key) != KEY_BYTES:
            raise LocalWireError(f"a key has {KEY_BYTES} bytes")
        self._key = key

    def encrypt(self, counter: int, plaintext: bytes, ad: bytes) -> bytes:
        """The ciphertext, AEAD_TAG bytes longer. A counter must not be used twice under one key."""
        sealed = ffi.new(_bytes, len(plaintext) + AEAD_TAG)
        _encrypt(
            sealed, ffi.NULL, plaintext, len(plaintext), ad, len(ad), ffi.NULL, _nonce(counter), self._key
        )
        return bytes(ffi.buffer(sealed))

    def decrypt(self, counter: int, ciphertext: bytes, ad: bytes) -> bytes | None:
        """The plaintext, or None if anything was changed."""
        size = len(ciphertext) - AEAD_TAG
        if size < 0:
            return None
        opened = ffi.new(_bytes, size)
        failed = _decrypt(
            opened, ffi.NULL, ffi.NULL, ciphertext, len(ciphertext), ad, len(ad), _nonce(counter), self._key
        )
        return None if failed else bytes(ffi.buffer(opened))
