"""The HTTP side of one request: what may still be sent, with which headers, and whether anybody is there."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from types import MappingProxyType

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from meshnode.api.errors import body_of, header_text, http_response, mesh_response
from meshnode.api.flow import Item
from meshnode.api.sse import EventStream, Transport, event
from meshnode.errors import Interrupted, MeshError
from meshnode.routing.decision import DecisionView
from meshnode.terms import NUSD, Answer, CloudOffer, Usage

# Keys of the ASGI state: the server's shutdown event, and the connection of this request.
CLOSING, TRANSPORT = "closing", "transport"
RETRY_AFTER_SHUTDOWN_S = 5.0
DECISION_BYTES_MAX = 6 * 1024


class Exchange:
    """One request's way back. Nothing is committed before `start`, `refuse` or `respond`.

    `last_words` makes the end of a stream that fails; an endpoint whose streams end in another way sets it. `fields`
    says what an error's field is called here.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, fields: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._asgi = (scope, receive, send)
        self._fields = fields
        self._headers: dict[str, str] = {}
        self._cloud: CloudOffer | None = None
        self.last_words: Callable[[MeshError], bytes] = _error_event
        state = scope.get("state", {})
        self._closing: trio.Event | None = state.get(CLOSING)
        # Only there is a body of unknown length sent in chunks, and the connection this response's alone.
        in_chunks = scope["http_version"] == "1.1"
        self._transport: Transport | None = state.get(TRANSPORT) if in_chunks else None
        self.events = EventStream(send, self._transport)

    @asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """For as long as there is a client: its leaving and its silence are seen to, and the node's shutdown.

        When the client leaves, what is inside is cancelled at once. A shutdown cancels it between two writes,
        and tells the client.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
            self.events.lives_in(nursery)
            with trio.CancelScope() as until_closing:
                nursery.start_soon(self._cancel_when_closing, until_closing)
                yield
            if until_closing.cancelled_caught:
                await self.refuse(
                    Interrupted("The node is shutting down.", retry_after_s=RETRY_AFTER_SHUTDOWN_S)
                )
            nursery.cancel_scope.cancel()

    def served_by(self, answer: Answer) -> None:
        """From now on every response says who served it."""
        self._cloud = answer.cloud
        self._headers.update(_provenance(answer))

    def decided(self, view: DecisionView) -> None:
        """From now on every response says why it was served there; the last candidates go where it would be long."""
        candidates = view.candidates
        while len(text := _one_line(view)) > DECISION_BYTES_MAX and candidates:
            candidates = candidates[: len(candidates) // 2]
            view = msgspec.structs.replace(view, candidates=candidates)
        self._headers["x-mesh-decision"] = text

    def counted(self, *usages: Usage) -> None:
        """Say what a whole answer has cost, all choices of it; a commercial API's price besides."""
        self._headers["x-mesh-cost-usd"] = f"{sum(usage.cost_nusd for usage in usages) / NUSD:.9f}"
        if self._cloud is not None and len(usages) == 1:  # several may have been served by different ones
            nusd = self._cloud.price.cost_nusd(usages[0].prompt_tokens, usages[0].completion_tokens)
            self._headers["x-mesh-price-usd"] = f"{nusd / NUSD:.9f}"

    async def start(self) -> None:
        """Commit to a stream, once."""
        if not self.events.started:
            await self.events.start(self._headers)

    async def refuse(self, item: Item | HTTPException) -> None:
        """End with an error: as a status if nothing was sent, else as the stream's last event."""
        if isinstance(item, HTTPException):
            refused = http_response(item)
            refused.headers.update(self._headers)
            await refused(*self._asgi)
            return
        error = item if isinstance(item, MeshError) else Interrupted("The answer broke off before it began.")
        error = self._in_own_words(error)
        if self.events.started:
            await self.events.write(self.last_words(error))
            await self.events.finish()
        else:
            await mesh_response(error, self._headers)(*self._asgi)

    def _in_own_words(self, error: MeshError) -> MeshError:
        """The error with the field's name as this endpoint has it; others may hold the same error."""
        if error.param not in self._fields:
            return error
        told = copy.copy(error)
        told.param = self._fields[error.param]
        return told

    async def respond(self, body: bytes) -> None:
        """End with a whole answer."""
        response = Response(body, 200, self._headers, media_type="application/json")
        async with self._transport.in_one() if self._transport else nullcontext():
            await response(*self._asgi)

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        _, receive, _ = self._asgi
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _cancel_when_closing(self, scope: trio.CancelScope) -> None:
        if self._closing is not None:
            await self._closing.wait()
            await self.events.between_writes()
            scope.cancel()


def _error_event(error: MeshError) -> bytes:
    return event(body_of(error))


def _one_line(view: DecisionView) -> str:
    """The decision as JSON that a header can carry: names come from other machines."""
    return json.dumps(msgspec.to_builtins(view), separators=(",", ":"))


def _provenance(answer: Answer) -> Mapping[str, str]:
    facts = {
        "served-by": answer.served_by,
        "path": ",".join(answer.path),
        "model": answer.model,
        "tier": str(answer.tier),
        "rung": answer.rung,
        "trust": answer.trust,
        "attempts": str(answer.attempts),
    }
    if answer.cache:
        facts |= {"cache": answer.cache, "similarity": f"{answer.similarity:.3f}"}
    if answer.cloud is not None:
        price = answer.cloud.price
        facts["price-per-million-usd"] = f"{price.input_usd:g} in, {price.output_usd:g} out"
        facts["price-most-usd"] = f"{answer.cloud.most_usd:.9f}"
    return {f"x-mesh-{name}": header_text(value) for name, value in facts.items()}
