"""The root key on its way between homes: only the right one, into the right home, and nothing is overwritten."""

import random
from pathlib import Path

import pytest

from meshnode.control import root as root_module
from meshnode.control.root import export_root, restore_root
from meshnode.errors import BadRequest, NotAllowed, WrongMesh
from meshnode.identity import ROOT_FILE, load_or_create_root, load_root, secret_files
from meshnode.seams import Seams
from meshnode.trust import recovery
from meshnode.trust.membership import Mesh
from meshwire.ids import mesh_id
from meshwire.signing import Signer

WORDS = "correct horse battery"
RNG = random.Random(6)
SEAMS = Seams(entropy=RNG.randbytes)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def seal(root: Signer, words: str, entropy: object) -> bytes:
        return recovery.seal_root(root, words, entropy, memory_bytes=1 << 20)  # type: ignore[arg-type]

    monkeypatch.setattr(root_module, "seal_root", seal)


def mesh_of(root: Signer) -> Mesh:
    return Mesh(mesh_id(root.public), root.public)


def exported(home: Path, out: Path) -> Signer:
    root = load_or_create_root(home, RNG.randbytes)
    export_root(home, out, WORDS, mesh_of(root), SEAMS)
    return root


def test_it_comes_to_another_home(tmp_path: Path) -> None:
    out = tmp_path / "root.json"
    root = exported(tmp_path / "a", out)
    assert out.stat().st_mode & 0o777 == 0o600
    told = restore_root(tmp_path / "b", out, WORDS, None)
    assert told.root == root.public.hex()
    restored = load_root(tmp_path / "b")
    assert restored is not None
    assert restored.seed == root.seed
    assert (tmp_path / "b" / ROOT_FILE).stat().st_mode & 0o777 == 0o600
    restore_root(tmp_path / "b", out, WORDS, mesh_of(root))  # once more does no harm


def test_the_key_of_the_mesh_that_a_device_was_alone_in_before_is_moved_aside(tmp_path: Path) -> None:
    out = tmp_path / "root.json"
    root = exported(tmp_path / "a", out)
    alone = load_or_create_root(tmp_path / "b", RNG.randbytes)
    restore_root(tmp_path / "b", out, WORDS, mesh_of(root))
    (aside,) = (tmp_path / "b").glob("root-*.key")
    assert alone.seed.hex() in aside.read_text()
    assert aside in secret_files(tmp_path / "b")


def test_that_of_another_mesh_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "root.json"
    exported(tmp_path / "a", out)
    with pytest.raises(WrongMesh):
        restore_root(tmp_path / "b", out, WORDS, mesh_of(Signer(b"\x03" * 32)))
    assert load_root(tmp_path / "b") is None
    with pytest.raises(NotAllowed):
        export_root(tmp_path / "a", tmp_path / "x", WORDS, mesh_of(Signer(b"\x03" * 32)), SEAMS)
    with pytest.raises(NotAllowed):
        export_root(tmp_path / "none", tmp_path / "x", WORDS, None, SEAMS)


def test_nothing_is_written_over_and_what_is_missing_is_named(tmp_path: Path) -> None:
    out = tmp_path / "root.json"
    root = exported(tmp_path / "a", out)
    with pytest.raises(BadRequest, match="already"):
        export_root(tmp_path / "a", out, WORDS, mesh_of(root), SEAMS)
    with pytest.raises(BadRequest, match="cannot be read"):
        restore_root(tmp_path / "b", tmp_path / "none", WORDS, None)
    with pytest.raises(NotAllowed):
        restore_root(tmp_path / "b", out, "another passphrase", None)
