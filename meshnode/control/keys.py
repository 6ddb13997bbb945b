"""API keys: making, listing and revoking them, and telling at once whether one is good.

All are held in memory, so that no request waits for a disk. The key itself is given out once, when it is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, TypeVar

import msgspec
import trio
from msgspec import Meta

from meshnode.control.verbs import Arguments, Emit, NoArguments, Verb, read_arguments
from meshnode.errors import BadRequest, NotAllowed
from meshnode.seams import Seams
from meshnode.state.keys import KEYS_MAX
from meshnode.state.store import Store
from meshnode.terms.profile import SCOPES_DEFAULT, Grant, NamedProfile, Profile, Scope
from meshnode.trust.keys import SECRET_BYTES, KeyRow, check, digest_of, id_in, key_text, new_id

EXPIRES_MAX_S = 10 * 366 * 86_400
GOOD, EXPIRED, REVOKED = "good", "expired", "revoked"

KeyName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
A = TypeVar("A", bound=msgspec.Struct)


class CreateKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`profile` is one of the settings' profiles, empty for none; `limits` hold besides it.

    `expires_s` is how long the key is good for, in seconds; 0 for ever.
    """

    name: KeyName
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=len(Scope))] = SCOPES_DEFAULT
    profile: Annotated[str, Meta(max_length=64)] = ""
    limits: Profile = Profile()
    expires_s: Annotated[int, Meta(ge=0, le=EXPIRES_MAX_S)] = 0


class RevokeKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key` is the id of a key, or the name of one that is good."""

    key: Annotated[str, Meta(min_length=1, max_length=64)]


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be shown: `state` is good, expired or revoked; times are unix milliseconds, 0 for none."""

    id: str
    name: str
    state: str
    scopes: tuple[Scope, ...]
    profile: str
    limits: Profile
    made_ms: int
    expires_ms: int
    revoked_ms: int


class MadeKey(msgspec.Struct, frozen=True):
    """A key just made. `key` is the only copy of it.

    `first` says that no other is good: until now nobody looked at what clients send as a key where none is needed.
    """

    key: str
    about: KeyView
    first: bool = False


class Keyring:
    """The keys of one node. `load` comes before anything else; the store's file is the truth after a restart."""

    def __init__(self, store: Store, seams: Seams, profiles: Iterable[NamedProfile] = ()) -> None:
        self._store = store
        self._seams = seams
        self._profiles = {profile.name: profile for profile in profiles}
        self._rows: dict[str, KeyRow] = {}
        self._one_at_a_time = trio.Lock()

    async def load(self) -> None:
        """Read what is on the disk. Raises HomeUnusable."""
        self._rows = {row.id: row for row in await self._store.keys()}

    @property
    def any_good(self) -> bool:
        """Whether there is a key that opens anything."""
        return any(row.is_good(self._seams.now_ms()) for row in self._rows.values())

    def knows_shape(self, text: str) -> bool:
        """Whether this looks like a key of a node, good or not."""
        return bool(id_in(text))

    def grant(self, text: str) -> Grant:
        """What a key allows now. Raises KeyRefused, and NotAllowed where its profile is no longer in the settings."""
        row = check(self._rows.get(id_in(text)), text, self._seams.now_ms())
        return Grant(row.id, row.name, row.scopes, (*self._profile(row), row.limits))

    async def create(self, wanted: CreateKey) -> MadeKey:
        """Make a key. Raises BadRequest for a name in use or a profile that is not in the settings."""
        async with self._one_at_a_time:
            return await self._create(wanted)

    async def _create(self, wanted: CreateKey) -> MadeKey:
        if any(row.name == wanted.name for row in self._rows.values() if row.is_good(self._seams.now_ms())):
            raise BadRequest(
                f"There is a key called {wanted.name} already.",
                hint="Revoke it first, or choose another name.",
                param="name",
            )
        self._check_profile(wanted.profile)
        now_ms, first = self._seams.now_ms(), not self.any_good
        text = key_text(self._fresh_id(), self._seams.entropy(SECRET_BYTES))
        row = KeyRow(
            id=id_in(text),
            name=wanted.name,
            digest=digest_of(text),
            scopes=wanted.scopes,
            profile=wanted.profile,
            limits=wanted.limits,
            made_ms=now_ms,
            expires_ms=now_ms + wanted.expires_s * 1000 if wanted.expires_s else 0,
        )
        if not await self._store.add_key(row, now_ms):
            raise BadRequest(
                f"This node has {KEYS_MAX} keys, which is the most.", hint="Let old ones expire."
            )
        await self.load()  # without those that were forgotten
        return MadeKey(text, self._view(row), first)

    def views(self) -> tuple[KeyView, ...]:
        """Every key, the oldest first, also those that are over."""
        return tuple(map(self._view, self._rows.values()))

    async def revoke(self, wanted: RevokeKey) -> KeyView:
        """Take a key back for good, at once; answers under way end by themselves. Raises BadRequest."""
        row, now_ms = self._found(wanted.key), self._seams.now_ms()
        await self._store.revoke_key(row.id, now_ms)
        if not row.revoked_ms:
            row = self._rows[row.id] = msgspec.structs.replace(row, revoked_ms=now_ms)
        return self._view(row)

    def verbs(self) -> dict[str, Verb]:
        """The same for the control socket."""

        async def views(_none: NoArguments) -> tuple[KeyView, ...]:
            return self.views()

        return {
            "keys_create": _verb(CreateKey, self.create),
            "keys_list": _verb(NoArguments, views),
            "keys_revoke": _verb(RevokeKey, self.revoke),
        }

    def _profile(self, row: KeyRow) -> tuple[Profile, ...]:
        if not row.profile:
            return ()
        if row.profile not in self._profiles:  # without its ceiling the key would allow more than was meant
            raise NotAllowed(
                f"The profile {row.profile} of this API key is no longer in the node's settings."
            )
        return (self._profiles[row.profile],)

    def _check_profile(self, name: str) -> None:
        if name and name not in self._profiles:
            known = ", ".join(sorted(self._profiles)) or "none"
            raise BadRequest(
                f"The settings have no profile {name}.",
                hint=f"There are: {known}. A running node knows those that it was started with.",
                param="profile",
            )

    def _fresh_id(self) -> str:
        while (identifier := new_id(self._seams.entropy)) in self._rows:
            pass
        return identifier

    def _found(self, key: str) -> KeyRow:
        """The key of this id, or the good one of this name; a key given whole is found too, and never repeated."""
        row = self._rows.get(key) or self._rows.get(id_in(key))
        named = [row for row in self._rows.values() if row.name == key and row.is_good(self._seams.now_ms())]
        if row is None and not named:
            raise BadRequest(
                "There is no such key.", hint="`meshnode keys list` shows names and ids.", param="key"
            )
        return row or named[0]

    def _view(self, row: KeyRow) -> KeyView:
        state = REVOKED if row.revoked_ms else GOOD if row.is_good(self._seams.now_ms()) else EXPIRED
        return KeyView(
            id=row.id,
            name=row.name,
            state=state,
            scopes=row.scopes,
            profile=row.profile,
            limits=row.limits,
            made_ms=row.made_ms,
            expires_ms=row.expires_ms,
            revoked_ms=row.revoked_ms,
        )


def _verb(kind: type[A], act: Callable[[A], Awaitable[object]]) -> Verb:
    async def verb(given: Arguments, _emit: Emit) -> object:
        return await act(read_arguments(kind, given))

    return verb
