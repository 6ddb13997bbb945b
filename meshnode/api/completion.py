"""The body of a chat completion, from JSON to a Job. What is not supported yet is refused by its name.

It knows OpenAI's fields and the words of a Job; it neither runs anything nor answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from meshnode.errors import BadRequest, ContextExceeded
from meshnode.terms import Job, Place, Privacy, Sampling, Turn, Wish
from meshwire.limits import PROMPT_MAX

MESSAGES_MAX = 4096
STOPS_MAX = 4
DEADLINE_MS_MAX = 3_600_000
BYTES_PER_TOKEN = 4  # for the estimate that scoring uses; the node that serves counts exactly
HEADER_PREFIX = "x-mesh-"
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
ANY_MODEL = "auto"

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Label = Annotated[str, Meta(min_length=1, max_length=64)]
S = TypeVar("S", bound=msgspec.Struct)


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One message as OpenAI writes it."""

    role: str
    content: str | list[Part] | None = None
    name: Annotated[str, Meta(max_length=64)] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None
    audio: Any = None


class StreamOptions(msgspec.Struct, frozen=True):
    """`include_usage` asks for a last chunk that counts tokens."""

    include_usage: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """Only `text` so far."""

    type: str


class MeshOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only a mesh can be asked for. An unknown key is an error: it may have been meant as a limit."""

    privacy: Privacy | None = None
    route: Place | None = None
    min_tier: Annotated[int, Meta(ge=0, le=6)] | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=DEADLINE_MS_MAX)] | None = None
    residency: Annotated[tuple[Label, ...], Meta(max_length=16)] | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions: first what is honoured, then what is refused so far."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    mesh: MeshOptions | None = None

    n: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, Any] | None = None
    audio: Any = None
    modalities: list[str] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def read_completion(body: bytes, headers: Iterable[tuple[str, str]] = ()) -> Completion:
    """Decode and check a request. Raises BadRequest whose `param` names the field at fault."""
    completion = _decode(body, Completion)
    _check_unsupported(completion)
    _check_stops(completion.stop)
    if completion.stream_options is not None and not completion.stream:
        raise BadRequest("stream_options is only allowed with stream: true.", param="stream_options")
    given = (completion.max_tokens, completion.max_completion_tokens)
    if None not in given and given[0] != given[1]:
        raise BadRequest("max_tokens and max_completion_tokens contradict each other.", param="max_tokens")
    mesh = _merge(completion.mesh or MeshOptions(), _from_headers(headers))
    return msgspec.structs.replace(completion, mesh=mesh)


def job_of(completion: Completion, job_id: str) -> Job:
    """The Job that the walk takes. Raises BadRequest for messages that cannot be turned into text."""
    turns = tuple(_turn(message, f"messages[{index}]") for index, message in enumerate(completion.messages))
    prompt_bytes = sum(len(turn.content.encode()) for turn in turns)
    if prompt_bytes > PROMPT_MAX:
        raise ContextExceeded(f"The messages are longer than {PROMPT_MAX} bytes.", param="messages")
    mesh = completion.mesh or MeshOptions()
    sampling = _sampling(completion)
    wish = _given(
        Wish(
            model="" if completion.model == ANY_MODEL else completion.model,
            prompt_tokens=prompt_bytes // BYTES_PER_TOKEN + 1,
            output_tokens=sampling.max_tokens or Wish().output_tokens,
        ),
        min_tier=mesh.min_tier,
        privacy=mesh.privacy,
        place=mesh.route,
        residency=mesh.residency,
    )
    return _given(Job(id=job_id, wish=wish, turns=turns, sampling=sampling), deadline_ms=mesh.deadline_ms)


def _sampling(completion: Completion) -> Sampling:
    stops = completion.stop or ()
    return _given(
        Sampling(stop=(stops,) if isinstance(stops, str) else tuple(stops)),
        temperature=completion.temperature,
        top_p=completion.top_p,
        top_k=completion.top_k,
        min_p=completion.min_p,
        seed=completion.seed,
        max_tokens=completion.max_completion_tokens or completion.max_tokens,
        presence_penalty=completion.presence_penalty,
        frequency_penalty=completion.frequency_penalty,
        repeat_penalty=completion.repeat_penalty,
    )


def _given(struct: S, **values: object) -> S:
    """The struct with those values that were given; null means that the default stands."""
    return msgspec.structs.replace(
        struct, **{key: value for key, value in values.items() if value is not None}
    )


def _turn(message: Message, where: str) -> Turn:
    role = ROLES.get(message.role)
    if role is None:
        raise BadRequest(f"There is no role {message.role!r}.", hint=_one_of(ROLES), param=f"{where}.role")
    for name in ("tool_calls", "function_call", "audio"):
        if getattr(message, name):
            raise BadRequest(f"{name} is not supported yet.", param=f"{where}.{name}")
    if message.content is None:
        raise BadRequest("A message needs content.", param=f"{where}.content")
    return Turn(role=role, content=_text(message.content, f"{where}.content"), name=message.name or "")


def _text(content: str | list[Part], where: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_part_text(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part_text(part: Part, where: str) -> str:
    if part.type != "text":
        raise BadRequest(f"Parts of type {part.type!r} are not supported, only text.", param=f"{where}.type")
    if part.text is None:
        raise BadRequest("A text part needs text.", param=f"{where}.text")
    return part.text


def _check_unsupported(completion: Completion) -> None:
    """Refuse what would otherwise be silently ignored."""
    asked = {
        "n": completion.n not in (None, 1),
        "tools": bool(completion.tools),
        "tool_choice": completion.tool_choice not in (None, "none", "auto"),
        "functions": bool(completion.functions),
        "function_call": completion.function_call not in (None, "none", "auto"),
        "response_format": completion.response_format not in (None, ResponseFormat("text")),
        "logprobs": bool(completion.logprobs),
        "top_logprobs": bool(completion.top_logprobs),
        "logit_bias": bool(completion.logit_bias),
        "audio": completion.audio is not None,
        "modalities": completion.modalities not in (None, [], ["text"]),
    }
    for name, present in asked.items():
        if present:
            raise BadRequest(f"{name} is not supported yet with this value.", param=name)


def _check_stops(stop: str | list[str] | None) -> None:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > STOPS_MAX:
        raise BadRequest(f"At most {STOPS_MAX} stop strings are possible.", param="stop")
    if "" in stops:
        raise BadRequest("A stop string cannot be empty.", param="stop")


def _from_headers(headers: Iterable[tuple[str, str]]) -> MeshOptions:
    ours = {key.lower(): value for key, value in headers if key.lower().startswith(HEADER_PREFIX)}
    raw: dict[str, object] = {}
    for key, value in ours.items():
        name = key.removeprefix(HEADER_PREFIX).replace("-", "_")
        raw[name] = [item.strip() for item in value.split(",")] if name == "residency" else value.strip()
    try:
        return msgspec.convert(raw, MeshOptions, strict=False)
    except msgspec.ValidationError as error:
        message, name = _explained(error)
        param = HEADER_PREFIX + name.replace("_", "-")
        raise BadRequest(f"{param}: {message}", hint=_hint(name), param=param) from error


def _merge(body: MeshOptions, headers: MeshOptions) -> MeshOptions:
    """The body's options, filled up by the headers'; a contradiction is an error, for one may be a limit."""
    merged: dict[str, object] = {}
    for name in MeshOptions.__struct_fields__:
        inner, outer = getattr(body, name), getattr(headers, name)
        if None not in (inner, outer) and inner != outer:
            raise BadRequest(f"mesh.{name} contradicts the header.", param=f"mesh.{name}")
        merged[name] = outer if inner is None else inner
    return MeshOptions(**merged)  # type: ignore[arg-type]  # values come from two MeshOptions, by name


def _decode(body: bytes, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, param = _explained(error)
        raise BadRequest(f"{param}: {message}", hint=_hint(param), param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", param="body") from error
    except RecursionError as error:
        raise BadRequest("The body is nested too deeply.", param="body") from error


def _explained(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's message without its path, and the field it speaks of."""
    message, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    for pattern in (r"Object missing required field `(\w+)`", r"Object contains unknown field `(\w+)`"):
        if found := re.fullmatch(pattern, message):
            path = f"{path}.{found[1]}".lstrip(".")
    return f"{message}.", path or "body"


_CHOICES: Mapping[str, Iterable[str]] = {
    "privacy": tuple(Privacy),
    "route": tuple(Place),
    "mesh": MeshOptions.__struct_fields__,
}


def _hint(param: str) -> str:
    name = param.removeprefix("mesh.")
    if name in _CHOICES:
        return _one_of(_CHOICES[name])
    known = name in MeshOptions.__struct_fields__ or not param.startswith("mesh.")
    return "" if known else _one_of(_CHOICES["mesh"])


def _one_of(names: Iterable[str]) -> str:
    return "It is one of: " + ", ".join(names) + "."
