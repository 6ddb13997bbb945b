"""The key: what makes two requests one, and that everything else keeps them apart."""

from typing import Any

import msgspec
import pytest

from meshnode.cache.key import NOT_ASKED, Keys, fits
from meshnode.terms import Output, Place, Privacy, Sampling, Tool, Turn, Wish
from tests.cache.small_cache import asked
from tests.routing.offers import card

KEYS = Keys(b"1")


def test_the_same_request_has_the_same_key_whoever_estimates_it_and_whenever() -> None:
    again = msgspec.structs.replace(asked(prompt_tokens=9, output_tokens=1), id="req-2", deadline_ms=1)
    assert KEYS.ask(asked()) == KEYS.ask(again)


@pytest.mark.parametrize(
    "other",
    [
        asked(tenant=b"t"),
        asked("Why is the sea blue?"),
        asked(earlier=(Turn(role="system", content="Be brief."),)),
        asked(privacy=Privacy.PUBLIC),
        asked(place=Place.LOCAL),
        asked(residency=("eu",)),
        asked(signed_by=("ab",)),
        asked(sampling=Sampling(temperature=0.1)),
        asked(sampling=Sampling(temperature=0.0, seed=1)),
        asked(sampling=Sampling(temperature=0.0, max_tokens=5)),
        asked(sampling=Sampling(temperature=0.0, stop=("x",))),
        asked(facts={"output": Output.JSON_SCHEMA, "schema": "{}"}),
        asked(facts={"tools": (Tool("look"),)}),
        asked(model="auto"),
    ],
)
def test_whatever_may_change_the_answer_changes_the_key(other: Any) -> None:
    keys = {KEYS.ask(asked()), KEYS.ask(other), KEYS.namespace(asked()), KEYS.flight(asked())}
    assert len(keys) == 4


def test_another_version_or_setting_of_the_node_has_other_keys() -> None:
    assert KEYS.ask(asked()) != Keys(b"2").ask(asked())


def test_only_what_was_said_last_is_left_out_of_the_namespace() -> None:
    assert KEYS.namespace(asked("a")) == KEYS.namespace(asked("b"))
    for other in (
        asked(tenant=b"t"),
        asked(earlier=(Turn(role="user", content="x"),)),
        asked(privacy=Privacy.PUBLIC),
    ):
        assert KEYS.namespace(asked()) != KEYS.namespace(other)


def test_a_wish_that_is_new_is_in_the_key_unless_it_is_named_as_an_estimate() -> None:
    assert set(Wish.__struct_fields__) > NOT_ASKED


def test_names_of_one_model_share_a_key_but_no_flight() -> None:
    named, exact = asked(), asked(model="sha256:" + "00" * 32)
    assert KEYS.ask(named) == KEYS.ask(exact)
    assert KEYS.flight(named) != KEYS.flight(exact)
    assert KEYS.flight(named) != KEYS.flight(asked(min_tier=3))


@pytest.mark.parametrize(
    ("wish", "does"),
    [
        ({}, True),
        ({"min_tier": 2}, True),
        ({"min_tier": 3}, False),
        ({"model": "smollm2:135m@q8"}, False),
        ({"model": "smollm2"}, True),
        ({"model": "other:1b"}, False),
        ({"model": "auto"}, True),
    ],
)
def test_an_answer_serves_an_equal_or_lower_tier_of_the_model_asked_for(
    wish: dict[str, Any], does: bool
) -> None:
    assert fits(asked(**wish), card(tier=2)) is does
