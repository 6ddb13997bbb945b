"""Which beginnings of conversations went where."""

import msgspec

from meshnode.routing.prefixes import PREFIX_MEMORY_S, PREFIXES_MAX, TURNS_MAX, PrefixLog, prefixes_of
from meshnode.terms import Job, Tool, Turn
from tests.routing.offers import job

HERE, THERE = (b"n" * 20, b"d" * 32), (b"m" * 20, b"d" * 32)


def talk(*texts: str, tenant: bytes = b"", tools: tuple[Tool, ...] = ()) -> Job:
    roles = ("system", "user", "assistant")
    turns = tuple(Turn(role=roles[min(n, 1 + n % 2)], content=text) for n, text in enumerate(texts))
    return msgspec.structs.replace(job(prompt_tokens=100), turns=turns, tenant_tag=tenant, tools=tools)


def matched(first: Job, second: Job) -> int:
    log = PrefixLog()
    log.note(HERE, prefixes_of(first), 0.0)
    assert log.matched(THERE, prefixes_of(second), 0.0) == 0
    return log.matched(HERE, prefixes_of(second), 0.0)


def test_a_conversation_that_goes_on_matches_as_far_as_it_went() -> None:
    assert matched(talk("x" * 50), talk("x" * 50, "y" * 50)) == 50
    assert matched(talk("a", "b" * 49), talk("a", "c" * 49)) == 2
    assert matched(talk("a", "b"), talk("b", "a")) == 0


def test_tenants_and_tools_are_apart() -> None:
    assert matched(talk("same", tenant=b"1"), talk("same", tenant=b"2")) == 0
    assert matched(talk("same"), talk("same", tools=(Tool("look"),))) == 0
    assert prefixes_of(job()) == ()


def test_it_is_forgotten_in_time_and_bounded() -> None:
    log = PrefixLog()
    log.note(HERE, prefixes_of(talk("x")), 0.0)
    assert log.matched(HERE, prefixes_of(talk("x")), PREFIX_MEMORY_S - 1) == 100
    assert log.matched(HERE, prefixes_of(talk("x")), PREFIX_MEMORY_S) == 0
    for number in range(PREFIXES_MAX):
        log.note(HERE, ((str(number).encode(), 1),), 0.0)
    assert log.matched(HERE, prefixes_of(talk("x")), 0.0) == 0
    assert len(prefixes_of(talk(*"x" * 200))) == TURNS_MAX
