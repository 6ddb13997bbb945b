"""What the endpoints read alike: JSON bodies whose faults are named, and what only a mesh can be asked for.

It knows OpenAI's way of refusing and the words of a Wish; it neither runs anything nor answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from meshnode.errors import BadRequest, ContextExceeded
from meshnode.observe.trace import parsed
from meshnode.terms import CacheMode, Job, Place, Privacy, Wish
from meshwire.limits import PROMPT_MAX

DEADLINE_MS_MAX = 3_600_000
BYTES_PER_TOKEN = 4  # for the estimate that scoring uses; the node that serves counts exactly
HEADER_PREFIX = "x-mesh-"
LISTS = ("residency", "signed_by")  # in a header, separated by commas
ANY_MODEL = "auto"
LABELS_MAX = 16

Label = Annotated[str, Meta(min_length=1, max_length=64)]
PublicKey = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
S = TypeVar("S", bound=msgspec.Struct)
B = TypeVar("B", bound="MeshBody")


class MeshOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only a mesh can be asked for. An unknown key is an error: it may have been meant as a limit."""

    privacy: Privacy | None = None
    route: Place | None = None
    min_tier: Annotated[int, Meta(ge=0, le=6)] | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=DEADLINE_MS_MAX)] | None = None
    residency: Annotated[tuple[Label, ...], Meta(max_length=LABELS_MAX)] | None = None
    signed_by: Annotated[tuple[PublicKey, ...], Meta(max_length=16)] | None = None
    max_price: Annotated[float, Meta(ge=0)] | None = None
    max_joules: Annotated[float, Meta(ge=0)] | None = None
    tenant: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    explain: bool | None = None
    cache: CacheMode | None = None


class MeshBody(msgspec.Struct, frozen=True, kw_only=True):
    """What the body of every request has."""

    model: ModelName
    mesh: MeshOptions | None = None

    @property
    def tenant(self) -> str:
        """Whose request it is, in the caller's own words."""
        return (self.mesh and self.mesh.tenant) or ""

    @property
    def explain(self) -> bool:
        """Whether the response is to carry the decision."""
        return bool(self.mesh and self.mesh.explain)

    @property
    def length_param(self) -> str:
        """The field that says how long the answer may be."""
        return "max_tokens"


def read_body(body: bytes, headers: Iterable[tuple[str, str]], kind: type[B]) -> B:
    """The body as this struct, with the headers' options. Raises BadRequest that names the field at fault."""
    read = decode(body, kind)
    return msgspec.structs.replace(read, mesh=mesh_options(read.mesh, headers))


def mesh_options(body: MeshOptions | None, headers: Iterable[tuple[str, str]]) -> MeshOptions:
    """The body's options, filled up by the headers'; a contradiction is an error, for one may be a limit."""
    inside, outside = body or MeshOptions(), _from_headers(headers)
    merged: dict[str, object] = {}
    for name in MeshOptions.__struct_fields__:
        inner, outer = getattr(inside, name), getattr(outside, name)
        if None not in (inner, outer) and inner != outer:
            raise BadRequest(f"mesh.{name} contradicts the header.", param=f"mesh.{name}")
        merged[name] = outer if inner is None else inner
    return MeshOptions(**merged)  # type: ignore[arg-type]  # values come from two MeshOptions, by name


