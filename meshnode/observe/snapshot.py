"""What a node looks like at one moment: plain, frozen data for `status`, `peers`, `models` and the API.

Whoever knows the facts fills it; it holds no live object and never changes. Node ids are lowercase base32
text, times are ages or durations that end in their unit, None stands for "not known".
"""

import msgspec


class MeshView(msgspec.Struct, frozen=True, kw_only=True):
    """The mesh this node is in. `role` is issuer, member or, on an open mesh, none.

    `relays` carry circuits to this node, if it cannot be dialled; `relaying_for` is how many such nodes it serves.
    `dead` is how many nodes are held to be dead; the bytes are those of gossip's digests and records since this node
    came to this mesh.
    """

    id: str = ""
    name: str = ""
    open: bool = False
    role: str = ""
    relays: tuple[str, ...] = ()
    relaying_for: int = 0
    dead: int = 0
    gossip_sent_bytes: int = 0
    gossip_received_bytes: int = 0


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """A connection to another node. `path_links` is 1 when direct, more when relays carry it."""

    node: str
    name: str = ""
    address: str = ""
    inbound: bool = False
    rtt_ms: float | None = None
    age_s: float = 0.0
    path_links: int = 1


class PeerView(msgspec.Struct, frozen=True, kw_only=True):
    """Another node as this one knows it.

    `state` is linked, reachable (through others) or unreachable; `path` names the nodes on the way, the last
    being the peer; `heard_s` is the age of the news. `distrusted` are those models, by
    name or digest, with which it does not answer although it claims to, as this node's spot checks have shown.
    """

    node: str
    name: str = ""
    state: str = "unreachable"
    trust: str = "none"
    path: tuple[str, ...] = ()
    rtt_ms: float | None = None
    heard_s: float | None = None
    models: tuple[str, ...] = ()
    in_flight: int = 0
    queued: int = 0
    accepting: bool = True
    distrusted: tuple[str, ...] = ()


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model on offer. `digest` is hex; `nodes` names who has it; `local` says that this node does.

    `cloud` is the commercial API that has it, which is no node. `price_usd` is the least that another node asks for a
    million answer tokens.
    """

    name: str
    quant: str = ""
    tier: int = 0
    context: int = 0
    digest: str = ""
    nodes: tuple[str, ...] = ()
    local: bool = False
    generate_tps: float = 0.0
    state: str = "ready"
    cloud: str = ""
    price_usd: float = 0.0


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """An engine of this node.

    `kind` is llama, scripted, upstream or none; `state` absent, loading, standby, ready or failed; `detail` how
    far it is or why it failed. `in_flight` counts requests, `waiting` those of them whose turn has not come, and
    `queued` the tokens that are still to be read and written for all of them; `restarts` says how often a worker had
    to be started again because it had crashed. `sandbox` names what contains it (bubblewrap, landlock, none, …);
    `exposure` says, where others' work would not be contained, why that is so and what follows.
    """

    kind: str = "none"
    state: str = "absent"
    detail: str = ""
    model: str = ""
    in_flight: int = 0
    queued: int = 0
    waiting: int = 0
    slots: int = 0
    restarts: int = 0
    sandbox: str = ""
    exposure: str = ""


class SharingView(msgspec.Struct, frozen=True, kw_only=True):
    """What a node takes of others' work: `state` is accepting, deprioritised, paused for remote or paused.

    `why` is for the owner alone, and is told to nobody else; `left_s` how long a pause still lasts that has an end;
    `untold` names the settings that mean nothing here, because the system does not tell what they need.
    """

    state: str = "accepting"
    why: tuple[str, ...] = ()
    left_s: float | None = None
    untold: tuple[str, ...] = ()


class CloudView(msgspec.Struct, frozen=True, kw_only=True):
    """A commercial API and its budget; sums are of `month`, in USD.

    `spent_usd` is what the API counted, `assumed_usd` the most that requests can have cost whose end was not seen,
    `held_usd` what is held for those under way, `left_usd` the rest. `state` is ready, or resting after a failure.
    """

    name: str
    state: str = "ready"
    detail: str = ""
    models: tuple[str, ...] = ()
    privacy: tuple[str, ...] = ()
    redacts: bool = False
    month: str = ""
    monthly_usd: float = 0.0
    request_usd: float = 0.0
    spent_usd: float = 0.0
    assumed_usd: float = 0.0
    held_usd: float = 0.0
    left_usd: float = 0.0
    requests: int = 0
    in_flight: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `state`: starting, loading, ready, failed; `join_state`: alone, joining, joined, failed.

    `engine` is the first of `engines`: the one whose model the settings name. `under_way` is how many requests this
    node is busy with, its own and those of others.
    """

    node: str
    name: str
    state: str
    version: str = ""
    mesh: MeshView = MeshView()
    api_url: str = ""
    mesh_addresses: tuple[str, ...] = ()
    uptime_s: float = 0.0
    under_way: int = 0
    join_state: str = "alone"
    join_detail: str = ""
    engine: EngineView = EngineView()
    engines: tuple[EngineView, ...] = ()
    sharing: SharingView = SharingView()
    links: tuple[LinkView, ...] = ()
    peers: tuple[PeerView, ...] = ()
    models: tuple[ModelView, ...] = ()
    cloud: tuple[CloudView, ...] = ()
