"""How good models are held to be: published scores, the owner's before them, and the size where nobody has said."""

import pytest

from meshnode.routing.quality import PUBLISHED, TASKS, Qualities, parameters, points_lost, points_of_size
from meshnode.terms import Rating
from tests.routing.offers import card


def whole(name: str, **facts) -> object:
    return card(name, tier=6, **facts)


def test_every_published_score_has_a_source_and_a_size() -> None:
    for rating in PUBLISHED:
        assert rating.source
        assert any(getattr(rating, task) is not None for task in TASKS)
        assert parameters(rating.name.partition(":")[2]) != parameters("")
    assert len({rating.name for rating in PUBLISHED}) == len(PUBLISHED)


def test_what_is_published_counts_by_task_and_the_name_in_any_case() -> None:
    known = Qualities()
    assert known.points(whole("Qwen2.5:7b"), "code") == pytest.approx(84.8 - points_lost(6))
    assert known.points(whole("qwen2.5:7b"), "chat") == known.points(whole("qwen2.5:7b"))


def test_the_owners_word_comes_first_for_the_tasks_it_is_about() -> None:
    known = Qualities([Rating(name="qwen2.5:7b", code=10.0)])
    assert known.points(whole("qwen2.5:7b"), "code") == pytest.approx(10.0 - points_lost(6))
    assert known.points(whole("qwen2.5:7b"), "reason") == pytest.approx(91.6 - points_lost(6))


def test_what_nobody_has_rated_goes_by_its_size_up_to_a_point() -> None:
    known = Qualities()
    costs = [known.points(whole(f"mine:{size}")) for size in ("135m", "1b", "8b", "70b")]
    assert costs == sorted(costs)
    assert points_of_size("900b") == points_of_size("700b")
    assert known.points(whole("smollm2:135m"), "code") == pytest.approx(30.0 - points_lost(6))


def test_a_quant_costs_more_the_coarser_it_is() -> None:
    assert [points_lost(tier) for tier in (6, 5, 4, 3, 2)] == pytest.approx([0.1, 0.3, 0.9, 2.7, 8.1])


@pytest.mark.parametrize(
    ("size", "count"), [("135m", 135e6), ("8b", 8e9), ("1.7B", 1.7e9), ("8x7b", 56e9), ("", 1e8)]
)
def test_sizes(size: str, count: float) -> None:
    assert parameters(size) == pytest.approx(count)
