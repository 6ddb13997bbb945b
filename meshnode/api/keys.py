"""Who a request is from, by its API key: looked at before anything of the body is read.

It knows which path is which door; what a key allows beyond that is read with the body, in `ceiling`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import trio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from meshnode.api.ceiling import least
from meshnode.api.dashboard.page import is_page
from meshnode.api.errors import mesh_response
from meshnode.api.guard import Unread
from meshnode.api.visit import visit_of
from meshnode.errors import KeyRefused, MeshError, NotAllowed, RateExceeded
from meshnode.terms.profile import Grant, Scope

MINUTE_S = 60.0
RETRY_S = 1.0  # when a request under way may have ended
METERS_MAX = 4096
CHALLENGE = 'Bearer realm="meshnode"'
MAKE_KEY = "Send one that `meshnode keys create NAME` has made."
SEND_NONE = (
    "A request without any key is answered as well; one that was made up is not, since there are keys."
)

OPEN = ("/healthz", "/readyz")
SCOPES: Mapping[str, Scope] = {
    "/v1/chat/": Scope.CHAT,
    "/v1/completions": Scope.CHAT,
    "/v1/responses": Scope.CHAT,
    "/v1/embeddings": Scope.EMBEDDINGS,
    "/v1/models": Scope.MODELS,
}


class Keys(Protocol):
    """The keys of this node."""

    @property
    def any_good(self) -> bool:
        """Whether there is a key that opens anything."""
        ...

    def knows_shape(self, text: str) -> bool:
        """Whether this looks like a key, good or not."""
        ...

    def grant(self, text: str) -> Grant:
        """What a key allows. Raises KeyRefused or NotAllowed."""
        ...


def scope_of(path: str) -> Scope:
    """The door that a path is; whatever is no known one is the operator's."""
    return next((scope for prefix, scope in SCOPES.items() if path.startswith(prefix)), Scope.ADMIN)


class KeyCheck:
    """Middleware that refuses whoever has no good key where one is needed, and a key that was presented and is not.

    Where none is needed and the node has no keys, what clients send because they must send something passes.
    """

    def __init__(self, app: ASGIApp, keys: Keys, *, required: bool) -> None:
        self._app = app
        self._keys = keys
        self._required = required
        self._meters: dict[str, _Meter] = {}

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass the request on with what it may do, or answer it here."""
        if scope["type"] != "http" or scope["path"] in OPEN or is_page(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            grant = self._grant(Headers(scope=scope), scope["path"])
            with self._metered(grant):
                visit_of(scope).grant = grant
                await self._app(scope, receive, send)
        except _Refused as refused:
            await Unread(mesh_response(refused.error, _challenge(refused.error)))(scope, receive, send)

    def _grant(self, headers: Headers, path: str) -> Grant | None:
        try:
            text = _presented(headers)
            if not self._looks_at(text):
                if self._required:
                    raise _no_key()
                return None
            grant = self._granted(text)
            if scope_of(path) not in grant.scopes:
                raise NotAllowed(f"This API key does not open {path[:80]}.", hint=_needs(scope_of(path)))
        except MeshError as error:
            raise _Refused(error) from error
        return grant

    def _granted(self, text: str) -> Grant:
        """What a key allows; where it is refused, with what its sender can do."""
        try:
            return self._keys.grant(text)
        except KeyRefused as error:
            hint = MAKE_KEY if self._required else f"{MAKE_KEY} {SEND_NONE}"
            raise KeyRefused(error.message, hint=hint) from error

    def _looks_at(self, text: str) -> bool:
        return bool(text) and (self._required or self._keys.any_good or self._keys.knows_shape(text))

    @contextmanager
    def _metered(self, grant: Grant | None) -> Iterator[None]:
        if grant is None:
            yield
            return
        meter = self._meters.pop(grant.key, None) or _Meter(trio.current_time())
        self._meters[grant.key] = meter  # the one that was used last stands last
        while len(self._meters) > METERS_MAX:
            del self._meters[next(iter(self._meters))]
        meter.begin(grant, trio.current_time())
        try:
            yield
        finally:
            meter.under_way -= 1


class _Refused(Exception):
    """Told apart from what the application raises: this is to be answered here."""

    def __init__(self, error: MeshError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _Meter:
    """What one key has under way, and a bucket that a minute fills: `spent` of it is gone as of `at`."""

    at: float
    spent: float = 0.0
    under_way: int = 0

    def begin(self, grant: Grant, now: float) -> None:
        """Count one more request. Raises _Refused with RateExceeded."""
        concurrent = least([profile.concurrent for profile in grant.profiles])
        per_minute = least([profile.per_minute for profile in grant.profiles])
        if concurrent and self.under_way >= concurrent:
            raise _over(f"has {self.under_way} requests under way, which is the most", RETRY_S)
        if per_minute:
            self._spend(per_minute, now)
        self.under_way += 1

    def _spend(self, per_minute: int, now: float) -> None:
        pace = per_minute / MINUTE_S
        self.spent = max(0.0, self.spent - (now - self.at) * pace)
        self.at = now
        if self.spent + 1 > per_minute:
            raise _over(f"may begin {per_minute} requests a minute", (self.spent + 1 - per_minute) / pace)
        self.spent += 1


def _over(why: str, retry_after_s: float) -> _Refused:
    return _Refused(RateExceeded(f"This API key {why}.", retry_after_s=retry_after_s))


def _presented(headers: Headers) -> str:
    """The key that came with a request; empty for none. Raises KeyRefused for what cannot be one."""
    given = headers.getlist("authorization")
    if len(given) > 1:
        raise KeyRefused("There is more than one Authorization header.")
    kind, _, text = given[0].strip().partition(" ") if given else ("", "", "")
    return text.strip() if kind.lower() == "bearer" else ""


def _needs(scope: Scope) -> str:
    return f"It takes one with the scope {scope}: `meshnode keys create NAME --scope {scope}`."


def _challenge(error: MeshError) -> dict[str, str]:
    """What HTTP says with a 401: how to identify oneself."""
    return {"www-authenticate": CHALLENGE} if isinstance(error, KeyRefused) else {}


def _no_key() -> KeyRefused:
    return KeyRefused(
        "This node answers only with an API key.",
        hint="Send it as `Authorization: Bearer …`; its operator makes one with `meshnode keys create`.",
    )
