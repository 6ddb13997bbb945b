"""A job becomes a prompt through the model file's own chat template, which is hostile input.

A template runs in a sandbox under bounds on its source, its output and its time. Where it knows no tools, or
refuses a system's turn, the job is put into words that it knows. This module knows no tokens and no llama.cpp.
"""

import re
from collections.abc import Callable, Sequence

import jinja2

from meshnode.engine.text import text_in
from meshnode.engine.worker.alarm import TooLongError, time_bound
from meshnode.engine.worker.calls import Style, style_of
from meshnode.engine.worker.jinja import Sandbox, TemplateRefusalError
from meshnode.engine.worker.messages import MISTRAL_ID_CHARS, Message, messages, plain_messages, tools
from meshnode.errors import BadRequest, EngineFailed
from meshnode.terms import Job

SOURCE_MAX_CHARS = 64 * 1024
PROMPT_MAX_CHARS = 4 * 1024 * 1024
RENDER_MAX_S = 2.0
ID_CHARS = 64
KNOWS_TOOLS = re.compile(r"\btools\b")

# For the few models whose file carries no template: the form whose mark is in their vocabulary.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('there is no role for a system') }}{% endif %}"
    "{% set role = 'model' if message.role == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + role + '\n' + message.content + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message.role + ': ' + message.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
FORMS = {"<|im_start|>": CHATML, "<start_of_turn>": GEMMA}

BROKEN = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def usual_form(is_token: Callable[[str], bool]) -> str:
    """The template for a model whose file has none, told by which marks are single tokens of its vocabulary."""
    return next((form for mark, form in FORMS.items() if is_token(mark)), PLAIN)


class Template:
    """A compiled chat template. Raises EngineFailed when the source is too long or is no template.

    `style` is the form in which it makes its model write tool calls; one that is `dated` writes the date or the
    hour, so that two machines may not make the same prompt with it.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        if len(source) > SOURCE_MAX_CHARS:
            raise EngineFailed(f"the model's chat template is {len(source)} characters long")
        self.dated = "strftime_now" in source
        self._knows_tools = bool(KNOWS_TOOLS.search(source))
        self.style = style_of(source) if self._knows_tools else Style.HERMES
        try:
            with time_bound(RENDER_MAX_S):
                self._template = Sandbox(bos_token=bos, eos_token=eos).from_string(source or PLAIN)
        except TooLongError:
            raise EngineFailed("the model's chat template takes too long to read") from None
        except (*BROKEN, SyntaxError) as error:
            raise EngineFailed(f"the model's chat template is not valid: {error}") from error

    def render(self, job: Job) -> str:
        """The prompt for a job's turns and tools, up to where the assistant's answer begins; a bare text as it is.

        Raises BadRequest when the template refuses the turns (roles in an order it does not know), or
        breaks its bounds over them.
        """
        if (text := text_in(job)) is not None:
            return text
        try:
            with time_bound(RENDER_MAX_S):
                return self._first_that_renders(self._ways(job))
        except TemplateRefusalError as refusal:
            raise BadRequest(
                f"the model's template refuses these messages: {refusal}", param="messages"
            ) from None
        except TooLongError:
            raise BadRequest(
                f"the model's template took over {RENDER_MAX_S:.0f} s for these messages", param="messages"
            ) from None
        except BROKEN as error:
            raise BadRequest(
                f"the model's template cannot render these messages: {str(error)[:500]}", param="messages"
            ) from error

    def _ways(self, job: Job) -> list[Callable[[], str]]:
        """How the job can be put, the best first."""
        with_tools = bool(job.tools) or any(turn.tool_calls or turn.role == "tool" for turn in job.turns)
        ids = MISTRAL_ID_CHARS if self.style is Style.MISTRAL else ID_CHARS
        ways: list[Callable[[], str]] = []
        if not with_tools or self._knows_tools:
            ways.append(lambda: self._gather(messages(job, id_chars=ids), tools(job)))
        if with_tools and self._knows_tools:
            ways.append(lambda: self._gather(messages(job, text_arguments=True, id_chars=ids), tools(job)))
        if with_tools and not (self._knows_tools and tools(job)):
            ways.append(lambda: self._gather(plain_messages(job), []))
        if any(turn.role in ("system", "developer") for turn in job.turns) or with_tools:
            ways.append(lambda: self._gather(plain_messages(job, system=False), []))
        return ways

    def _first_that_renders(self, ways: Sequence[Callable[[], str]]) -> str:
        """The first prompt that the template makes; what the first way met with when none does."""
        met: Exception | None = None
        for way in ways:
            try:
                return way()
            except (*BROKEN, TemplateRefusalError) as error:
                met = met or error
        assert met is not None
        raise met

    def _gather(self, turns: Sequence[Message], shown: Sequence[Message]) -> str:
        parts: list[str] = []
        length = 0
        for part in self._template.generate(messages=turns, tools=shown or None, add_generation_prompt=True):
            parts.append(part)
            length += len(part)
            if length > PROMPT_MAX_CHARS:
                raise TemplateRefusalError(f"the prompt would be over {PROMPT_MAX_CHARS} characters long")
        return "".join(parts)
