"""A ping to another node, on the way of a request: whom it is for, and what comes of it. It sends nothing itself."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.control.verbs import Arguments, Emit, Verb, read_arguments
from meshnode.errors import BadRequest
from meshnode.mesh.peers import Peer
from meshwire.ids import NodeId, to_text

ID_CHARACTERS_MIN = 4  # of a node's id, for a person to name it by
TIMEOUT_DEFAULT_S = 5.0
TIMEOUT_MAX_S = 60.0
LIST_HINT = "`meshnode peers` names the other nodes."


class PingArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name, an id or the beginning of one; `timeout_s` how long to wait for the answer."""

    node: Annotated[str, Meta(min_length=1, max_length=256)]
    timeout_s: Annotated[float, Meta(gt=0, le=TIMEOUT_MAX_S)] = TIMEOUT_DEFAULT_S


class PingView(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one ping.

    `path` names the nodes on the way, the last being the one that is pinged: any before it are relays, whose names
    are `relays`. It is empty where no way was found. `address` is that of a direct link. `rtt_ms` is None where no
    answer came; then `why` says what is in the way.
    """

    node: str
    name: str = ""
    path: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    address: str = ""
    rtt_ms: float | None = None
    why: str = ""


def find_peer(peers: Mapping[NodeId, Peer], own: NodeId, text: str) -> Peer:
    """The node with this id or name, or whose id begins so; raises BadRequest unless there is exactly one.

    A name is its node's own choice, so one that is also the beginning of another's id means neither of the two.
    """
    wanted = text.strip()
    ids = {to_text(node): peer for node, peer in peers.items()}
    short = wanted.lower()
    if short in ids:
        return ids[short]
    begun = len(short) >= ID_CHARACTERS_MIN
    found = {
        node: peer for node, peer in ids.items() if _is_meant(node, peer, wanted, short if begun else "")
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        hint = f"Name one by its id: {', '.join(sorted(found)[:8])}."
        raise BadRequest(f"Several nodes may be meant by {wanted[:64]!r}.", hint=hint, param="node")
    if begun and to_text(own).startswith(short):
        raise BadRequest(f"{wanted[:64]!r} is this node itself.", hint=LIST_HINT, param="node")
    raise BadRequest(f"No node of this mesh is called {wanted[:64]!r}.", hint=LIST_HINT, param="node")


def _is_meant(node: str, peer: Peer, name: str, beginning: str) -> bool:
    return peer.name == name or bool(beginning and node.startswith(beginning))


def ping_verb(ping: Callable[..., Awaitable[PingView]]) -> Verb:
    """The verb `ping`, over a function that takes the node and `timeout_s`."""

    async def run(given: Arguments, _emit: Emit) -> PingView:
        asked = read_arguments(PingArguments, given)
        return await ping(asked.node, timeout_s=asked.timeout_s)

    return run
