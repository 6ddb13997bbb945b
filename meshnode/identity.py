"""Who this node is: an Ed25519 key that signs and an X25519 key for Noise, kept in private files.

It knows no mesh and no certificate. The two keys are independent, so that neither can weaken the other.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshnode.errors import HomeUnusable
from meshwire.ids import NodeId, node_id, to_text
from meshwire.noise import public_of
from meshwire.signing import SEED_BYTES, Signer

IDENTITY_FILE = "identity.key"
ROOT_FILE = "root.key"
ROOT_ASIDE, KEY_SUFFIX = "root-", ".key"
FILE_BYTES_MAX = 4096

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's keys. `static_private` and `static_public` are X25519, 32 bytes each."""

    signer: Signer
    static_private: bytes
    static_public: bytes

    @property
    def key(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""
        return self.signer.public

    @property
    def node(self) -> NodeId:
        """The NodeId made from the key."""
        return node_id(self.signer.public)

    @property
    def name(self) -> str:
        """The NodeId as text."""
        return to_text(self.node)

    def secret_for(self, purpose: bytes) -> bytes:
        """32 secret bytes that are this node's alone; others for each purpose, of at most 16 bytes."""
        return hashlib.blake2b(key=self.static_private, person=purpose, digest_size=32).digest()


def create(entropy: Entropy) -> Identity:
    """A new identity from 64 secret bytes."""
    return _identity(entropy(SEED_BYTES), entropy(SEED_BYTES))


def load_or_create(home: Path, entropy: Entropy) -> Identity:
    """The identity of this home, made on first use; raises HomeUnusable."""
    secrets = _load_or_create(home / IDENTITY_FILE, ("seed", "static"), entropy)
    return _identity(secrets["seed"], secrets["static"])


def load_or_create_root(home: Path, entropy: Entropy) -> Signer:
    """The root key of the mesh founded from this home, made on first use; raises HomeUnusable.

    It has a file of its own, so that it can be taken away from the machine and kept elsewhere.
    """
    return Signer(_load_or_create(home / ROOT_FILE, ("seed",), entropy)["seed"])


def load_root(home: Path) -> Signer | None:
    """The root key in this home, None if there is none; raises HomeUnusable when it cannot be read."""
    path = home / ROOT_FILE
    with _translated(path):
        if not path.exists():
            return None
        text = _read_private(path)
    return Signer(_parse(path, text, ("seed",))["seed"])


def save_root(home: Path, root: Signer) -> None:
    """Keep a root key in this home; another one that is there is moved aside. Raises HomeUnusable.

    A device that joined a mesh has the root key of the mesh that it was alone in before.
    """
    other = load_root(home)
    if other is not None and other.seed != root.seed:
        with _translated(home / ROOT_FILE):
            (home / ROOT_FILE).rename(home / f"{ROOT_ASIDE}{other.public.hex()[:16]}{KEY_SUFFIX}")
    _load_or_create(home / ROOT_FILE, ("seed",), lambda _count: root.seed)


def secret_files(home: Path) -> tuple[Path, ...]:
    """The files of this home that nobody but its node may read."""
    return (home / IDENTITY_FILE, home / ROOT_FILE, *sorted(home.glob(f"{ROOT_ASIDE}*{KEY_SUFFIX}")))


def _identity(seed: bytes, static_private: bytes) -> Identity:
    return Identity(Signer(seed), static_private, public_of(static_private))


def _load_or_create(path: Path, names: tuple[str, ...], entropy: Entropy) -> dict[str, bytes]:
    """The 32-byte secrets of these names in the file."""
    with _translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_new(path, {name: entropy(SEED_BYTES).hex() for name in names})
        text = _read_private(path)
    return _parse(path, text, names)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HomeUnusable(
            f"{path} cannot be used: {error.strerror or error}.",
            hint="Check who owns the directory and whether the disk is full, or choose another --home.",
        ) from error


def _write_new(path: Path, content: dict[str, str]) -> None:
    """Write the file whole or not at all; if another process was quicker, its file stays."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        _link_unless_there(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _link_unless_there(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return


def _read_private(path: Path) -> str:
    """The text of a file that nobody else can read."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise HomeUnusable(
                f"{path} holds secret keys, and other users of this machine can read it.",
                hint=f"If nobody did, run: chmod 600 {path}. If somebody may have, delete it and join again.",
            )
        return file.read(FILE_BYTES_MAX).decode("utf-8", errors="replace")


def _parse(path: Path, text: str, names: tuple[str, ...]) -> dict[str, bytes]:
    try:
        content = json.loads(text)
        secrets = {name: bytes.fromhex(content[name]) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if any(len(secret) != SEED_BYTES for secret in secrets.values()):
        raise _damaged(path)
    return secrets


def _damaged(path: Path) -> HomeUnusable:
    return HomeUnusable(
        f"{path} is damaged.",
        hint="Restore it from a backup; or delete it, and this device joins again as a new one.",
    )
