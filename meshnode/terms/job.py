"""One request, whole: it carries its own deadline and privacy, so that nobody has to ask back."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.terms.wish import Count, Wish
from meshwire.fields import grown

DEADLINE_MS_MAX = 2**32 - 1
TOOLS_MAX = 128
BIASES_MAX = 300
TOP_LOGPROBS_MAX = 20
SCHEMA_MAX_CHARS = 64 * 1024
RESUME_MAX_TOKENS = 64 * 1024
INPUTS_MAX = 256
STOP_MAX = 16
TENANT_BYTES = 16
TOOL_CHOICE_AUTO, TOOL_CHOICE_NONE, TOOL_CHOICE_REQUIRED = "auto", "none", "required"
TRACEPARENT_CHARACTERS = 55
TEXT_ROLE = "text"  # of the one turn that is no message
TOOL_CHOICE_FUNCTION = "function:"  # and the name of the one that must be called
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
ToolName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopString = Annotated[str, Meta(min_length=1, max_length=4096)]


class ToolCall(msgspec.Struct, frozen=True):
    """One call that a model makes: `arguments` is JSON text, whatever the model wrote."""

    id: Annotated[str, Meta(max_length=64)]
    name: ToolName
    arguments: str


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call; `parameters` is a JSON Schema as text, empty for none."""

    name: ToolName
    description: str = ""
    parameters: str = ""


class Output(StrEnum):
    """What shape an answer must have."""

    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation. `role` is system, user, assistant or tool.

    An assistant's turn may carry the calls it made, a tool's names the call that it answers. A turn of the role text
    stands alone: its content is the whole prompt, which no template is put around.
    """

    role: str
    content: str
    name: str = ""
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=TOOLS_MAX)] = ()
    tool_call_id: str = ""


class Bias(msgspec.Struct, frozen=True):
    """`value` is added to the logit of `token` before drawing; -100 forbids it."""

    token: U32
    value: Annotated[float, Meta(ge=-100, le=100)]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are drawn. `max_tokens` 0 means as many as the context allows; `seed` None means any.

    With `shorten` a context with room for fewer than `max_tokens` is no fault: the answer then has as many as fit.
    `logprobs` asks for the log-probability of every token, `top_logprobs` for those of the likeliest as well.
    The bounds hold for whatever is converted to this: what a program asks for, and what a peer sends.
    """

    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.8
    top_p: Share = 0.95
    top_k: Annotated[int, Meta(ge=0, le=100_000)] = 40
    min_p: Share = 0.05
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: Count = 0
    stop: Annotated[tuple[StopString, ...], Meta(max_length=STOP_MAX)] = ()
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    logit_bias: Annotated[tuple[Bias, ...], Meta(max_length=BIASES_MAX)] = ()
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=TOP_LOGPROBS_MAX)] = 0
    shorten: Annotated[bool, grown(64)] = False


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What goes in at the top of the walk.

    `id` is unique per request and appears in logs on every hop. `deadline_ms` is the time that is left, never
    a point in time, so that clocks need not agree. `tenant_tag` separates callers without naming them; those that
    have its first TENANT_BYTES in common share one tenant's turn.
    `tool_choice` is auto, none, required or `function:NAME`. `schema` is JSON Schema as text, for the output
    that needs one. `resume` holds the ids of those answer tokens that were written before, elsewhere: the
    answer goes on with the next index. A job with `inputs` has no turns: it asks for one vector for each.
    `price_usd` is what its sender reckons with, in USD for a million answer tokens: who asks more must not serve it.
    `trace` is the W3C `traceparent` of the step that it is part of; whoever does not trace hands it on.
    """

    id: str
    wish: Wish
    turns: tuple[Turn, ...]
    sampling: Sampling = Sampling()
    deadline_ms: Annotated[int, Meta(ge=1, le=DEADLINE_MS_MAX)] = 300_000
    tenant_tag: Annotated[bytes, Meta(max_length=64)] = b""
    tools: Annotated[tuple[Tool, ...], Meta(max_length=TOOLS_MAX)] = ()
    tool_choice: Annotated[str, Meta(max_length=128)] = TOOL_CHOICE_AUTO
    parallel_tool_calls: bool = True
    output: Output = Output.TEXT
    schema: Annotated[str, Meta(max_length=SCHEMA_MAX_CHARS)] = ""
    resume: Annotated[tuple[U32, ...], Meta(max_length=RESUME_MAX_TOKENS)] = ()
    inputs: Annotated[tuple[str, ...], Meta(max_length=INPUTS_MAX)] = ()
    trace: Annotated[str, Meta(max_length=TRACEPARENT_CHARACTERS), grown(64)] = ""
    price_usd: Annotated[Annotated[float, Meta(ge=0)] | None, grown(65)] = None

    @property
    def is_text(self) -> bool:
        """Whether it asks how a text goes on, and for no answer in a conversation."""
        return any(turn.role == TEXT_ROLE for turn in self.turns)
