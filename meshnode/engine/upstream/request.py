"""A Job as the body of OpenAI's requests. Pure; who asks, and under which id, is never told to an upstream."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from meshnode.errors import BadRequest
from meshnode.terms import Job, Output, Sampling, Tool, Turn
from meshnode.terms.job import TOOL_CHOICE_FUNCTION

SCHEMA_NAME = "answer"
_USUAL = Sampling()

Body = dict[str, Any]


def chat_body(job: Job, model: str, more: Mapping[str, Any] = MappingProxyType({})) -> Body:
    """The body for `chat/completions`, streamed, with usage. `model` is the upstream's own id.

    `more` are fields that only this kind of server knows.

    Raises BadRequest for a schema that is not JSON, and for a bare text, which is no chat.
    """
    if job.is_text:
        raise BadRequest("This server is asked for chats, not for how a text goes on.", param="messages")
    body: Body = {
        "model": model,
        "messages": [_message(turn) for turn in job.turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(job.sampling),
        **more,
    }
    if job.tools:
        body |= _tools(job)
    if job.output is not Output.TEXT:
        body["response_format"] = _format(job)
    return body


def embedding_body(job: Job, model: str) -> Body:
    """The body for `embeddings`."""
    return {"model": model, "input": list(job.inputs), "encoding_format": "float"}


def _message(turn: Turn) -> Body:
    message: Body = {"role": turn.role, "content": turn.content}
    if turn.name:
        message["name"] = turn.name
    if turn.tool_call_id:
        message["tool_call_id"] = turn.tool_call_id
    if turn.tool_calls:
        message["content"] = turn.content or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]
    return message


def _sampling(sampling: Sampling) -> Body:
    """What OpenAI knows goes always or when it was asked for; what only some servers know, when it was.

    A field that is none of OpenAI's makes some servers refuse the whole request.
    """
    body: Body = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    asked = {
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens or None,
        "stop": list(sampling.stop) or None,
        "presence_penalty": sampling.presence_penalty or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "logit_bias": {str(bias.token): bias.value for bias in sampling.logit_bias} or None,
        "logprobs": sampling.logprobs or None,
        "top_logprobs": sampling.top_logprobs or None,
    }
    body |= {name: value for name, value in asked.items() if value is not None}
    body |= {
        name: getattr(sampling, name)
        for name in ("top_k", "min_p", "repeat_penalty")
        if getattr(sampling, name) != getattr(_USUAL, name)
    }
    if "repeat_penalty" in body:
        body["repetition_penalty"] = body["repeat_penalty"]  # the name that vLLM has for it
    return body


def _tools(job: Job) -> Body:
    named = job.tool_choice.removeprefix(TOOL_CHOICE_FUNCTION)
    choice: object = job.tool_choice
    if named != job.tool_choice:
        choice = {"type": "function", "function": {"name": named}}
    body: Body = {"tools": [_tool(tool) for tool in job.tools], "tool_choice": choice}
    if not job.parallel_tool_calls:
        body["parallel_tool_calls"] = False
    return body


def _tool(tool: Tool) -> Body:
    function: Body = {"name": tool.name, "description": tool.description}
    if tool.parameters:
        function["parameters"] = _schema(tool.parameters, "tools")
    return {"type": "function", "function": function}


def _format(job: Job) -> Body:
    if job.output is Output.JSON_OBJECT:
        return {"type": "json_object"}
    schema = {"name": SCHEMA_NAME, "schema": _schema(job.schema, "response_format"), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _schema(text: str, param: str) -> Any:
    """The schema as data: pasted in as text, it could add to the body whatever it liked."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"A schema is not valid JSON: {error}.", param=param) from None
