"""What a job needs of a node follows from what it uses."""

import random
from typing import Any

import msgspec
import pytest

from meshnode.errors import NoCandidate
from meshnode.routing.plan import make_plan
from meshnode.serve.needs import needs_of, with_needs
from meshnode.terms import Feature, Job, Output, Sampling, Tool, Turn
from tests.routing.offers import card, job, offer

TOOLS = (Tool("look"),)
TEXT = Turn(role="text", content="Once")


@pytest.mark.parametrize(
    ("used", "needed"),
    [
        ({}, ()),
        ({"tools": TOOLS}, (Feature.TOOLS,)),
        ({"tools": TOOLS, "tool_choice": "none"}, ()),
        ({"output": Output.JSON_OBJECT}, (Feature.JSON_SCHEMA,)),
        ({"output": Output.JSON_SCHEMA}, (Feature.JSON_SCHEMA,)),
        ({"sampling": Sampling(logprobs=True)}, (Feature.LOGPROBS,)),
        ({"inputs": ("a",)}, (Feature.EMBEDDINGS,)),
        ({"resume": (1,)}, (Feature.TOKEN_IDS,)),
        ({"turns": (TEXT,)}, (Feature.TEXT,)),
        ({"turns": (TEXT,), "resume": (1,)}, (Feature.TOKEN_IDS, Feature.TEXT)),
        ({"turns": (Turn(role="user", content="hi"),)}, ()),
    ],
)
def test_needs(used: dict[str, Any], needed: tuple[Feature, ...]) -> None:
    assert needs_of(msgspec.structs.replace(job(), **used)) == needed


def test_a_node_that_cannot_is_not_chosen_and_a_small_one_that_can_is() -> None:
    able, unable = card(features=(Feature.TOOLS,)), card("qwen3:8b")
    calling = with_needs(msgspec.structs.replace(job(model=""), tools=TOOLS))
    plan = make_plan(calling, [offer(1, model=unable), offer(2, model=able)], rng=random.Random(1))
    assert [choice.candidate.card.name for choice in plan.choices] == [able.name]
    nobody = make_plan(calling, [offer(1, model=unable)], rng=random.Random(1))
    assert isinstance(nobody.refusal(), NoCandidate)


def test_features_that_were_wished_for_stay() -> None:
    asked: Job = with_needs(msgspec.structs.replace(job(features=("fast",)), tools=TOOLS))
    assert asked.wish.features == ("fast", "tools")
