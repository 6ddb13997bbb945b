"""Making, listing and revoking API keys, over a real store."""

import os
from dataclasses import dataclass

import pytest

from meshnode.control.keys import CreateKey, Keyring, RevokeKey
from meshnode.errors import BadRequest, KeyRefused, NotAllowed
from meshnode.seams import Seams, inline
from meshnode.state import keys as rows
from meshnode.state.store import STORE_FILE, open_store
from meshnode.terms import Privacy
from meshnode.terms.profile import NamedProfile, Profile, Scope

DAY_S = 86_400
PUBLIC = NamedProfile(name="public", privacy=(Privacy.PUBLIC,), max_tokens=100)


@dataclass
class Clock:
    now: float = 1_700_000_000.0

    def __call__(self):
        return self.now


class World:
    """A home and its clock."""

    def __init__(self, home):
        self.home = home
        self.clock = Clock()
        self.seams = Seams(wall=self.clock, blocking=inline, entropy=os.urandom)
        self.store = None

    async def ring(self, *profiles):
        """The keys as after a start."""
        if self.store is not None:
            await self.store.aclose()
        self.store = await open_store(self.home, inline)
        ring = Keyring(self.store, self.seams, profiles)
        await ring.load()
        return ring


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    yield world
    if world.store is not None:
        await world.store.aclose()


async def test_a_key_is_good_over_a_restart_and_is_nowhere_on_the_disk(world):
    ring = await world.ring()
    made = await ring.create(CreateKey(name="desk", limits=Profile(max_tokens=7)))
    ring = await world.ring()
    grant = ring.grant(made.key)
    assert (grant.key, grant.name, grant.profiles) == (made.about.id, "desk", (Profile(max_tokens=7),))
    assert set(grant.scopes) == {Scope.CHAT, Scope.EMBEDDINGS, Scope.MODELS}
    secret = made.key.rpartition("-")[2]
    for file in world.home.glob(f"{STORE_FILE}*"):
        assert secret.encode() not in file.read_bytes()
    assert secret not in repr(ring.views())


async def test_a_revoked_key_is_refused_at_once_and_after_a_restart(world):
    ring = await world.ring()
    made = await ring.create(CreateKey(name="desk"))
    assert ring.any_good
    assert (await ring.revoke(RevokeKey("desk"))).state == "revoked"
    for held in (ring, await world.ring()):
        assert not held.any_good
        with pytest.raises(KeyRefused, match="revoked"):
            held.grant(made.key)


async def test_a_key_expires(world):
    ring = await world.ring()
    made = await ring.create(CreateKey(name="desk", expires_s=DAY_S))
    world.clock.now += DAY_S - 1
    ring.grant(made.key)
    world.clock.now += 1
    with pytest.raises(KeyRefused, match="expired"):
        ring.grant(made.key)
    assert [view.state for view in ring.views()] == ["expired"]
    await ring.create(CreateKey(name="desk"))  # the name is free again


async def test_a_name_stands_for_one_good_key(world):
    ring = await world.ring()
    await ring.create(CreateKey(name="desk"))
    with pytest.raises(BadRequest, match="already"):
        await ring.create(CreateKey(name="desk"))
    with pytest.raises(BadRequest, match="no such key"):
        await ring.revoke(RevokeKey("attic"))


async def test_a_profile_is_the_settings_and_without_it_the_key_opens_nothing(world):
    ring = await world.ring(PUBLIC)
    made = await ring.create(CreateKey(name="desk", profile="public", limits=Profile(per_minute=3)))
    assert ring.grant(made.key).profiles == (PUBLIC, Profile(per_minute=3))
    with pytest.raises(BadRequest, match="no profile"):
        await ring.create(CreateKey(name="attic", profile="privy"))
    tighter = NamedProfile(name="public", privacy=(Privacy.PUBLIC,), max_tokens=10)
    assert (await world.ring(tighter)).grant(made.key).profiles[0].max_tokens == 10
    with pytest.raises(NotAllowed, match="no longer"):
        (await world.ring()).grant(made.key)


async def test_keys_are_bounded_and_those_long_over_make_room(world, monkeypatch):
    monkeypatch.setattr(rows, "KEYS_MAX", 2)
    ring = await world.ring()
    await ring.create(CreateKey(name="a", expires_s=DAY_S))
    await ring.create(CreateKey(name="b"))
    with pytest.raises(BadRequest, match="the most"):
        await ring.create(CreateKey(name="c"))
    world.clock.now += DAY_S + rows.KEPT_MS / 1000 + 1
    await ring.create(CreateKey(name="c"))
    assert [view.name for view in (await world.ring()).views()] == ["b", "c"]
