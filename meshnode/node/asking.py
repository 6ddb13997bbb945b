"""A question in a program's own terms, made into a Job. It checks names and types and knows no mesh."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from meshnode.errors import BadRequest
from meshnode.terms import Job, Sampling, Turn, Wish
from meshnode.terms.job import DEADLINE_MS_MAX

CHARACTERS_PER_TOKEN = 4  # of English, roughly; for scoring only
DEADLINE_S = 300.0
_WISH = {field.name for field in msgspec.structs.fields(Wish)}
_SAMPLING = {field.name for field in msgspec.structs.fields(Sampling)}


def job_from(
    prompt: str | Sequence[Turn | Mapping[str, Any]], wishes: Mapping[str, Any], identifier: str
) -> Job:
    """The job for a prompt and wishes; raises BadRequest, which names what it does not understand."""
    given = dict(wishes)
    deadline_s = given.pop("deadline_s", DEADLINE_S)
    unknown = sorted(given.keys() - _WISH - _SAMPLING)
    if unknown:
        raise BadRequest(f"There is no wish {unknown[0]!r}.", param=unknown[0])
    turns = _turns(prompt)
    wish = _struct(Wish, {key: given[key] for key in given if key in _WISH})
    sampling = _struct(Sampling, {key: given[key] for key in given if key in _SAMPLING})
    characters = sum(len(turn.content) for turn in turns)
    return Job(
        id=identifier,
        wish=msgspec.structs.replace(
            wish,
            prompt_tokens=wish.prompt_tokens or characters // CHARACTERS_PER_TOKEN + 1,
            output_tokens=sampling.max_tokens or wish.output_tokens,
        ),
        turns=turns,
        sampling=sampling,
        deadline_ms=_milliseconds(deadline_s),
    )


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


def _struct(kind: type[Any], fields: Mapping[str, Any]) -> Any:
    try:
        return msgspec.convert(dict(fields), kind)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"{kind.__name__}: {error}.", param=str(error).rpartition("$.")[2].rstrip("`")
        ) from error
