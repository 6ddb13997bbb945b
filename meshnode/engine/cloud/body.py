"""A Job as the body of a request to a commercial API, and the same without what must not leave. Pure."""

from collections.abc import Callable
from typing import Any

import msgspec

from meshnode.engine.cloud.offer import most_answer_tokens
from meshnode.engine.upstream.request import Body, chat_body, embedding_body
from meshnode.terms import CloudApi, CloudModel, Job, Sampling, Tool, ToolCall, Turn

_USUAL = Sampling()
Change = Callable[[str], str]


def cloud_body(job: Job, api: CloudApi, model: CloudModel) -> Body:
    """The body, with the longest answer in it: what is held for the request is enough only if that is kept.

    Sampling that nobody asked for is left out: some models refuse every temperature but their own.
    """
    if job.inputs:
        return embedding_body(job, model.id)
    body = chat_body(job, model.id)
    for name in ("temperature", "top_p"):
        if getattr(job.sampling, name) == getattr(_USUAL, name):
            body.pop(name, None)
    body.pop("max_tokens", None)
    body[api.limit_field] = most_answer_tokens(job, model)
    return body


def changed(job: Job, change: Change) -> Job:
    """The job with every text that a person may have written changed. JSON stays JSON."""
    return msgspec.structs.replace(
        job,
        turns=tuple(_changed_turn(turn, change) for turn in job.turns),
        tools=tuple(_changed_tool(tool, change) for tool in job.tools),
        schema=changed_json(job.schema, change),
        inputs=tuple(map(change, job.inputs)),
        sampling=msgspec.structs.replace(job.sampling, stop=tuple(map(change, job.sampling.stop))),
    )


def changed_json(text: str, change: Change) -> str:
    """JSON with each of its strings changed; a text that is none is changed as it is."""
    if not text:
        return text
    try:
        return msgspec.json.encode(_walked(msgspec.json.decode(text), change)).decode()
    except (msgspec.DecodeError, RecursionError):
        return change(text)


def _walked(value: Any, change: Change) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_walked(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _walked(item, change) for key, item in value.items()}
    return value


def _changed_turn(turn: Turn, change: Change) -> Turn:
    calls = tuple(changed_call(call, change) for call in turn.tool_calls)
    name = turn.name if turn.role == "tool" else ""  # a person's may not be written with a placeholder
    return msgspec.structs.replace(turn, content=change(turn.content), name=name, tool_calls=calls)


def changed_call(call: ToolCall, change: Change) -> ToolCall:
    """The call with its arguments changed."""
    return msgspec.structs.replace(call, arguments=changed_json(call.arguments, change))


def _changed_tool(tool: Tool, change: Change) -> Tool:
    return msgspec.structs.replace(
        tool, description=change(tool.description), parameters=changed_json(tool.parameters, change)
    )
