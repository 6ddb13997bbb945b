"""Certificates that never came: asked of whoever passes on a record whose signer is not known yet."""

from collections.abc import Callable

import trio

from meshnode.errors import MeshError
from meshnode.mesh.book import Merged, Refused
from meshnode.net.link import Link
from meshwire.messages import RecordGet, RecordGot
from meshwire.records import Record

STRANGERS_AT_ONCE = 8


class Strangers:
    """Asks for certificates, a few at once. `learn` takes them, issuers' first."""

    def __init__(self, learn: Callable[[tuple[bytes, ...]], None]) -> None:
        self._learn = learn
        self._fetching: dict[bytes, None] = {}

    def meet(self, merged: Merged, link: Link, nursery: trio.Nursery) -> None:
        """Ask the sender of these records for the certificates of those whom nobody here knows."""
        strangers = {
            refusal.record.owner: refusal.record
            for refusal in merged.refused
            if refusal.reason is Refused.STRANGER and refusal.record is not None
        }
        new = [record for record in strangers.values() if record.owner not in self._fetching]
        for record in new[: STRANGERS_AT_ONCE - len(self._fetching)]:
            self._fetching[record.owner] = None
            nursery.start_soon(self._fetch, link, record)

    async def _fetch(self, link: Link, record: Record) -> None:
        try:
            got = await link.request(RecordGet(record.owner, record.type, record.name))
        except MeshError:
            return  # the next round of gossip brings the record, and this question, again
        finally:
            del self._fetching[record.owner]
        if isinstance(got, RecordGot):
            self._learn(tuple(reversed(got.records)))
