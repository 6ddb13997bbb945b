"""The latest requests: how each goes, how many are kept, and that no word of them is."""

import msgspec

from meshnode.observe.recent import REQUESTS_MAX, Recent
from meshnode.observe.tail import LINES_MAX, Tail
from meshnode.terms import Answer, Job, Turn, Usage, Wish

ANSWER = Answer(model="m:1b", served_by="C#c", path=("A#a", "C#c"), rung="peer", trust="trusted", tier=2)


def job(identifier: str = "req-1") -> Job:
    return Job(id=identifier, wish=Wish(model="m"), turns=(Turn(role="user", content="secret"),))


def test_a_request_goes_its_way() -> None:
    recent = Recent()
    course = recent.began(job(), 10.0)
    states = [course.view(10.5).state]
    course.answer = ANSWER
    states.append(course.view(10.5).state)
    course.token(2, 11.0)
    course.token(5, 12.0)
    states.append(course.view(12.0).state)
    course.over("ok", 13.0)
    (view,) = recent.views(20.0)
    assert [*states, view.state] == ["choosing", "waiting", "streaming", "ok"]
    assert (view.first_token_ms, view.took_ms, view.age_s, view.tokens) == (1000, 3000, 10.0, 5)
    assert (view.model, view.served_by, view.path, view.rung) == ("m:1b", "C#c", ("A#a", "C#c"), "peer")


def test_one_of_another_node_is_counted_by_its_engine_and_has_no_decision_here() -> None:
    recent = Recent()
    course = recent.began(job("far"), 0.0, "abcd")
    assert course.view(0.0).state == "waiting"
    course.over("ok", 1.0, Usage(3, 7))
    assert recent.views(1.0)[0].tokens == 7
    assert recent.wish_of("far") is None
    recent.began(job("far"), 2.0)
    assert recent.wish_of("far") == Wish(model="m")


def test_no_word_of_a_prompt_is_kept() -> None:
    recent = Recent()
    course = recent.began(job(), 0.0)
    assert b"secret" not in msgspec.json.encode(recent.views(1.0))
    assert "secret" not in repr(course)


def test_the_oldest_make_room() -> None:
    recent = Recent()
    for n in range(REQUESTS_MAX + 5):
        recent.began(job(f"req-{n}"), float(n))
    views = recent.views(1000.0)
    assert [views[0].id, views[-1].id, len(views)] == [f"req-{REQUESTS_MAX + 4}", "req-5", REQUESTS_MAX]


def test_the_log_has_an_end_and_goes_on_counting() -> None:
    tail = Tail()
    for n in range(LINES_MAX + 3):
        tail.keep({"event": n})
    assert [line.n for line in tail.after(0)] == list(range(4, LINES_MAX + 4))
    assert [line.fields["event"] for line in tail.after(LINES_MAX + 1)] == [LINES_MAX + 1, LINES_MAX + 2]
    assert tail.after(LINES_MAX + 3) == ()
