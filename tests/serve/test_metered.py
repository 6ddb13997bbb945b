"""A request as its metrics see it, in virtual time: every way to end, and how long each token took."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import pytest
import trio

from meshnode.errors import Busy, Interrupted
from meshnode.observe.metrics import Metrics
from meshnode.observe.recent import Recent
from meshnode.observe.snapshot import Snapshot
from meshnode.observe.trace import tracer
from meshnode.serve.metered import Served, metered
from meshnode.serve.running import Running
from meshnode.terms import Answer, Emitted, End, FinishReason, Job, Piece, Progress, Usage, Wish

JOB = Job(id="req-1", wish=Wish(), turns=())
END = End(FinishReason.STOP, Usage(11, 3, 4))
Step = Emitted | Exception | float


def answer(**facts: object) -> Answer:
    given = {"model": "m", "served_by": "n", "path": (), "rung": "peer", "trust": "trusted", "tier": 2}
    return Answer(**{**given, **facts})  # type: ignore[arg-type]


@asynccontextmanager
async def played(
    steps: Sequence[Step], found: Answer, refusal: Exception | None = None
) -> AsyncIterator[Running]:
    async def pieces() -> AsyncGenerator[Emitted, None]:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await trio.sleep(step)
            else:
                yield step

    await trio.sleep(0.5)  # to find a place
    if refusal is not None:
        raise refusal
    async with aclosing(pieces()) as items:
        yield Running(found, items)


def watched(
    run: AbstractAsyncContextManager[Running], metrics: Metrics
) -> AbstractAsyncContextManager[Running]:
    return metered(JOB, lambda _job: run, metrics, tracer())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: Snapshot(node="n", name="desk", state="ready"))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"meshnode_{name}", labels)


async def test_an_answer_to_its_end(metrics: Metrics) -> None:
    steps = (Progress(1, 2), 1.0, Piece(0, (1,), "a"), 0.25, Piece(1, (2, 3), "b"), 0.125, END)
    async with watched(played(steps, answer()), metrics) as running:
        assert running.answer.rung == "peer"
        assert [item async for item in running.pieces] == [one for one in steps if not isinstance(one, float)]
        await trio.sleep(1.0)
    assert value(metrics, "requests_total", rung="peer", outcome="ok") == 1
    assert value(metrics, "time_to_first_token_seconds_sum", rung="peer") == 1.5
    assert value(metrics, "time_to_first_token_seconds_count", rung="peer") == 1
    assert value(metrics, "inter_token_gap_seconds_sum", rung="peer") == 0.25
    assert value(metrics, "inter_token_gap_seconds_count", rung="peer") == 1
    assert value(metrics, "request_duration_seconds_sum", rung="peer") == 2.875
    assert value(metrics, "prompt_tokens_total", rung="peer") == 11
    assert value(metrics, "cached_prompt_tokens_total", rung="peer") == 4
    assert value(metrics, "answer_tokens_total", rung="peer") == 3


async def test_tokens_that_no_engine_counted_are_counted_here(metrics: Metrics) -> None:
    steps = (Piece(0, (), "a"), Piece(0, (), "b"), End(FinishReason.STOP, Usage()))
    async with watched(played(steps, answer()), metrics) as running:
        assert [item async for item in running.pieces] == list(steps)
    assert value(metrics, "answer_tokens_total", rung="peer") == 2


async def test_one_that_finds_no_place(metrics: Metrics) -> None:
    with pytest.raises(Busy):
        async with watched(played((), answer(), Busy("full")), metrics):
            pass
    assert value(metrics, "requests_total", rung="none", outcome="busy") == 1
    assert value(metrics, "request_duration_seconds_sum", rung="none") == 0.5
    assert value(metrics, "inter_token_gap_seconds_count", rung="none") is None


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Interrupted("lost"), "interrupted"),
        (ExceptionGroup("", [Busy("")]), "busy"),
        (KeyError(), "internal_error"),
    ],
)
async def test_one_that_breaks_off(metrics: Metrics, error: Exception, outcome: str) -> None:
    with pytest.raises(type(error)):
        async with watched(played((Piece(0, (1, 2), "a"), error), answer()), metrics) as running:
            async for _ in running.pieces:
                pass
    assert value(metrics, "requests_total", rung="peer", outcome=outcome) == 1
    assert value(metrics, "answer_tokens_total", rung="peer") == 2


async def test_one_whose_client_leaves(metrics: Metrics) -> None:
    with trio.move_on_after(1.0):
        async with watched(played((Piece(0, (1,), "a"), 60.0, END), answer()), metrics) as running:
            async for _ in running.pieces:
                pass
    assert value(metrics, "requests_total", rung="peer", outcome="cancelled") == 1
    with pytest.raises(ValueError, match="the caller's own"):
        async with watched(played((END,), answer()), metrics):
            raise ValueError("the caller's own")
    assert value(metrics, "requests_total", rung="peer", outcome="cancelled") == 2


async def test_a_kept_answer_is_not_taken_for_a_fast_engine(metrics: Metrics) -> None:
    async with watched(
        played((Piece(0, (1,), "a"), END), answer(rung="local", cache="exact")), metrics
    ) as running:
        async for _ in running.pieces:
            pass
    assert value(metrics, "cache_answers_total", kind="exact") == 1
    assert value(metrics, "requests_total", rung="cache", outcome="ok") == 1
    assert value(metrics, "time_to_first_token_seconds_count", rung="local") is None


async def test_whoever_looks_sees_a_request_while_it_runs(metrics: Metrics) -> None:
    recent = Recent()
    steps = (1.0, Piece(0, (1,), "a"), 0.25, Piece(1, (2, 3), "b"), END)
    run = metered(JOB, lambda _job: played(steps, answer()), metrics, tracer(), recent)
    async with run as running:
        assert recent.views(trio.current_time())[0].state == "waiting"
        await anext(running.pieces)
        await anext(running.pieces)
        (view,) = recent.views(trio.current_time())
        assert (view.state, view.tokens, view.first_token_ms, view.over) == ("streaming", 3, 1500, False)
    (view,) = recent.views(trio.current_time())
    assert (view.state, view.rung, view.over) == ("cancelled", "peer", True)


async def test_whoever_looks_sees_why_a_request_came_to_nothing(metrics: Metrics) -> None:
    recent = Recent()
    with pytest.raises(Busy):
        async with metered(JOB, lambda _job: played((), answer(), Busy("full")), metrics, tracer(), recent):
            pass
    (view,) = recent.views(trio.current_time())
    assert (view.state, view.rung, view.took_ms) == ("busy", "", 500)


async def test_the_runs_for_others_are_seen_too(metrics: Metrics) -> None:
    recent = Recent()
    over = Served(metrics, tracer(), recent)(JOB, bytes(16))
    assert [view.over for view in recent.views(trio.current_time())] == [False]
    over("ok", Usage(5, 9))
    (view,) = recent.views(trio.current_time())
    assert (view.state, view.tokens, bool(view.origin)) == ("ok", 9, True)
