"""Checks of the running node: what it says of itself, whether its API answers, and whether a real request does.

The request costs nothing: kept answers and commercial APIs are left out of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import httpx2
import msgspec
import trio

from meshnode.cli.doctor.finding import Found, Verdict
from meshnode.config import ENV_KEY
from meshnode.observe.snapshot import ModelView, PeerView, Snapshot

CONNECT_S = 5.0
REQUEST_S = 60.0
MODELS_TRIED_MAX = 3
ANSWER_TOKENS = 8
ANSWER_BYTES_MAX = 64 * 1024
PROMPT = "Answer with the one word: ready"
ROUTED_HEADERS = ("x-mesh-model", "x-mesh-served-by", "x-mesh-rung")


class Message(msgspec.Struct, frozen=True):
    """What the model said."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """The one answer."""

    message: Message


class Failure(msgspec.Struct, frozen=True):
    """An error of the API."""

    message: str
    code: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """An answer of the API, as far as it matters here."""

    choices: tuple[Choice, ...] = ()
    error: Failure | None = None


def state(seen: Snapshot) -> Found:
    """How far the node has come."""
    told = f"{seen.name} is {seen.state}; {seen.engine.model or 'no model'} {seen.engine.state}"
    detail = f"{told}: {seen.engine.detail}" if seen.engine.detail else told
    if seen.state == "failed" or seen.engine.state == "failed":
        return Verdict.FAILED, detail, "See node.log in its home."
    if seen.state != "ready":
        return Verdict.WARNING, detail, "Wait until it is ready; `meshnode status` shows how far it is."
    return Verdict.OK, detail


def mesh(seen: Snapshot) -> Found:
    """Whether it is in the mesh that it wants to be in."""
    told = " ".join(filter(None, (seen.join_state, seen.join_detail)))
    name = seen.mesh.name or seen.mesh.id[:8] or "none"
    if seen.join_state == "failed":
        return Verdict.FAILED, f"Joining failed: {seen.join_detail}", "Join again: meshnode join TICKET"
    if seen.join_state == "joining":
        return Verdict.WARNING, told, "It goes on by itself; is the node that made the ticket up?"
    return Verdict.OK, f"{name}, {told}, {seen.mesh.role or 'no role'}."


def peers(seen: Snapshot) -> Found:
    """Whether the others can be reached, and none of them lies."""
    if not seen.peers:
        return Verdict.OK, "No others yet; `meshnode invite` makes a ticket for the next device."
    linked = sum(peer.state == "linked" for peer in seen.peers)
    lost = [_called(peer) for peer in seen.peers if peer.state == "unreachable"]
    liars = [_called(peer) for peer in seen.peers if peer.distrusted]
    told = f"{len(seen.peers)} known, {linked} linked"
    if lost and len(lost) == len(seen.peers):
        return Verdict.FAILED, f"None of {len(lost)} can be reached: {', '.join(lost)}.", _LOOK_AT_THEM
    if lost or liars:
        more = [f"cannot be reached: {', '.join(lost)}"] if lost else []
        more += [f"distrusted: {', '.join(liars)}"] if liars else []
        return Verdict.WARNING, f"{told}; {'; '.join(more)}.", _LOOK_AT_THEM
    return Verdict.OK, f"{told}."


_LOOK_AT_THEM = "`meshnode peers` shows them; are they up, and on a network that this device reaches?"


def reachability(seen: Snapshot) -> Found:
    """Whether others can come to it: at an address, or through relays."""
    if seen.mesh.relays:
        return Verdict.OK, f"Through {len(seen.mesh.relays)} relays, for it cannot be dialled."
    if seen.mesh_addresses:
        return Verdict.OK, ", ".join(seen.mesh_addresses)
    hint = "It asks others and serves those it is linked to. A node that can be dialled would carry for it."
    return (
        Verdict.WARNING if seen.peers else Verdict.OK,
        "No address and no relay.",
        hint if seen.peers else "",
    )


class Api:
    """The running node's API, as a program on this machine uses it."""

    def __init__(self, base_url: str) -> None:
        key = os.environ.get(ENV_KEY, "")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._base_url = base_url

    async def answers(self) -> Found:
        """Whether it answers at all."""
        async with self._client() as http:
            response = await http.get("/healthz")
        if response.status_code != httpx2.codes.OK:
            return Verdict.FAILED, f"{self._base_url} answers with {response.status_code}.", "See node.log."
        return Verdict.OK, f"{self._base_url}/v1 answers."

    async def request(self, models: Sequence[ModelView]) -> Found:
        """Ask the models of the mesh one after another until one has answered."""
        names = list(dict.fromkeys(model.name for model in models if not model.cloud))[:MODELS_TRIED_MAX]
        if not names:
            return Verdict.FAILED, "No model is on offer.", "Bring one: meshnode pull smollm2:135m"
        refusals: list[str] = []
        async with self._client() as http:
            for name in names:
                begun = trio.current_time()
                answer, routed = await _ask(http, name)
                if answer.error is None and answer.choices:
                    took = trio.current_time() - begun
                    return Verdict.OK, f"{name} answered in {took:.1f} s ({routed})."
                error = answer.error or Failure("an answer without a choice")
                refusals.append(f"{name}: {error.message}")
                if error.code == "invalid_api_key":
                    return Verdict.FAILED, error.message, f"Put a key in {ENV_KEY}; see docs/api-keys.md."
        hint = f"See why: meshnode route explain {names[0]}"
        return Verdict.FAILED, " ".join(refusals), hint

    def _client(self) -> httpx2.AsyncClient:
        timeout = httpx2.Timeout(REQUEST_S, connect=CONNECT_S)
        return httpx2.AsyncClient(
            base_url=self._base_url, timeout=timeout, trust_env=False, headers=self._headers
        )


async def _ask(http: httpx2.AsyncClient, model: str) -> tuple[Answer, str]:
    """One small request. What is no answer of the API, or does not come, is told as its error."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": ANSWER_TOKENS,
        "mesh": {"cache": "off", "max_price": 0},
    }
    try:
        with trio.fail_after(REQUEST_S):
            response = await http.post("/v1/chat/completions", json=body)
        answer = msgspec.json.decode(response.content[:ANSWER_BYTES_MAX], type=Answer)
    except (trio.TooSlowError, httpx2.TimeoutException):
        return Answer(error=Failure(f"no answer within {REQUEST_S:g} seconds")), ""
    except (httpx2.TransportError, msgspec.DecodeError) as error:
        return Answer(error=Failure(f"no usable answer: {error}")), ""
    routed = ", ".join(response.headers[name] for name in ROUTED_HEADERS if response.headers.get(name))
    return answer, routed


def _called(peer: PeerView) -> str:
    return peer.name or peer.node[:8]
