"""Whom a node distrusts: kept as it was, read again or left alone, and in force also where nothing can be kept."""

import random
from typing import Any, cast

import msgspec
import pytest

from meshnode.config import Config
from meshnode.engine.scripted import scripted_card
from meshnode.errors import HomeUnusable
from meshnode.node.spotting import Spotting, _read
from meshnode.routing.spotchecks import DISTRUSTED_MS, Finding
from meshnode.seams import Seams
from meshnode.serve.local import Bench
from meshnode.serve.scopes import Scopes
from tests.routing.offers import offer

CANDIDATE = offer(1, model=scripted_card())


def finding(until_ms: int) -> Finding:
    digest = CANDIDATE.card.digest
    return Finding(node=CANDIDATE.node, digest=digest, answers=4, places=128, missed=60, until_ms=until_ms)


class FullDisk:
    """Keeps nothing."""

    async def put_setting(self, key: str, value: bytes) -> None:
        raise HomeUnusable("It is full.")

    async def note(self, decision: Any) -> None:
        raise HomeUnusable("It is full.")


def spotting(tmp_path: Any) -> Spotting:
    disk = cast(Any, FullDisk())
    seams = Seams(rng=random.Random(1), wall=lambda: 1000.0)
    return Spotting(Config(home=tmp_path), seams, disk, Bench((), Scopes(b"test")), disk)


async def test_a_finding_holds_also_where_it_cannot_be_kept(tmp_path: Any) -> None:
    here = spotting(tmp_path)
    assert not here.marked(CANDIDATE).distrusted
    await here._on_foreign(CANDIDATE, finding(1_000_000 + DISTRUSTED_MS))
    assert here.marked(CANDIDATE).distrusted
    assert here.distrusted(CANDIDATE.node) == (CANDIDATE.card.digest,)
    assert not here.marked(offer(2, model=scripted_card())).distrusted


def test_what_was_kept_is_read_again() -> None:
    kept = (finding(5), finding(6))
    assert _read(msgspec.msgpack.encode(kept)) == kept
    assert _read(None) == ()


@pytest.mark.parametrize("damaged", [b"\xc1", b"\x91\x01", msgspec.msgpack.encode([{"node": "x"}])])
def test_what_is_damaged_is_left_alone(damaged: bytes) -> None:
    assert _read(damaged) == ()
