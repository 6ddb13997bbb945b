"""The root key under a passphrase: it comes out whole, or not at all."""

import json
import random

import pytest

from meshnode.errors import BadRequest, NotAllowed
from meshnode.trust.recovery import FILE_BYTES_MAX, PASSPHRASE_BYTES_MAX, open_root, read_sealed, seal_root
from meshwire.signing import Signer

ROOT = Signer(b"\x05" * 32)
WORDS = "correct horse battery staple"
LITTLE = 1 << 20  # so that a test takes no second


def sealed(entropy_seed: int = 1) -> bytes:
    return seal_root(ROOT, WORDS, random.Random(entropy_seed).randbytes, memory_bytes=LITTLE)


def test_it_comes_out_again_and_names_its_public_key_alone() -> None:
    content = sealed()
    assert open_root(read_sealed(content), WORDS).seed == ROOT.seed
    assert read_sealed(content).root == ROOT.public.hex()
    assert ROOT.seed.hex().encode() not in content
    assert content != sealed(2)


@pytest.mark.parametrize("words", ["", "correct horse battery", WORDS.upper(), WORDS + " "])
def test_another_passphrase_opens_nothing(words: str) -> None:
    with pytest.raises(NotAllowed, match="could not be opened"):
        open_root(read_sealed(sealed()), words)


@pytest.mark.parametrize("field", ["salt", "box", "root", "ops", "memory_bytes"])
def test_a_changed_file_opens_nothing(field: str) -> None:
    content = json.loads(sealed())
    value = content[field]
    changes = {
        "ops": 3,
        "memory_bytes": 2 * LITTLE,
        "root": "00" * 32,
    }
    content[field] = changes.get(
        field, "A" + str(value)[1:] if str(value)[0] != "A" else "B" + str(value)[1:]
    )
    with pytest.raises(NotAllowed):
        open_root(read_sealed(json.dumps(content).encode()), WORDS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"{" + b" " * FILE_BYTES_MAX + b"}",
        json.dumps({**json.loads(sealed()), "memory_bytes": 1 << 40}).encode(),
        json.dumps({**json.loads(sealed()), "ops": 1 << 30}).encode(),
        json.dumps({**json.loads(sealed()), "format": "meshnode-root/2"}).encode(),
        json.dumps({**json.loads(sealed()), "more": 1}).encode(),
    ],
)
def test_what_is_no_sealed_key_or_would_take_the_machine_is_refused(content: bytes) -> None:
    with pytest.raises(BadRequest):
        read_sealed(content)


@pytest.mark.parametrize("salt", ["", "AAAA", "!"])
def test_a_salt_that_is_none_opens_nothing(salt: str) -> None:
    content = {**json.loads(sealed()), "salt": salt}
    with pytest.raises(NotAllowed):
        open_root(read_sealed(json.dumps(content).encode()), WORDS)


@pytest.mark.parametrize("words", ["too short", "x" * (PASSPHRASE_BYTES_MAX + 1)])
def test_a_passphrase_is_neither_short_nor_endless(words: str) -> None:
    with pytest.raises(BadRequest):
        seal_root(ROOT, words, random.Random(1).randbytes, memory_bytes=LITTLE)
