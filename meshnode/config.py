"""What a node is told before it starts: a flag beats MESHNODE_*, that beats config.toml, that the default.

It does not know what a setting does, only its name, type and bounds.
"""

from __future__ import annotations

import difflib
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import platformdirs
from msgspec import Meta

from meshnode.errors import ConfigInvalid
from meshnode.terms import CacheMode, CloudApi, Prompt, Rating
from meshnode.terms.hours import EXAMPLE
from meshnode.terms.serving import Port, Serving, Text
from meshnode.toml_file import read_toml
from meshnode.urls import check_cloud, check_serving, checked_url, is_loopback

FILE_NAME = "config.toml"
ENV_PREFIX = "MESHNODE_"
ENV_HOME = "MESHNODE_HOME"
ENV_TICKET = "MESHNODE_TICKET"
ENV_KEY = "MESHNODE_API_KEY"
ENV_OTHER = (ENV_HOME, ENV_TICKET, ENV_KEY)  # ours, but not settings

Texts = Annotated[tuple[Text, ...], Meta(max_length=64)]
UPSTREAMS_MAX = 16
CLOUDS_MAX = 8
RATINGS_MAX = 512
UPSTREAM_URL = "It looks like http://127.0.0.1:11434; a path is given only where it is not /v1."


class Upstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another server on this machine, or one that the owner trusts like it, that speaks OpenAI's API.

    `name` is what status calls it. Its key stands in the environment variable `api_key_env`, or in the file
    `api_key_file`, which nobody else may read. `models` are the only ids to offer; empty offers all. `context`
    (tokens) and `quant` count where the server does not tell its own. `contained` is the owner's word that the
    server can neither reach the network nor the owner's files. Prompts leave this machine for a URL that is
    not a loopback address: `allow_remote` says that this is meant.
    """

    url: Text
    name: Annotated[str, Meta(max_length=32, pattern=r"^[ -~]*$")] = ""
    api_key_env: Text = ""
    api_key_file: Text = ""
    models: Texts = ()
    contained: bool = False
    allow_remote: bool = False
    context: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    slots: Annotated[int, Meta(ge=1, le=64)] = 4
    quant: Text = ""


class Config(Serving, frozen=True, kw_only=True):
    """Every setting of a node. The descriptions are what the documentation and `--help` quote."""

    home: Annotated[Path, Meta(description="Where the node keeps its keys, its state and its models.")]
    name: Annotated[
        str,
        Meta(
            max_length=64,
            pattern=r"^[^\x00-\x1f\x7f]*$",
            description="What other people see this node called; empty means the machine's name.",
        ),
    ] = ""
    mesh_host: Annotated[Text, Meta(description="The address that other nodes connect to.")] = "0.0.0.0"  # noqa: S104 - a mesh is for other machines
    mesh_port: Annotated[Port, Meta(description="The mesh's port; 0 takes any free one.")] = 8421
    open_mesh: Annotated[
        bool, Meta(description="Found an open mesh, which anyone may join without a ticket.")
    ] = False
    bootstrap: Annotated[
        Texts, Meta(description="Addresses of nodes to connect to first, ws://HOST:PORT.")
    ] = ()
    model: Annotated[
        Text, Meta(description="The model this node runs, such as smollm2:135m; empty means none.")
    ] = "smollm2:135m"
    models: Annotated[
        Texts,
        Meta(
            description="More models this node runs; each is in memory while there is room, or when asked for."
        ),
    ] = ()
    memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 24,
            description="Memory for all models together, in MiB; 0 takes 70% of what is free at the start.",
        ),
    ] = 0
    engine: Annotated[
        Literal["llama", "scripted", "none"],
        Meta(
            description="What runs the model: llama (llama.cpp), scripted (a fake, for trying out) or none."
        ),
    ] = "llama"
    sandbox: Annotated[
        Literal["auto", "none"],
        Meta(
            description="What models run in: auto (the strongest containment that this system has) or none."
        ),
    ] = "auto"
    allow_unsandboxed: Annotated[
        bool, Meta(description="Work for other nodes also with engines that are in no sandbox.")
    ] = False
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads the engine computes with; 0 chooses by the machine.")
    ] = 0
    slots: Annotated[
        int, Meta(ge=1, le=64, description="How many requests the engine runs at the same time.")
    ] = 8
    context: Annotated[
        int, Meta(ge=0, le=1 << 24, description="The engine's context in tokens; 0 chooses by the model.")
    ] = 0
    slot_context: Annotated[
        int,
        Meta(ge=0, le=1 << 24, description="Tokens of context for each slot alone; 0: all share `context`."),
    ] = 0
    discover: Annotated[
        bool, Meta(description="Connect to nodes heard of through others, not only to those named.")
    ] = True
    lan: Annotated[
        bool,
        Meta(
            description="Find nodes of the same mesh on the local network, and be found there (needs meshnode[lan])."
        ),
    ] = False
    reachable: Annotated[
        bool, Meta(description="Tell others this node's addresses; off for one that only dials out.")
    ] = True
    relay: Annotated[
        bool, Meta(description="Carry the sealed traffic of other nodes between each other.")
    ] = True
    price_usd: Annotated[
        float,
        Meta(ge=0, le=1e6, description="What this node asks of others, in USD for a million answer tokens."),
    ] = 0.0
    usd_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="How many seconds of waiting a USD is worth to this node's own requests.",
        ),
    ] = 3600.0
    joule_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="How many seconds of waiting a joule is worth; 0 leaves energy out of account.",
        ),
    ] = 0.0
    hedge: Annotated[
        bool, Meta(description="Ask a second node for public answers that are slow to begin.")
    ] = False
    advertise: Annotated[
        Texts,
        Meta(description="Addresses to tell others instead of those found on the machine, ws://HOST:PORT."),
    ] = ()
    share_models: Annotated[
        Literal["auto", "nobody", "trusted", "members"],
        Meta(
            description="Who may fetch this node's model files: nobody, trusted nodes, all members; "
            "auto is members in a closed mesh and nobody in an open one."
        ),
    ] = "auto"
    share_kb_per_s: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 24,
            description="The most that this node sends of model files, KiB a second; 0: all.",
        ),
    ] = 0
    spot_checks: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of others' answers to check where their weights are here too."),
    ] = 0.05
    audit: Annotated[
        bool,
        Meta(
            description="Write a line for each request that leaves this node or is refused; none leaves without one."
        ),
    ] = True
    audit_mb: Annotated[
        int,
        Meta(
            ge=1, le=1 << 20, description="The most that the audit log's files take, in MiB; the oldest go."
        ),
    ] = 64
    cache: Annotated[
        CacheMode,
        Meta(
            description="The most that requests may be given of kept answers: off, exact (to the same request) or "
            "semantic (to a question that means the same, for requests that wish for it; needs meshnode[semantic])."
        ),
    ] = CacheMode.EXACT
    cache_mb: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="Disk space for kept answers, in MiB; the least used one goes first.",
        ),
    ] = 64
    cache_ttl_s: Annotated[
        int, Meta(ge=1, le=366 * 86_400, description="How long an answer is kept, in seconds.")
    ] = 86_400
    upstream: Annotated[
        Texts,
        Meta(description="URLs of OpenAI-compatible servers on this machine whose models this node offers."),
    ] = ()
    upstreams: Annotated[
        tuple[Upstream, ...],
        Meta(
            max_length=UPSTREAMS_MAX,
            description="The same in full, as [[upstreams]] tables in config.toml; see docs/upstream.md.",
        ),
    ] = ()
    cloud: Annotated[
        tuple[CloudApi, ...],
        Meta(
            max_length=CLOUDS_MAX,
            description="Commercial APIs with budgets, as [[cloud]] tables in config.toml; see docs/cloud.md.",
        ),
    ] = ()
    ratings: Annotated[
        tuple[Rating, ...],
        Meta(
            max_length=RATINGS_MAX,
            description="How good models are, as [[ratings]] tables; see docs/routing.md.",
        ),
    ] = ()
    prompts: Annotated[
        tuple[Prompt, ...],
        Meta(
            max_length=RATINGS_MAX, description="How families are asked, as [[prompts]]; see docs/routing.md."
        ),
    ] = ()


class Setting(msgspec.Struct, frozen=True):
    """One setting as documentation shows it; `default` is TOML, empty where the machine decides."""

    name: str
    default: str
    description: str


_INHERITED = Serving.__struct_fields__
_FIELDS = {
    field.name: field
    for field in sorted(msgspec.structs.fields(Config), key=lambda field: field.name in _INHERITED)
}
NAMES = tuple(_FIELDS)


def default_home(env: Mapping[str, str]) -> Path:
    """MESHNODE_HOME, or the place this system keeps a user's data in."""
    return Path(env[ENV_HOME]) if env.get(ENV_HOME) else platformdirs.user_data_path("meshnode")