def wished(job: Job, asked: MeshBody, prompt_field: str) -> Job:
    """The job, with the wish for this model and whatever the mesh is asked for.

    Raises ContextExceeded, which names the field, for a prompt that is too long for any model.
    """
    mesh = asked.mesh or MeshOptions()
    prompt_bytes = _prompt_bytes(job)
    if prompt_bytes > PROMPT_MAX:
        raise ContextExceeded(f"A prompt cannot be longer than {PROMPT_MAX} bytes.", param=prompt_field)
    wish = given(
        Wish(
            model="" if asked.model == ANY_MODEL else asked.model,
            prompt_tokens=prompt_bytes // BYTES_PER_TOKEN + 1,
            output_tokens=0 if job.inputs else job.sampling.max_tokens or Wish().output_tokens,
        ),
        min_tier=mesh.min_tier,
        privacy=mesh.privacy,
        place=mesh.route,
        residency=mesh.residency,
        signed_by=mesh.signed_by,
        cache=mesh.cache,
        max_price_usd=mesh.max_price,
        max_joules=mesh.max_joules,
    )
    return given(msgspec.structs.replace(job, wish=wish), deadline_ms=mesh.deadline_ms)


def _prompt_bytes(job: Job) -> int:
    """How long everything is that becomes part of the prompt."""
    texts = [*job.inputs, *(turn.content for turn in job.turns)]
    texts += [call.arguments for turn in job.turns for call in turn.tool_calls]
    texts += [text for tool in job.tools for text in (tool.description, tool.parameters)]
    return sum(len(text.encode()) for text in texts)


def under_trace(job: Job, headers: Mapping[str, str]) -> Job:
    """The job as part of the trace that the client names; a header that is none is ignored, as W3C says."""
    return msgspec.structs.replace(job, trace=parsed(headers.get("traceparent", "")))


def given(struct: S, **values: object) -> S:
    """The struct with those values that were given; null means that the default stands."""
    return msgspec.structs.replace(
        struct, **{key: value for key, value in values.items() if value is not None}
    )


def decode(body: bytes, kind: type[S]) -> S:
    """The body as this struct. Raises BadRequest whose `param` names the field at fault."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _refusal(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", param="body") from error
    except RecursionError as error:
        raise BadRequest("The body is nested too deeply.", param="body") from error


def convert(value: object, kind: type[S], where: str) -> S:
    """A part of a body that was decoded before, as this struct; `where` is its place. Raises BadRequest."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _refusal(error, where) from error


def one_of(names: Iterable[str]) -> str:
    """A hint that lists the choices."""
    return "It is one of: " + ", ".join(names) + "."


def _from_headers(headers: Iterable[tuple[str, str]]) -> MeshOptions:
    ours = {key.lower(): value for key, value in headers if key.lower().startswith(HEADER_PREFIX)}
    raw: dict[str, object] = {}
    for key, value in ours.items():
        name = key.removeprefix(HEADER_PREFIX).replace("-", "_")
        raw[name] = [item.strip() for item in value.split(",")] if name in LISTS else value.strip()
    try:
        return msgspec.convert(raw, MeshOptions, strict=False)
    except msgspec.ValidationError as error:
        message, name = _explained(error)
        param = HEADER_PREFIX + name.replace("_", "-")
        raise BadRequest(f"{param}: {message}", hint=_hint(name), param=param) from error


def _refusal(error: msgspec.ValidationError, where: str = "") -> BadRequest:
    message, path = _explained(error)
    param = ".".join(part for part in (where, path) if part) or "body"
    return BadRequest(f"{param}: {message}", hint=_hint(param), param=param)


def _explained(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's message without its path, and the field it speaks of."""
    message, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    for pattern in (r"Object missing required field `(\w+)`", r"Object contains unknown field `(\w+)`"):
        if found := re.fullmatch(pattern, message):
            path = f"{path}.{found[1]}".lstrip(".")
    return f"{message}.", path


_CHOICES: Mapping[str, Iterable[str]] = {
    "privacy": tuple(Privacy),
    "route": tuple(Place),
    "cache": tuple(CacheMode),
    "mesh": MeshOptions.__struct_fields__,
}


def _hint(param: str) -> str:
    name = param.removeprefix("mesh.")
    if name in _CHOICES:
        return one_of(_CHOICES[name])
    known = name in MeshOptions.__struct_fields__ or not param.startswith("mesh.")
    return "" if known else one_of(_CHOICES["mesh"])
