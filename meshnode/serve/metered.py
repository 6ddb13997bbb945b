"""A request, watched: where it was answered, how it ended, how long its first token and each next one took.

It looks on from outside the walk, so that what the client waits for is what is measured, and tells metrics, log and
trace of it. It decides nothing, and sees of an answer no more than counts.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import msgspec
import trio

from meshnode.errors import MeshError, as_mesh_error
from meshnode.observe import log
from meshnode.observe.metrics import CANCELLED, NO_RUNG, OK, Metrics, rung_of
from meshnode.observe.recent import Recent
from meshnode.observe.trace import Tracer
from meshnode.serve.running import Running
from meshnode.terms import Answer, Emitted, End, Job, Piece, Usage
from meshwire.ids import NodeId, to_text

_logger = log.get("serve")


@asynccontextmanager
async def metered(
    job: Job,
    run: Callable[[Job], AbstractAsyncContextManager[Running]],
    metrics: Metrics,
    tracer: Tracer,
    recent: Recent | None = None,
) -> AsyncIterator[Running]:
    """Run a job, and tell metrics, log, trace and `recent` of its course; raises what the run does."""
    tally = Tally(job, metrics, tracer, recent or Recent(), trio.current_time())
    try:
        async with AsyncExitStack() as stack:
            try:
                running = await stack.enter_async_context(run(tally.job))
            except Exception as error:
                tally.failed(error)
                raise
            tally.answered(running.answer)
            yield Running(running.answer, _Metered(running.pieces, tally))
    finally:
        tally.over(trio.current_time())


class Tally:
    """What becomes of one request that began at `began` (trio's time). `job` is that request, within its span."""

    def __init__(self, job: Job, metrics: Metrics, tracer: Tracer, recent: Recent, began: float) -> None:
        self._span = tracer.begin(
            "meshnode.request",
            job.trace,
            kind="server" if job.trace else "internal",
            ambient=True,
            request=job.id,
            privacy=str(job.wish.privacy),
        )
        self.job = msgspec.structs.replace(job, trace=self._span.traceparent)
        self._metrics = metrics
        self._course = recent.began(job, began)
        self._began = self._last = began
        self._rung, self._outcome, self._served_by = NO_RUNG, CANCELLED, ""
        self._tokens = 0
        self._answered = False
        self._gap = metrics.gap  # of its rung, once that is known

    def answered(self, answer: Answer) -> None:
        """It has found its place."""
        self._rung, self._served_by = rung_of(answer), answer.served_by
        self._gap = self._metrics.gap.labels(self._rung)
        self._course.answer = answer
        self._span.note(
            rung=self._rung, served_by=answer.served_by, model=answer.model, attempts=answer.attempts
        )
        if answer.cache:
            self._metrics.cache_answers.labels(answer.cache).inc()

    def came(self, item: Emitted, now: float) -> None:
        """The next item of its answer."""
        match item:
            case Piece(ids=ids):
                self._took_token(now)
                self._tokens += len(ids) or 1
                self._course.token(self._tokens, now)
            case End(_, usage):
                self._outcome, self._tokens = OK, usage.completion_tokens or self._tokens
                self._course.tokens = self._tokens
                self._metrics.prompt_tokens.labels(self._rung).inc(usage.prompt_tokens)
                self._metrics.cached_tokens.labels(self._rung).inc(usage.cached_tokens)

    def _took_token(self, now: float) -> None:
        if self._answered:
            self._gap.observe(now - self._last)
        else:
            self._metrics.first_token.labels(self._rung).observe(now - self._began)
        self._answered, self._last = True, now

    def failed(self, error: Exception) -> None:
        """It has come to nothing, or broke off."""
        self._outcome = (as_mesh_error(error) or MeshError("")).code

    def over(self, now: float) -> None:
        """It is left; without an end or an error, its client did not want the rest."""
        self._metrics.requests.labels(self._rung, self._metrics.outcome(self._outcome)).inc()
        self._metrics.duration.labels(self._rung).observe(now - self._began)
        self._metrics.answer_tokens.labels(self._rung).inc(self._tokens)
        self._span.note(rung=self._rung, answer_tokens=self._tokens)
        self._span.end(self._outcome)
        self._course.over(self._outcome, now)
        _logger.info(
            "request over",
            request=self.job.id,
            rung=self._rung,
            outcome=self._outcome,
            served_by=self._served_by,
            tokens=self._tokens,
            ms=round((now - self._began) * 1000),
            trace=self.job.trace,
        )


class _Metered(AsyncIterator[Emitted]):
    def __init__(self, pieces: AsyncIterator[Emitted], tally: Tally) -> None:
        self._pieces, self._tally = pieces, tally

    async def __anext__(self) -> Emitted:
        try:
            item = await anext(self._pieces)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self._tally.failed(error)
            raise
        self._tally.came(item, trio.current_time())
        return item


class Served:
    """Watches the runs for other nodes: each is counted, and is a span under the one that came with its job."""

    def __init__(self, metrics: Metrics, tracer: Tracer, recent: Recent | None = None) -> None:
        self._metrics, self._tracer, self._recent = metrics, tracer, recent or Recent()

    def __call__(self, job: Job, origin: bytes) -> Callable[[str, Usage], None]:
        """A run begins for a node; what this gives is to be told how that ended, and what the engine counted."""
        span = self._tracer.begin(
            "meshnode.worker",
            job.trace,
            kind="server",
            request=job.id,
            origin=to_text(NodeId(origin)),
            resumed=len(job.resume),
        )
        course = self._recent.began(job, trio.current_time(), to_text(NodeId(origin)))

        def over(code: str, usage: Usage) -> None:
            self._metrics.note_served(code, usage)
            span.note(prompt_tokens=usage.prompt_tokens, answer_tokens=usage.completion_tokens)
            span.end(self._metrics.outcome(code))
            course.over(code, trio.current_time(), usage)

        return over