def load(home: Path | None, flags: Mapping[str, object], env: Mapping[str, str]) -> Config:
    """The settings in force, from flags, the environment and `home/config.toml`, in this order.

    A flag that is None was not given. Raises ConfigInvalid, which names the first setting that is unknown or
    has an impossible value and where it came from; HomeUnusable when the file exists and cannot be read.
    """
    place = (home or default_home(env)).expanduser().absolute()
    return settled(place, read_toml(place / FILE_NAME), flags, env)


def settled(
    place: Path, written: Mapping[str, object], flags: Mapping[str, object], env: Mapping[str, str]
) -> Config:
    """As `load` for the home `place`, whose file says what is `written`."""
    given: dict[str, object] = {}
    given.update(_typed(written, f"in {place / FILE_NAME}"))
    given.update(_typed(from_env(env), "in the environment", prefix=ENV_PREFIX))
    given.update(_typed(_from_flags(flags), "on the command line", prefix="--"))
    config = Config(home=place, **given)  # type: ignore[arg-type]  # _typed converted every value
    check_serving(config)
    _check_upstreams(every_upstream(config))
    _check_hours(config)
    check_cloud(config.cloud)
    return config


def _check_hours(config: Config) -> None:
    try:
        config.hours()
    except ValueError as error:
        raise ConfigInvalid(
            f"spare_hours is not usable: {error}.", hint=EXAMPLE, param="spare_hours"
        ) from error


