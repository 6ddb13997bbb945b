"""The root key as something to put away: sealed under a passphrase, readable on another device. Pure.

The passphrase becomes a key by Argon2id (RFC 9106), the seed is sealed with XSalsa20-Poly1305, both as libsodium has
them. What is not sealed is the root's public key, so that people can tell which mesh the file is for.
"""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Annotated

import msgspec
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox

from meshnode.errors import BadRequest, NotAllowed
from meshwire.signing import Signer

FORMAT = "meshnode-root/1"
PASSPHRASE_CHARACTERS_MIN = 12
PASSPHRASE_BYTES_MAX = 1024
FILE_BYTES_MAX = 4096
OPS = 4
MEMORY_BYTES = 256 * 1024 * 1024
OPS_MAX, MEMORY_BYTES_MAX = 16, 1 << 30  # a file from a stranger must not take the machine

Base64 = Annotated[str, msgspec.Meta(max_length=512)]


class Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file's content. `root` is the public key in hex; `ops` and `memory_bytes` are Argon2id's costs."""

    format: Annotated[str, msgspec.Meta(pattern=f"^{FORMAT}$")] = FORMAT
    root: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    salt: Base64
    ops: Annotated[int, msgspec.Meta(ge=1, le=OPS_MAX)] = OPS
    memory_bytes: Annotated[int, msgspec.Meta(ge=argon2id.MEMLIMIT_MIN, le=MEMORY_BYTES_MAX)] = MEMORY_BYTES
    box: Base64


def check_passphrase(passphrase: str) -> bytes:
    """The passphrase as bytes; raises BadRequest if it is no good for sealing."""
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        raise BadRequest(
            f"A passphrase for the root key has at least {PASSPHRASE_CHARACTERS_MIN} characters.",
            hint="Four or five words that nobody would put together are easy to keep and hard to guess.",
            param="passphrase",
        )
    return _bounded(passphrase)


def seal_root(
    root: Signer, passphrase: str, entropy: Callable[[int], bytes], *, memory_bytes: int = MEMORY_BYTES
) -> bytes:
    """The file's content; takes a second and `memory_bytes`. Raises BadRequest for a passphrase that is no good."""
    secret, salt = check_passphrase(passphrase), entropy(argon2id.SALTBYTES)
    key = argon2id.kdf(SecretBox.KEY_SIZE, secret, salt, opslimit=OPS, memlimit=memory_bytes)
    box = SecretBox(key).encrypt(root.seed, entropy(SecretBox.NONCE_SIZE))
    sealed = Sealed(
        root=root.public.hex(),
        salt=b64encode(salt).decode(),
        memory_bytes=memory_bytes,
        box=b64encode(box).decode(),
    )
    return msgspec.json.format(msgspec.json.encode(sealed)) + b"\n"


def read_sealed(content: bytes) -> Sealed:
    """What a file says before it is opened; raises BadRequest if it is no sealed root key."""
    if len(content) > FILE_BYTES_MAX:
        raise BadRequest(f"A sealed root key has at most {FILE_BYTES_MAX} bytes.", param="file")
    try:
        return msgspec.json.decode(content, type=Sealed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"This is not a sealed root key: {error}.", param="file") from error


def open_root(sealed: Sealed, passphrase: str) -> Signer:
    """The root key; takes a second. Raises NotAllowed for a wrong passphrase or a file that was changed."""
    try:
        salt, box = b64decode(sealed.salt, validate=True), b64decode(sealed.box, validate=True)
        key = argon2id.kdf(
            SecretBox.KEY_SIZE,
            _bounded(passphrase),
            salt,
            opslimit=sealed.ops,
            memlimit=sealed.memory_bytes,
        )
        root = Signer(SecretBox(key).decrypt(box))
    except (CryptoError, binascii.Error, ValueError, TypeError) as error:
        raise _not_opened() from error
    if root.public.hex() != sealed.root:
        raise _not_opened()
    return root


def _bounded(passphrase: str) -> bytes:
    secret = passphrase.encode()
    if len(secret) > PASSPHRASE_BYTES_MAX:
        raise BadRequest(f"A passphrase has at most {PASSPHRASE_BYTES_MAX} bytes.", param="passphrase")
    return secret


def _not_opened() -> NotAllowed:
    return NotAllowed(
        "The root key could not be opened: the passphrase is wrong, or the file was changed.",
        hint="Type it as it was when the key was exported; capitals and spaces count.",
    )
