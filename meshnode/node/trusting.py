"""What an operator can ask of a running node about trust; each action is in `control`, and is the same for everybody.

Embedding programs call it as `node.trust`, the command line through the control socket.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio

from meshnode.control.audit import Heard
from meshnode.control.authority import Authority
from meshnode.control.endorse import EndorseArguments, Endorsed, endorse
from meshnode.control.renew import RenewArguments, Renewed, renew
from meshnode.control.revoke import RevokeArguments, Revoked, revoke_node
from meshnode.control.roster import Row, roster
from meshnode.control.verbs import Arguments, Emit, NoArguments, Verb, read_arguments
from meshnode.errors import MeshError
from meshnode.mesh.witness import RECORD_NAME
from meshnode.net.link import Link
from meshnode.node.presence import Presence
from meshwire.ids import to_text
from meshwire.messages import RecordGet, RecordGot
from meshwire.records import RecordType

A = TypeVar("A", bound=msgspec.Struct)


class Held(msgspec.Struct, frozen=True):
    """Heads of audit logs: of this node's own, as its neighbours remember them, and of others', as this one does."""

    own: tuple[Heard, ...]
    others: tuple[Heard, ...]


class Claimed(msgspec.Struct, frozen=True):
    """Whether this node has its mesh's root key, and the roles it has now."""

    root: bool
    roles: tuple[str, ...]


class TrustActions:
    """The actions, on whatever mesh the node is on."""

    def __init__(self, present: Callable[[], Awaitable[Presence]]) -> None:
        self._present = present

    async def endorse(self, wanted: EndorseArguments) -> Endorsed:
        """See `meshnode.control.endorse`."""
        return await endorse(await self._authority(), wanted)

    async def revoke(self, wanted: RevokeArguments) -> Revoked:
        """See `meshnode.control.revoke`."""
        return await revoke_node(await self._authority(), wanted)

    async def renew(self, wanted: RenewArguments) -> tuple[Renewed, ...]:
        """See `meshnode.control.renew`."""
        return await renew(await self._authority(), wanted)

    async def members(self) -> tuple[Row, ...]:
        """See `meshnode.control.roster`."""
        return roster(await self._authority())

    async def claim(self) -> Claimed:
        """Become an issuer by the root key in this home, as after it was restored."""
        presence = await self._present()
        return Claimed(await presence.papers.claim(), presence.mesh.roles)

    async def heads(self) -> Held:
        """What is remembered of audit logs, here and at the neighbours."""
        presence = await self._present()
        own, me = presence.book.own, to_text(presence.book.own)
        found: list[Heard] = []

        async def ask(link: Link) -> None:
            try:
                got = await link.request(RecordGet(own, RecordType.VITALS, RECORD_NAME))
            except MeshError:
                return  # who cannot be asked remembers nothing that would help
            if isinstance(got, RecordGot):
                found.extend(Heard(me, link.name, raw.hex()) for raw in got.records)

        async with trio.open_nursery() as nursery:
            for link in presence.switch.best_links():
                nursery.start_soon(ask, link)
        others = [Heard(to_text(one.owner), me, one.raw.hex()) for one in presence.papers.witness.all()]
        return Held(tuple(sorted(found, key=lambda head: head.by)), tuple(others))

    async def _authority(self) -> Authority:
        return await (await self._present()).papers.authority()

    def verbs(self) -> dict[str, Verb]:
        """The same for the control socket."""
        return {
            "trust_endorse": _verb(EndorseArguments, self.endorse),
            "trust_revoke": _verb(RevokeArguments, self.revoke),
            "trust_renew": _verb(RenewArguments, self.renew),
            "trust_list": _verb(NoArguments, lambda _none: self.members()),
            "trust_claim": _verb(NoArguments, lambda _none: self.claim()),
            "audit_heads": _verb(NoArguments, lambda _none: self.heads()),
        }


def _verb(kind: type[A], act: Callable[[A], Awaitable[object]]) -> Verb:
    async def verb(given: Arguments, _emit: Emit) -> object:
        return await act(read_arguments(kind, given))

    return verb
