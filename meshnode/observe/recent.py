"""The requests that this node has seen lately, as whoever looks at it may know of them: where, how far, how long.

Of a request it keeps what it wishes for and never a word of it. It is told by whoever watches the runs, and bounded.
"""

from collections import deque
from dataclasses import dataclass

import msgspec

from meshnode.terms import Answer, Job, Usage, Wish

REQUESTS_MAX = 100
CHOOSING, WAITING, STREAMING = "choosing", "waiting", "streaming"


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `origin` is the node that it came from, empty for this node's own clients.

    `state` is choosing, waiting (for the first token), streaming, or how it ended: ok, cancelled or an error's code.
    `asked` is the model that it names; `path` and `served_by` are those of the answer, empty until one is found.
    """

    id: str
    origin: str = ""
    asked: str = ""
    privacy: str = ""
    state: str = CHOOSING
    over: bool = False
    model: str = ""
    rung: str = ""
    served_by: str = ""
    path: tuple[str, ...] = ()
    cache: str = ""
    attempts: int = 0
    tokens: int = 0
    first_token_ms: int | None = None
    took_ms: int = 0
    age_s: float = 0.0


@dataclass(slots=True)
class Course:
    """What has become of one request so far; times are the caller's clock, in seconds."""

    id: str
    wish: Wish
    origin: str
    began: float
    answer: Answer | None = None
    tokens: int = 0
    first: float | None = None
    ended: float | None = None
    outcome: str = ""

    def token(self, tokens: int, now: float) -> None:
        """More of the answer has come; `tokens` in all."""
        self.tokens = tokens
        self.first = now if self.first is None else self.first

    def over(self, outcome: str, now: float, usage: Usage | None = None) -> None:
        """It is left; `outcome` is ok, cancelled or an error's code."""
        self.outcome, self.ended = outcome, now
        if usage is not None:
            self.tokens = usage.completion_tokens

    def view(self, now: float) -> RequestView:
        """As it is now."""
        view = RequestView(
            id=self.id,
            origin=self.origin,
            asked=self.wish.model,
            privacy=str(self.wish.privacy),
            state=self._state(),
            over=self.ended is not None,
            tokens=self.tokens,
            first_token_ms=None if self.first is None else round((self.first - self.began) * 1000),
            took_ms=round(((now if self.ended is None else self.ended) - self.began) * 1000),
            age_s=round(now - self.began, 3),
        )
        return view if self.answer is None else _answered(view, self.answer)

    def _state(self) -> str:
        if self.ended is not None:
            return self.outcome
        if self.first is not None:
            return STREAMING
        return CHOOSING if self.answer is None and not self.origin else WAITING


class Recent:
    """The last REQUESTS_MAX requests that began."""

    def __init__(self) -> None:
        self._courses: deque[Course] = deque(maxlen=REQUESTS_MAX)

    def began(self, job: Job, now: float, origin: str = "") -> Course:
        """A request begins; what this gives is to be told of its course."""
        course = Course(job.id, job.wish, origin, now)
        self._courses.append(course)
        return course

    def views(self, now: float) -> tuple[RequestView, ...]:
        """All of them, the newest first."""
        return tuple(course.view(now) for course in reversed(self._courses))

    def wish_of(self, identifier: str) -> Wish | None:
        """What a request of this node's own clients wished for; None for one that is not (or no longer) known."""
        own = (course for course in self._courses if course.id == identifier and not course.origin)
        return next((course.wish for course in own), None)


def _answered(view: RequestView, answer: Answer) -> RequestView:
    return msgspec.structs.replace(
        view,
        model=answer.model,
        rung=answer.rung,
        served_by=answer.served_by,
        path=answer.path,
        cache=answer.cache,
        attempts=answer.attempts,
    )
