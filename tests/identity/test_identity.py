"""A node's keys: made once, kept private, and refused when they are not."""

import json
import random
from pathlib import Path

import pytest

from meshnode.errors import HomeUnusable
from meshnode.identity import IDENTITY_FILE, Identity, create, load_or_create, load_or_create_root
from meshwire.ids import from_text, node_id
from meshwire.noise import public_of


def entropy(count: int) -> bytes:
    return ENTROPY.randbytes(count)


ENTROPY = random.Random(1)


def test_the_two_keys_are_independent() -> None:
    identity = create(entropy)
    assert identity.signer.seed != identity.static_private
    assert identity.static_public == public_of(identity.static_private)
    assert identity.node == node_id(identity.key) == from_text(identity.name)


def test_made_once_and_private(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b"
    first = load_or_create(home, entropy)
    again = load_or_create(home, lambda count: pytest.fail("made new keys"))
    assert (again.key, again.static_private) == (first.key, first.static_private)
    assert (home / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in home.iterdir()] == [IDENTITY_FILE]


def test_the_root_key_has_a_file_of_its_own(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path, entropy)
    root = load_or_create_root(tmp_path, entropy)
    assert root.public != identity.key
    assert load_or_create_root(tmp_path, entropy).public == root.public


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path, entropy)
    (tmp_path / IDENTITY_FILE).chmod(0o640)
    with pytest.raises(HomeUnusable, match="chmod 600"):
        load_or_create(tmp_path, entropy)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "null", "[1]", '{"seed": 1, "static": 2}', '{"seed": "zz", "static": "00"}', "\x00\xff"],
)
def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / IDENTITY_FILE
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(HomeUnusable, match="damaged"):
        load_or_create(tmp_path, entropy)
    assert path.read_text() == text


def test_keys_of_another_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / IDENTITY_FILE
    path.write_text(json.dumps({"seed": "00" * 31, "static": "00" * 32}))
    path.chmod(0o600)
    with pytest.raises(HomeUnusable):
        load_or_create(tmp_path, entropy)


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeUnusable, match="cannot be used"):
        load_or_create(tmp_path / "home", entropy)


def test_the_one_who_was_quicker_wins(tmp_path: Path) -> None:
    """Another process makes the file between our look and our write."""
    made: list[Identity] = []

    def slow(count: int) -> bytes:
        if not made:
            made.append(create(entropy))
            made.append(load_or_create(tmp_path, entropy))
        return entropy(count)

    assert load_or_create(tmp_path, slow).key == made[1].key
    assert len(list(tmp_path.iterdir())) == 1
