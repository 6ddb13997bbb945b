"""Turns become a prompt through the model file's own chat template, which is hostile input.

A template runs in jinja2's immutable sandbox, under bounds on its source, its output and its time. This
module knows no tokens and no llama.cpp.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from meshnode.errors import BadRequest, EngineFailed
from meshnode.terms import Turn

SOURCE_MAX_CHARS = 64 * 1024
PROMPT_MAX_CHARS = 4 * 1024 * 1024
PRODUCT_MAX = 1 << 20  # of a `*` or `**` inside a template
RENDER_MAX_S = 2.0

# For the few models whose file carries no template: the form that most of them were trained on.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class TemplateTimeoutError(Exception):
    """The template computed for too long."""


class _RefusalError(Exception):
    """The template itself says no, through `raise_exception`."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with operators that could fill the memory in one step bounded."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset({"*", "**"})  # type: ignore[misc]

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply small things only."""
        sizes = [_size(left), _size(right)]
        too_big = max(sizes) > PRODUCT_MAX or sizes[0] * sizes[1] > PRODUCT_MAX
        if too_big or (operator == "**" and sizes[1] > 64):
            raise jinja2.exceptions.SecurityError(f"{operator} of things too large")
        return super().call_binop(context, operator, left, right)


def _size(value: object) -> int:
    if isinstance(value, str | bytes | list | tuple):
        return len(value)
    return int(min(abs(value), PRODUCT_MAX + 1)) if isinstance(value, int | float) else 1


def _raise_exception(message: object) -> NoReturn:
    raise _RefusalError(str(message)[:500])


class Template:
    """A compiled chat template. Raises EngineFailed when the source is too long or is no template."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        if len(source) > SOURCE_MAX_CHARS:
            raise EngineFailed(f"the model's chat template is {len(source)} characters long")
        sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        sandbox.globals.clear()
        sandbox.globals.update(
            range=jinja2.sandbox.safe_range,
            namespace=jinja2.utils.Namespace,
            dict=dict,
            raise_exception=_raise_exception,
            bos_token=bos,
            eos_token=eos,
        )
        try:
            self._template = sandbox.from_string(source or CHATML)
        except (jinja2.TemplateError, RecursionError) as error:
            raise EngineFailed(f"the model's chat template is not valid: {error}") from error

    def render(self, turns: Sequence[Turn]) -> str:
        """The prompt for these turns, up to where the assistant's answer begins.

        Raises BadRequest when the template refuses the turns (roles in an order it does not know), or
        breaks its bounds over them.
        """
        try:
            with _time_bound():
                return self._gather([_message(turn) for turn in turns])
        except _RefusalError as refusal:
            raise BadRequest(
                f"the model's template refuses these messages: {refusal}", param="messages"
            ) from None
        except TemplateTimeoutError:
            raise BadRequest(
                f"the model's template took over {RENDER_MAX_S:.0f} s for these messages", param="messages"
            ) from None
        except (
            jinja2.TemplateError,
            ArithmeticError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise BadRequest(
                f"the model's template cannot render these messages: {error}", param="messages"
            ) from error

    def _gather(self, messages: list[Mapping[str, str]]) -> str:
        parts: list[str] = []
        length = 0
        for part in self._template.generate(messages=messages, add_generation_prompt=True):
            parts.append(part)
            length += len(part)
            if length > PROMPT_MAX_CHARS:
                raise _RefusalError(f"the prompt would be over {PROMPT_MAX_CHARS} characters long")
        return "".join(parts)


def _message(turn: Turn) -> dict[str, str]:
    role = "system" if turn.role == "developer" else turn.role
    message = {"role": role, "content": turn.content}
    if turn.name:
        message["name"] = turn.name
    return message


@contextmanager
def _time_bound() -> Iterator[None]:
    """Interrupt pure Python after RENDER_MAX_S. Needs the main thread, where the worker renders."""

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TemplateTimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, RENDER_MAX_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
