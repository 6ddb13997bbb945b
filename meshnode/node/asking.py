"""A question in a program's own terms, made into a Job. It checks names and types and knows no mesh."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from meshnode.errors import BadRequest
from meshnode.terms import Candidate, Job, Output, Sampling, Turn, Wish
from meshnode.terms.job import DEADLINE_MS_MAX

CHARACTERS_PER_TOKEN = 4  # of English, roughly; for scoring only
DEADLINE_S = 300.0
_WISH = {field.name for field in msgspec.structs.fields(Wish)}
_SAMPLING = {field.name for field in msgspec.structs.fields(Sampling)}
_JOB = {"tools", "tool_choice", "parallel_tool_calls", "output", "schema", "resume", "trace"}
TagOf = Callable[[str], bytes]


def job_from(
    prompt: str | Sequence[Turn | Mapping[str, Any]],
    wishes: Mapping[str, Any],
    identifier: str,
    tag_of: TagOf,
) -> Job:
    """The job for a prompt and wishes; raises BadRequest, which names what it does not understand."""
    return _job({"turns": _turns(prompt)}, wishes, _JOB | _SAMPLING, identifier, tag_of)


def naming(job: Job, candidate: Candidate) -> Job:
    """The job with the model that was chosen, by digest, so that the other end runs that one and no other, and with
    the price that was reckoned with.
    """
    wish = msgspec.structs.replace(job.wish, model=f"sha256:{candidate.card.digest.hex()}")
    return msgspec.structs.replace(job, wish=wish, price_usd=candidate.price_usd)


def embedding_job(
    texts: str | Sequence[str], wishes: Mapping[str, Any], identifier: str, tag_of: TagOf
) -> Job:
    """The job for one vector a text; raises BadRequest."""
    inputs = (texts,) if isinstance(texts, str) else tuple(texts)
    if not inputs or not all(isinstance(text, str) and text for text in inputs):
        raise BadRequest("Every text must be one, and not be empty.", param="texts")
    return _job({"turns": (), "inputs": inputs}, {"output_tokens": 0, **wishes}, set(), identifier, tag_of)


def _job(
    fixed: dict[str, Any], wishes: Mapping[str, Any], known: set[str], identifier: str, tag_of: TagOf
) -> Job:
    given = dict(wishes)
    deadline_s, tenant = given.pop("deadline_s", DEADLINE_S), given.pop("tenant", "")
    unknown = sorted(given.keys() - _WISH - known)
    if unknown:
        raise BadRequest(f"There is no wish {unknown[0]!r}.", param=unknown[0])
    facts = {**fixed, **_shaped({key: given[key] for key in given if key in _JOB})}
    sampling = _sampling({key: given[key] for key in given if key in _SAMPLING})
    wish = _struct(Wish, {key: given[key] for key in given if key in _WISH})
    wish = msgspec.structs.replace(
        wish,
        prompt_tokens=wish.prompt_tokens or _characters(fixed) // CHARACTERS_PER_TOKEN + 1,
        output_tokens=sampling.max_tokens or wish.output_tokens,
    )
    job: Job = _struct(Job, {"id": identifier, "wish": wish, "sampling": sampling, **facts})
    return msgspec.structs.replace(
        job, deadline_ms=_milliseconds(deadline_s), tenant_tag=_tag(tenant, tag_of)
    )


def _characters(fixed: dict[str, Any]) -> int:
    return sum(len(turn.content) for turn in fixed["turns"]) + sum(map(len, fixed.get("inputs", ())))


def _tag(tenant: Any, tag_of: TagOf) -> bytes:
    if not isinstance(tenant, str):
        raise BadRequest("A tenant is named by a text.", param="tenant")
    return tag_of(tenant)


def _milliseconds(deadline_s: Any) -> int:
    if not isinstance(deadline_s, int | float) or not 0 < deadline_s <= DEADLINE_MS_MAX / 1000:
        raise BadRequest("A deadline is a number of seconds above 0.", param="deadline_s")
    return max(1, int(deadline_s * 1000))


def _turns(prompt: str | Sequence[Turn | Mapping[str, Any]]) -> tuple[Turn, ...]:
    if isinstance(prompt, str):
        return (Turn(role="user", content=prompt),)
    if not prompt:
        raise BadRequest("There are no messages.", param="prompt")
    return tuple(turn if isinstance(turn, Turn) else _struct(Turn, turn) for turn in prompt)


def _shaped(given: dict[str, Any]) -> dict[str, Any]:
    """Tools and schemas, which a program may give as it has them: as structs, mappings, or JSON text."""
    if "schema" in given:
        given["schema"] = _json_text(given["schema"], "schema")
        given.setdefault("output", Output.JSON_SCHEMA)
    if isinstance(given.get("tools"), list | tuple):
        given["tools"] = [_tool(tool) for tool in given["tools"]]
    return given


def _tool(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    return {**given, "parameters": _json_text(given.get("parameters", ""), "tools")}


def _json_text(given: Any, param: str) -> str:
    if isinstance(given, str):
        return given
    try:
        return json.dumps(given)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"That is no JSON: {error}.", param=param) from error


def _sampling(given: dict[str, Any]) -> Sampling:
    biases = given.get("logit_bias", ())
    if isinstance(biases, Mapping):
        given["logit_bias"] = tuple({"token": token, "value": value} for token, value in biases.items())
    sampling: Sampling = _struct(Sampling, given)
    if sampling.top_logprobs and not sampling.logprobs:
        raise BadRequest("top_logprobs is only possible with logprobs.", param="top_logprobs")
    return sampling


def _struct(kind: type[Any], fields: Mapping[str, Any]) -> Any:
    try:
        return msgspec.convert(dict(fields), kind)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"{kind.__name__}: {error}.", param=str(error).rpartition("$.")[2].rstrip("`")
        ) from error
