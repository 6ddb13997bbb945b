"""What a job's answer is held to: from its first token on, or from the marker that opens a tool call. Pure."""

from typing import NamedTuple

from meshnode.engine.worker import schema as schemas
from meshnode.engine.worker.calls import FORMS, Style, callable_tools, grammar_of, must_call
from meshnode.engine.worker.grammar import Grammar, quote
from meshnode.errors import BadRequest
from meshnode.terms import Job, Output

OUTPUT_PARAM = "response_format"
MARKUP_CHARS = 64  # of a call, around its arguments


class Constraint(NamedTuple):
    """A grammar in GBNF that holds after `opening`; empty holds at once. Its least answer has `shortest` chars."""

    text: str
    opening: str
    shortest: int


def output_schema(job: Job) -> schemas.Schema | None:
    """The schema of a structured answer, or None for free text. Raises BadRequest."""
    if job.output is Output.TEXT:
        return None
    if job.output is Output.JSON_OBJECT:
        return schemas.ANY_OBJECT
    if not job.schema:
        raise BadRequest("response_format asks for a schema, but there is none", param=OUTPUT_PARAM)
    return schemas.read(job.schema, OUTPUT_PARAM)


def constrain(job: Job, style: Style) -> Constraint | None:
    """The constraint of a job, or None. Raises BadRequest for a schema or a tool choice that cannot be held."""
    tools, schema = callable_tools(job), output_schema(job)
    if not tools and schema is None:
        return None
    opening = FORMS[style].opening
    grammar = Grammar(OUTPUT_PARAM if schema is not None else "tools")
    if schema is None:
        calls = grammar_of(job, style, grammar)
        if must_call(job):
            return Constraint(grammar.text(f"{quote(opening)} {calls}"), "", MARKUP_CHARS)
        return Constraint(grammar.text(calls), opening, MARKUP_CHARS)
    output = grammar.add(schema)
    root, shortest = output.rule, output.shortest
    if tools:
        calls = f"{quote(opening)} {grammar_of(job, style, grammar)}"
        root = calls if must_call(job) else f"{root} | {calls}"
    return Constraint(grammar.text(root), "", shortest)
