"""What stays in the cache and who finds it, over a model of numbers whose every draw checks its context."""

import pytest

pytest.importorskip("llama_cpp", reason="the loop's module needs llama-cpp-python")

from meshnode.engine.worker import sequence as sequence_module
from meshnode.engine.worker.frames import Cancel
from tests.engine.fake_model import FakeModel, FakeSampler, FakeTemplate
from tests.engine.stage import Stage


@pytest.fixture(autouse=True)
def _fake_sampler(monkeypatch):
    FakeSampler.live = 0
    monkeypatch.setattr(sequence_module, "Sampler", FakeSampler)


def make(*, shelf=0, **model):
    """A stage without a shelf, or with one of so many cells."""
    return Stage(FakeModel(**model), FakeTemplate(), embedder=None, shelf_bytes=shelf)


def numbers(first, last):
    return " ".join(map(str, range(first, last)))


def cached(stage, number, prompt, **parts):
    stage.ask(number, prompt, **({"scope": b"a", "max_tokens": 4} | parts))
    return stage.until_ended(number).cached_tokens


def test_the_next_turn_computes_only_what_is_new():
    stage = make()
    assert cached(stage, 1, numbers(200, 300)) == 0
    # All of the first turn but its last token, which was drawn and never computed.
    answer = numbers(101, 105)
    assert cached(stage, 2, f"{numbers(200, 300)} {answer} 50 51") == 103
    assert sum(stage.model.sizes[-4:]) == 3 + 3
    assert stage.inspect().idle == 1


def test_the_same_prompt_again_computes_one_token():
    stage = make()
    cached(stage, 1, numbers(200, 300))
    assert cached(stage, 2, numbers(200, 300)) == 99


def test_nothing_is_shared_across_scopes_and_nothing_stays_without_one():
    stage = make()
    cached(stage, 1, numbers(200, 300))
    assert cached(stage, 2, numbers(200, 300), scope=b"b") == 0
    assert cached(stage, 3, numbers(200, 300), scope=b"") == 0
    assert cached(stage, 4, numbers(200, 300), scope=b"") == 0
    assert stage.inspect().idle == 2


def test_a_beginning_is_copied_and_its_cells_are_counted_once():
    stage = make()
    system = numbers(200, 300)
    cached(stage, 1, f"{system} {numbers(300, 400)}")
    assert cached(stage, 2, f"{system} {numbers(500, 600)}") == 100
    held = stage.inspect()
    assert held.idle == held.occupied == 2
    assert held.cells == stage.model.used == 100 + 2 * 103
    assert cached(stage, 3, f"{system} {numbers(300, 400)} 5") == 200


def test_runs_that_come_together_compute_their_common_beginning_once():
    stage = make(slots=4)
    for number in range(1, 5):
        stage.ask(number, f"{numbers(200, 500)} {number}", scope=b"a", max_tokens=3)
    ends = [stage.until_ended(number) for number in range(1, 5)]
    assert [end.cached_tokens for end in ends] == [0, 300, 300, 300]
    assert sum(stage.model.sizes) == 301 + 3 + 4 * 2
    assert stage.inspect(forget=True).cells == stage.model.used == 0


def test_the_leader_of_a_common_beginning_may_leave():
    stage = make()
    for number in (1, 2):
        stage.ask(number, numbers(200, 600), scope=b"a", max_tokens=3)
    stage.loop.turn()
    stage.commands.append(Cancel(1))
    # What the first had computed is used all the same.
    assert stage.until_ended(2).cached_tokens == 128


def test_a_shared_beginning_leaves_room_that_runs_alone_would_not_have():
    stage = make(cells=300, context=300)
    system = numbers(200, 400)
    cached(stage, 1, system)
    for number in (2, 3, 4):
        stage.ask(number, f"{system} {number}", scope=b"a", max_tokens=10)
    for _ in range(3):
        stage.loop.turn()
    assert stage.inspect().occupied == 3
    stage.until_ended(2, 3, 4)


def test_idle_sequences_go_when_cells_are_needed_the_oldest_first():
    stage = make(cells=300, context=300)
    cached(stage, 1, numbers(200, 300))
    cached(stage, 2, numbers(300, 400))
    cached(stage, 3, numbers(200, 300))
    cached(stage, 4, numbers(400, 500))
    assert cached(stage, 5, numbers(200, 300), max_tokens=1) == 99
    assert cached(stage, 6, numbers(300, 400)) == 0


def test_idle_sequences_go_when_sequences_are_needed():
    stage = make(slots=1, idle=1)
    for number in range(1, 4):
        cached(stage, number, numbers(100 * number, 100 * number + 50))
    assert stage.inspect().idle == 2
    assert cached(stage, 4, numbers(100, 150)) == 0
    assert cached(stage, 5, numbers(300, 350)) == 49


def test_what_somebody_else_holds_anyway_is_not_kept_twice():
    stage = make()
    cached(stage, 1, numbers(200, 300))
    stage.ask(2, numbers(200, 300), scope=b"a", max_tokens=50)
    stage.loop.turn()
    stage.ask(3, numbers(200, 300), scope=b"a", max_tokens=1)
    stage.until_ended(2, 3)
    assert stage.inspect().idle == 1


def test_a_cancelled_prompt_is_found_as_far_as_it_was_read():
    stage = make()
    stage.ask(1, numbers(200, 600), scope=b"a")
    stage.loop.turn()
    stage.commands.append(Cancel(1))
    assert cached(stage, 2, numbers(200, 600)) == 128


