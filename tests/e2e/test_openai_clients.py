"""OpenAI's own clients (plain, asyncio, trio, Node) at a node without a model, the worker two links away."""

import asyncio
import json
import math
from collections.abc import Callable

import pytest
import trio

from tests.e2e.clients import Told, awaited, in_node, plain, why_no_node
from tests.e2e.test_openai_features import Report
from tests.e2e.world import Line

pytestmark = [
    pytest.mark.model,
    # The client lets go of its own generators without closing them.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]

CLIENTS: dict[str, Callable[[str], Told]] = {
    "plain": plain,
    "asyncio": lambda url: asyncio.run(awaited(url)),
    "trio": lambda url: trio.run(awaited, url),
    "node": in_node,
}
RESPONSES = 5  # the tool takes two


@pytest.fixture(scope="module", params=CLIENTS)
def told(request: pytest.FixtureRequest, line: Line) -> Told:
    """What a client was told by A, which has no model: C has, and A reaches it through B alone."""
    if request.param == "node" and (why := why_no_node()):
        pytest.skip(why)
    return CLIENTS[request.param](trio.run(line.a.api_url))


def test_every_answer_came_over_two_links(told: Told) -> None:
    ways = [[node.partition("#")[0] for node in path.split(",")] for path in told.paths]
    assert ways == [["A", "B", "C"]] * RESPONSES


def test_an_answer_is_streamed(told: Told) -> None:
    assert len(told.streamed.pieces) > 1
    assert "".join(told.streamed.pieces).strip()
    assert (told.streamed.finish_reason, told.streamed.tokens) == ("length", 24)


def test_a_tool_is_called_and_its_result_taken(told: Told) -> None:
    assert (told.called.finish_reason, told.called.name) == ("tool_calls", "weather")
    assert 0 < len(json.loads(told.called.arguments)["city"]) <= 20
    assert told.called.said.strip()


def test_an_answer_has_the_shape_asked_for(told: Told) -> None:
    Report.model_validate_json(told.structured)


def test_texts_become_vectors(told: Told) -> None:
    dogs, hounds, taxes = told.embedded
    assert math.hypot(*dogs) == pytest.approx(1, abs=1e-4)
    assert math.dist(dogs, hounds) < math.dist(dogs, taxes)
