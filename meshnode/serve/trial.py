"""What has been tried for one request, and whether to try on. It decides; it waits for nothing and runs nothing."""

from collections import deque
from collections.abc import Sequence

import msgspec
import trio

from meshnode.errors import (
    BudgetExceeded,
    Busy,
    ContextExceeded,
    DeadlineExceeded,
    EngineFailed,
    Interrupted,
    MeshError,
    ModelNotFound,
    Unreachable,
    Yielded,
)
from meshnode.routing.retries import ALTERNATES
from meshnode.serve.bill import Bill
from meshnode.terms import Answer, Candidate, Emitted, End, Job, Piece, Progress, Vector
from meshnode.terms.job import RESUME_MAX_TOKENS

ATTEMPTS = 1 + ALTERNATES
MOVES = 8  # to another node because one has yielded, which is no failure and no attempt
LOOKS = 3  # runs that are begun elsewhere while a way is silent, and left when it is heard again
RETURNS = 16  # to the same run, over another way: nothing is computed twice
SILENCE_S = 5.0  # how long an attempt may read the prompt before its progress, and so its place, is told
ELSEWHERE = (
    BudgetExceeded,
    Busy,
    Unreachable,
    EngineFailed,
    ContextExceeded,
    ModelNotFound,
)  # another node may do better
GOES_ON = (
    Unreachable,
    EngineFailed,
    Interrupted,
    Yielded,
)  # a node or the way to it is lost, the request is not at fault
NO_END = "The engine stopped without ending the answer."
NOBODY = Answer(model="", served_by="", path=(), rung="", trust="", tier=0)


class Trial:
    """What has been tried for one request until its deadline (trio's time), and whether to try on."""

    def __init__(self, job: Job, deadline: float) -> None:
        self.job = job
        self.deadline = deadline
        self.candidates: deque[Candidate] = deque()  # not tried yet
        self.choices = 0
        self.attempts = 0
        self.moves = 0
        self.exhausted = False
        self.answer = NOBODY
        self.begun = False
        self.losses = 0
        self.looks = 0
        self.returns = 0
        self.failure: MeshError | None = None
        self._since = 0.0
        self._silent = True  # nothing has come of this attempt yet
        self.node = b""
        self._digest = b""
        self._ids: list[int] = list(job.resume)
        self._has_ids = not job.inputs
        self._bill = Bill(len(job.resume))

    @property
    def chosen_enough(self) -> bool:
        """Whether choosing again is vain: it is unless a link was lost or a node has yielded, for then there may be
        another by now.
        """
        return self.choices > 0 and not isinstance(self.failure, Unreachable | Yielded)

    @property
    def goes_on(self) -> bool:
        """Only while somebody is left, and not when the request itself is at fault."""
        return not self.exhausted and (self.failure is None or isinstance(self.failure, ELSEWHERE))

    @property
    def can_go_on(self) -> bool:
        """Whether an answer that broke off may go on: its tokens are known, and it was not the request's fault."""
        left = self.attempts < ATTEMPTS or self._moves_on
        return self._knows_tokens and left and isinstance(self.failure, GOES_ON)

    @property
    def _moves_on(self) -> bool:
        """Whether the node has yielded: that it must go on elsewhere now is nobody's failure."""
        return isinstance(self.failure, Yielded) and self.moves < MOVES

    def count_try(self) -> None:
        """The answer is to go on elsewhere."""
        if self._moves_on:
            self.moves += 1
        else:
            self.attempts += 1

    @property
    def may_look(self) -> bool:
        """Whether to try elsewhere while it is not known yet whether the run can be reached again.

        Perhaps it can, so the last attempt is left for a loss that is one.
        """
        known = self._knows_tokens or not self.begun
        return known and self.attempts < ATTEMPTS - 1 and self.looks < LOOKS

    @property
    def may_return(self) -> bool:
        """Whether the same run may be taken up again over another way."""
        return self.returns < RETURNS

    @property
    def _knows_tokens(self) -> bool:
        return self._has_ids and len(self._ids) <= RESUME_MAX_TOKENS

    def on(self, candidate: Candidate, answer: Answer) -> None:
        """The next attempt, whose provenance would be `answer`."""
        self.answer, self._since, self._silent = answer, trio.current_time(), True
        self.node, self._digest = candidate.node, candidate.card.digest
        self._bill.goes_to(candidate, len(self._ids))

    def billed(self, end: End) -> End:
        """The end, with what the answer costs."""
        cost_nusd = self._bill.total_nusd(end.usage)
        return msgspec.structs.replace(end, usage=msgspec.structs.replace(end.usage, cost_nusd=cost_nusd))

    def note(self, emitted: Emitted) -> None:
        """This has been told to the client."""
        self._silent = False
        if isinstance(emitted, Piece):
            self._has_ids = self._has_ids and bool(emitted.ids) and emitted.first_index == len(self._ids)
            self._ids += emitted.ids
        self._has_ids = self._has_ids and not isinstance(emitted, Vector)

    def note_failure(self, error: MeshError) -> None:
        """An attempt has ended. One that was refused leaves the answer where it was: the next node may take it."""
        refused = self.begun and self._silent and isinstance(error, ELSEWHERE)
        if isinstance(error, GOES_ON) or not (refused and isinstance(self.failure, GOES_ON)):
            self.failure = error

    def job_left(self) -> Job:
        """What is left of the job, within the time that is left; once begun, on the very same weights."""
        left_ms = max(1, int((self.deadline - trio.current_time()) * 1000))
        job = msgspec.structs.replace(self.job, deadline_ms=left_ms)
        if not self.begun:
            return job
        wish = msgspec.structs.replace(job.wish, model=f"sha256:{self._digest.hex()}")
        return msgspec.structs.replace(job, wish=wish, resume=tuple(self._ids))

    def best_of_rest(self, candidates: Sequence[Candidate]) -> Candidate:
        """The best that is not where it just broke off, if there is one."""
        return self.elsewhere(candidates) or candidates[0]

    def elsewhere(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The best that is not where it was tried last, nor costs money: what is there may only be silent."""
        return next((one for one in candidates if one.node != self.node and one.cloud is None), None)

    def holds_back(self, emitted: Emitted) -> bool:
        """Whether to keep quiet about progress: once a client has heard who serves it, nobody else can."""
        early = trio.current_time() < self._since + SILENCE_S
        return isinstance(emitted, Progress) and not self.begun and early

    def verdict(self) -> MeshError:
        """The one error the client gets; a node that was lost and one that crashed are alike to it."""
        failure = self.failure or EngineFailed(NO_END)
        if self.begun and isinstance(failure, Unreachable | EngineFailed | Yielded):
            return Interrupted(
                f"The answer broke off and could not go on elsewhere: {failure.message}",
                hint=f"It was served by {self.answer.served_by}; ask again to have it served elsewhere.",
            )
        return failure


def too_late(job: Job) -> DeadlineExceeded:
    """The error of a request whose time is over."""
    return DeadlineExceeded(
        f"The request's deadline of {job.deadline_ms / 1000:g} s has passed.",
        hint="Allow more time with mesh.deadline_ms, or ask for fewer tokens.",
    )
