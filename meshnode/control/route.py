"""Why a request would run where it would: the verb `route`, a dry run of the same decision. It asks nobody."""

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.control.verbs import Arguments, Emit, Verb, read_arguments
from meshnode.routing.decision import DecisionView
from meshnode.terms import Job, Place, Privacy, Wish

Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Label = Annotated[str, Meta(min_length=1, max_length=64)]


class RouteArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the request would ask for: as the fields of a Wish."""

    model: Annotated[str, Meta(max_length=256)] = ""
    privacy: Privacy = Privacy.PRIVATE
    place: Place = Place.PREFER_LOCAL
    min_tier: Annotated[int, Meta(ge=0, le=6)] = 0
    prompt_tokens: Tokens = 500
    output_tokens: Tokens = 256
    residency: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()


def route_verb(explain: Callable[[Job], DecisionView]) -> Verb:
    """The verb, over a function that makes the decision for a job."""

    async def route(given: Arguments, _emit: Emit) -> DecisionView:
        wish = Wish(**msgspec.structs.asdict(read_arguments(RouteArguments, given)))
        return explain(Job(id="explain", wish=wish, turns=()))

    return route