def every_upstream(config: Config) -> tuple[Upstream, ...]:
    """Those given by their URL alone, then those given in full."""
    return (*(Upstream(url=url) for url in config.upstream), *config.upstreams)


def with_name(config: Config) -> Config:
    """The settings with the machine's name where no other was given."""
    return config if config.name else msgspec.structs.replace(config, name=platform.node()[:64] or "node")


def every_setting() -> tuple[Setting, ...]:
    """All settings in order, for documentation."""
    return tuple(_described(field) for field in _FIELDS.values())


def _described(field: msgspec.structs.FieldInfo) -> Setting:
    known = field.default is not msgspec.NODEFAULT
    default = msgspec.json.encode(field.default).decode() if known else ""
    return Setting(field.name, default, _meta(field).description or "")


def _meta(field: msgspec.structs.FieldInfo) -> Meta:
    metas: list[Meta] = [item for item in field.type.__metadata__ if isinstance(item, Meta)]
    return metas[-1]


def from_env(env: Mapping[str, str]) -> dict[str, object]:
    """What the environment says of settings, known or not, by their names."""
    ours = {key: value for key, value in env.items() if key.startswith(ENV_PREFIX) and key not in ENV_OTHER}
    return {key.removeprefix(ENV_PREFIX).lower(): value for key, value in sorted(ours.items())}


def _from_flags(flags: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in flags.items() if value is not None}


def _typed(values: Mapping[str, object], where: str, *, prefix: str = "") -> dict[str, object]:
    return {key: _convert(key, value, where, _spelled(key, prefix)) for key, value in values.items()}


def _spelled(key: str, prefix: str) -> str:
    if prefix == "--":
        return prefix + key.replace("_", "-")
    return prefix + (key.upper() if prefix else key)


def _convert(key: str, value: object, where: str, spelled: str) -> object:
    if key not in _FIELDS or key == "home":
        raise ConfigInvalid(f"There is no setting {spelled} ({where}).", hint=_nearest(key), param=key)
    field = _FIELDS[key]
    if isinstance(value, str) and isinstance(field.default, tuple):
        value = [item.strip() for item in value.split(",") if item.strip()]
    try:
        return msgspec.convert(value, field.type, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        reason = re.sub(r" - at `[^`]*?([a-z_]*)(?:\[[.\d]*\])*`$", _in_table, str(error))
        raise ConfigInvalid(
            f"{spelled} ({where}) is not usable: {reason}.", hint=_meta(field).description or "", param=key
        ) from error


def _in_table(path: re.Match[str]) -> str:
    """The field of a table that msgspec's message is about; a setting by itself is named already."""
    return f" ({path[1]})" if path[1] else ""


def _nearest(key: str) -> str:
    close = difflib.get_close_matches(key, [name for name in NAMES if name != "home"], n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return "The settings are: " + ", ".join(name for name in NAMES if name != "home") + "."


def _check_upstreams(upstreams: tuple[Upstream, ...]) -> None:
    for number, upstream in enumerate(upstreams, start=1):
        _check_upstream(upstream, f"Upstream {upstream.name or number}")
    urls = [upstream.url for upstream in upstreams]
    if len(set(urls)) < len(urls):
        raise ConfigInvalid("An upstream is named twice.", hint="Each URL once.", param="upstreams")


def _check_upstream(upstream: Upstream, who: str) -> None:
    host, _scheme = checked_url(upstream.url, who, UPSTREAM_URL, "upstreams")
    if not (is_loopback(host) or upstream.allow_remote):
        raise ConfigInvalid(
            f"{who} is not on this machine ({host}), so prompts would leave it.",
            hint="If that is meant, give it a table [[upstreams]] in config.toml with allow_remote = true.",
            param="upstreams",
        )