def test_a_resumed_answer_finds_prompt_and_answer():
    stage = make()
    cached(stage, 1, numbers(200, 300), max_tokens=8)
    stage.ask(2, numbers(200, 300), scope=b"a", resume=tuple(range(101, 106)), max_tokens=8)
    end = stage.until_ended(2)
    assert (end.cached_tokens, end.prompt_tokens, end.completion_tokens) == (100, 100, 8)
    assert sum(stage.model.sizes[-3:]) == 3


def test_a_model_whose_memory_is_a_state_is_continued_at_its_very_end_or_not_at_all():
    stage = make(idle=0)
    stage.model.whole_only = True
    cached(stage, 1, numbers(200, 300))
    assert cached(stage, 2, f"{numbers(200, 300)} 50") == 0
    assert cached(stage, 3, f"{numbers(200, 300)} {numbers(101, 105)} 50") == 103
    for number in (4, 5):
        stage.ask(number, numbers(600, 900), scope=b"a", max_tokens=2)
    assert stage.until_ended(4, 5).cached_tokens == 0


def test_a_window_that_was_lost_is_not_continued():
    stage = make()
    stage.model.window = 50
    cached(stage, 1, numbers(200, 300))
    assert cached(stage, 2, f"{numbers(200, 240)} 50") == 40
    assert cached(stage, 3, f"{numbers(200, 299)} 50") == 0


def test_moved_out_and_idle_together_never_over_commit(monkeypatch):
    monkeypatch.setattr(sequence_module, "EXPECTED_ANSWER_TOKENS", 5)
    stage = make(cells=128, context=128)
    for number in range(1, 13):
        stage.ask(number, f"{numbers(200, 230)} {number}", scope=b"a", max_tokens=60)
    for number in range(1, 13):
        assert stage.until_ended(number).completion_tokens == 60
    assert stage.inspect(forget=True).cells == stage.model.used == 0
    assert FakeSampler.live == 0


def test_what_is_idle_leaves_the_cache_while_others_compute_and_comes_back():
    stage = make(shelf=1000)
    cached(stage, 1, numbers(200, 300))
    assert stage.model.used == 103  # nobody else computes: it stays
    cached(stage, 2, numbers(500, 600), scope=b"b")
    assert stage.model.used == 103
    assert stage.inspect().idle == 2
    answer = numbers(101, 105)
    assert cached(stage, 3, f"{numbers(200, 300)} {answer} 50 51") == 103
    assert stage.inspect().idle == 2  # the first is not kept a second time
    assert stage.inspect(forget=True).idle == 0
    assert stage.model.used == 0


def test_a_beginning_comes_back_for_another_conversation_and_stays_for_its_own():
    stage = make(shelf=1000)
    system = numbers(200, 300)
    cached(stage, 1, f"{system} {numbers(300, 400)}")
    cached(stage, 2, "7", scope=b"b")
    assert cached(stage, 3, f"{system} {numbers(400, 420)}") == 100
    assert cached(stage, 4, f"{system} {numbers(300, 400)} 1") == 200


def test_nothing_is_found_on_another_scopes_shelf_or_without_a_scope():
    stage = make(shelf=1000)
    cached(stage, 1, numbers(200, 300))
    cached(stage, 2, "7", scope=b"b")
    assert cached(stage, 3, numbers(200, 300), scope=b"b") == 0
    assert cached(stage, 4, numbers(200, 300), scope=b"") == 0


def test_the_least_recently_used_leave_the_shelf_and_what_is_too_large_stays_in_the_cache():
    stage = make(shelf=250)
    for number in range(3):
        cached(stage, number, numbers(200 + 100 * number, 300 + 100 * number))
    cached(stage, 3, "7", scope=b"b")
    assert [cached(stage, 10 + n, numbers(200 + 100 * n, 300 + 100 * n)) for n in range(3)] == [0, 99, 99]
    stage = make(shelf=50)
    cached(stage, 1, numbers(200, 300))
    cached(stage, 2, "7", scope=b"b")
    assert cached(stage, 3, numbers(200, 300)) == 99


def test_what_comes_back_is_not_pushed_out_by_those_who_make_room_for_it():
    stage = make(shelf=150, idle=8)
    cached(stage, 1, numbers(200, 300))
    cached(stage, 2, "7", scope=b"b")
    cached(stage, 3, numbers(500, 600), scope=b"c")  # idle in the cache: on the shelf there is room for one
    assert cached(stage, 4, f"{numbers(200, 220)} 7") == 20
    assert cached(stage, 5, f"{numbers(200, 300)} 7") == 100


def test_what_the_shelf_holds_is_not_brought_back_where_there_is_no_room():
    stage = make(shelf=1000, cells=220, context=220)
    cached(stage, 1, numbers(200, 350))
    stage.ask(2, numbers(400, 500), scope=b"b", max_tokens=20)
    stage.loop.turn()
    assert cached(stage, 3, f"{numbers(200, 210)} 7") == 0
    stage.until_ended(2)
    assert cached(stage, 4, f"{numbers(200, 350)} 7") == 150


def test_a_state_comes_back_as_a_whole_or_not_at_all():
    stage = make(shelf=1000)
    stage.model.whole_only = True
    cached(stage, 1, numbers(200, 300))
    cached(stage, 2, "7", scope=b"b")
    assert cached(stage, 3, numbers(200, 290)) == 0
    assert cached(stage, 4, f"{numbers(200, 300)} {numbers(101, 105)} 50") == 103


def test_a_window_that_has_moved_on_is_not_gone_back_to():
    stage = make(shelf=1000)
    stage.model.window = 60
    cached(stage, 1, numbers(200, 300))
    cached(stage, 2, "7", scope=b"b")
    assert cached(stage, 3, f"{numbers(200, 250)} 7") == 0
    assert cached(stage, 4, f"{numbers(200, 290)} 7") == 90
