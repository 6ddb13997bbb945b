"""What may be kept and given again, and an answer as a row and back."""

from pathlib import Path
from typing import Any

import pytest

from meshnode.cache.exact import Skip, kept_from, kept_of, mode, question_of, recalled, row_of, skip
from meshnode.cache.key import Keys
from meshnode.seams import inline
from meshnode.state.answers import AnswerStore
from meshnode.terms import CacheMode, FinishReason, Job, Piece, Privacy, Sampling, Tool, ToolCall, Turn, Usage
from tests.cache.small_cache import DIGEST, answer, asked, said

EXACT, SEMANTIC, OFF = CacheMode.EXACT, CacheMode.SEMANTIC, CacheMode.OFF
KEYS = Keys()
DRAWN = Sampling(temperature=0.7)
TEXT = Turn(role="text", content="Once")
CALL = Turn(role="assistant", content="", tool_calls=(ToolCall("1", "look", "{}"),))


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (asked(), None),
        (asked(privacy=Privacy.PUBLIC), None),
        (asked(privacy=Privacy.SENSITIVE), Skip.PRIVACY),
        (asked(privacy=Privacy.LOCAL), Skip.PRIVACY),
        (asked(privacy=Privacy.SENSITIVE, cache=EXACT), Skip.PRIVACY),
        (asked(cache=OFF), Skip.OFF),
        (asked(facts={"tools": (Tool("look"),)}), Skip.TOOLS),
        (asked(facts={"tools": (Tool("look"),), "tool_choice": "none"}), None),
        (asked(earlier=(CALL,)), Skip.TOOLS),
        (asked(facts={"resume": (1, 2)}), Skip.NO_CHAT),
        (Job(id="1", wish=asked().wish, turns=(), inputs=("a",)), Skip.NO_CHAT),
        (Job(id="1", wish=asked().wish, turns=(TEXT,), sampling=asked().sampling), None),
        (asked(sampling=DRAWN), Skip.DRAWN),
        (asked(sampling=DRAWN, cache=EXACT), None),
    ],
)
def test_what_passes_the_cache_by(job: Job, why: Skip | None) -> None:
    assert skip(job, SEMANTIC) is why
    assert skip(job, OFF) is Skip.OFF


def test_the_nodes_setting_is_the_most_that_a_request_gets() -> None:
    assert mode(asked(), SEMANTIC) is EXACT
    assert mode(asked(cache=SEMANTIC), SEMANTIC) is SEMANTIC
    assert mode(asked(cache=SEMANTIC), EXACT) is EXACT
    assert mode(asked(cache=SEMANTIC), OFF) is OFF


def test_an_answer_that_is_kept_comes_back_as_it_was_and_nothing_of_it_was_computed() -> None:
    kept = kept_from(answer(), said("Because", " of air."))
    assert kept is not None
    assert kept_of(row_of(KEYS, asked(), kept)) == kept
    assert kept.items[0] == Piece(0, (0, 1), "Because of air.")
    assert kept.items[-1].usage == Usage(9, 2, 9)


@pytest.mark.parametrize(
    "items",
    [
        [],
        said("cut")[:1],
        said("too long", reason=FinishReason.LENGTH),
        said("called", reason=FinishReason.TOOL_CALLS),
        [Piece(0, (1,), "", (ToolCall("1", "look", "{}"),)), said()[-1]],
    ],
)
def test_what_broke_off_was_cut_or_called_is_not_kept(items: list[Any]) -> None:
    assert kept_from(answer(), items) is None


def test_an_answer_of_unknown_weights_is_not_kept() -> None:
    assert kept_from(answer(digest=b""), said("x")) is None


def test_only_a_short_question_of_a_user_can_be_searched_for() -> None:
    assert question_of(asked("Why?")) == "Why?"
    assert not question_of(asked("why " * 1000))
    last = Job(id="1", wish=asked().wish, turns=(Turn(role="assistant", content="Why?"),))
    assert not question_of(last)


def test_a_row_of_another_make_is_no_answer() -> None:
    kept = kept_from(answer(), said("x"))
    assert kept is not None
    assert kept_of(row_of(KEYS, asked(), kept)._replace(body=b"\xc1")) is None


async def test_the_best_tier_that_was_asked_for_is_recalled(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, inline, bytes_max=1 << 20, kept_ms=1000)
    for tier in (2, 6, 4):
        kept = kept_from(answer(tier=tier, digest=DIGEST[1:] + bytes([tier])), said(f"tier {tier}"))
        assert kept is not None
        await store.put(row_of(KEYS, asked(), kept), 1)
    for wish, text in (({}, "tier 6"), ({"min_tier": 5}, "tier 6"), ({"model": "smollm2:135m@q8"}, "tier 6")):
        found = await recalled(store, KEYS.ask(asked(**wish)), asked(**wish), 2)
        assert found is not None
        assert found.text == text
    assert await recalled(store, KEYS.ask(asked()), asked(model="other:1b"), 2) is None
    await store.aclose()
