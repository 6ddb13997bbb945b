"""An API with keys, over real sockets."""

import os
from contextlib import asynccontextmanager
from functools import partial

import openai
import trio

from meshnode.api import server
from meshnode.api.app import Rules, build
from meshnode.api.traffic import Traffic
from meshnode.control.keys import CreateKey, Keyring
from meshnode.seams import Seams, inline
from meshnode.state.store import open_store
from meshnode.terms.profile import Profile


class Keyed:
    """A served API: its address, its keys, and its traffic."""

    def __init__(self, url, ring, traffic, shutdown):
        self.url = url
        self.ring = ring
        self.traffic = traffic
        self.shutdown = shutdown

    async def key(self, name="desk", profile="", scopes=None, **limits):
        given = {"scopes": scopes} if scopes else {}
        made = await self.ring.create(
            CreateKey(name=name, profile=profile, limits=Profile(**limits), **given)
        )
        return made.key

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])


@asynccontextmanager
async def keyed(home, doors, *, profiles=(), most=256, wall=None, within_s=20, **rules):
    """Serve `doors` with a keyring of its own; `rules` are those of the application."""
    seams = Seams(blocking=inline, entropy=os.urandom, **({"wall": wall} if wall else {}))
    store = await open_store(home, inline)
    ring, traffic, shutdown = Keyring(store, seams, profiles), Traffic(most), trio.Event()
    await ring.load()
    async with trio.open_nursery() as nursery:
        application = build(doors, Rules(keys=ring, **rules), traffic)
        serve = partial(
            server.serve, application, host="127.0.0.1", port=0, shutdown=shutdown, traffic=traffic
        )
        url = await nursery.start(serve)
        with trio.fail_after(within_s):
            yield Keyed(url, ring, traffic, shutdown)
        shutdown.set()
    await store.aclose()


@asynccontextmanager
async def openai_client(url, key, **options):
    options.setdefault("max_retries", 0)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, **options) as client:
        yield client
