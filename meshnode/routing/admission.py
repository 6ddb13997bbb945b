"""Who may run here, who waits, and who is told at once to go elsewhere. Pure: one queue in front of one engine.

Serve where there is a slot, queue where the wait still leaves time to read the prompt before the deadline, else
refuse with a time to come back, and the origin forwards the request to another node. The owner goes first, and
`owner_slots` are kept for it; others take turns by what they cost (`fairness`). The line is bounded in tokens.
"""

import math
import statistics
from bisect import bisect_left
from collections import deque

import msgspec

from meshnode.errors import Busy
from meshnode.routing.fairness import Turns
from meshnode.routing.forecast import Work, starts_s
from meshnode.terms import Job, ModelCard
from meshnode.terms.job import TENANT_BYTES

CHARS_PER_TOKEN = 4  # a guess that the worker's own count replaces
TOKENS_PER_SLOT = 8192  # in line, for the owner and for all others each
CLAIMS_MAX = 128  # in line likewise, however small
RETRY_MIN_S = 0.25
LENGTHS = 32  # of the latest answers, which tell how long the next will be
PERSISTENCE = 0.25  # of its length so far: what an answer that is longer than expected still has to come
CROWDED = 0.5  # of the bound in line: others should rather ask elsewhere


class Claim(msgspec.Struct, eq=False):
    """A request that wants a slot. `origin` and `tag` say whose it is, `others` that it is not this node's own."""

    origin: bytes
    tag: bytes
    others: bool
    work: Work
    most: int  # tokens that the answer may have
    deadline_s: float
    cost: int = 0
    read: int = 0
    written: int = 0

    def __post_init__(self) -> None:
        """What it costs is settled once; afterwards `work` gets less."""
        self.cost = max(1, round(self.work.prefill + self.work.decode))

    def has_read(self, done: int, total: int) -> None:
        """So much of the prompt is read, as the engine itself counts it."""
        self.read, self.work.prefill = done, total - done

    def has_written(self, tokens: int) -> None:
        """So many more tokens came. One that outlives what was expected is expected to go on for a while."""
        self.written += tokens
        self.read, self.work.prefill = self.read + round(self.work.prefill), 0
        longer = min(self.most - self.written, PERSISTENCE * self.written)
        self.work.decode = max(self.work.decode - tokens, longer, 0)


class Estimate(msgspec.Struct, frozen=True):
    """In how many seconds a request would begin, and have read its prompt: then comes its first token."""

    wait_s: float
    first_token_s: float


class Lengths:
    """How long answers have been lately, and so how long one will be that may have so many tokens."""

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=LENGTHS)

    def note(self, tokens: int) -> None:
        """An answer ended by itself after so many."""
        self._seen.append(tokens)

    def expected(self, most: int) -> int:
        """Half of what is not known yet counts as if it came to the most."""
        unknown = LENGTHS // 2 - len(self._seen)
        guesses = [min(seen, most) for seen in self._seen] + [most] * max(0, unknown)
        return max(1, round(statistics.fmean(guesses)))


def claim_of(job: Job, card: ModelCard, lengths: Lengths, *, origin: bytes, others: bool) -> Claim:
    """A job's claim, measured on the job itself: whoever sent it may have written anything beside it."""
    characters = sum(len(turn.content) for turn in job.turns) + sum(map(len, job.inputs)) + len(job.schema)
    characters += sum(len(tool.description) + len(tool.parameters) for tool in job.tools)
    room = card.context or TOKENS_PER_SLOT
    prefill = min(characters // CHARS_PER_TOKEN + 1 + len(job.resume), room)
    most = max(1, min(job.sampling.max_tokens or job.wish.output_tokens, room) - len(job.resume))
    most = 0 if job.inputs else most
    work = Work(prefill, lengths.expected(most) if most else 0, card, others)
    return Claim(origin, job.tenant_tag[:TENANT_BYTES], others, work, most, job.deadline_ms / 1000)


class Queue:
    """Claims in front of one engine with so many slots. Whoever claims, leaves: `leave` is called for every claim."""

    def __init__(self, slots: int, *, owner_slots: int = 1) -> None:
        self.slots = slots
        self.owner_slots = min(owner_slots, slots)
        self.others_slots = max(1, slots - self.owner_slots)
        self.tokens_most = TOKENS_PER_SLOT * slots
        self.running: dict[Claim, None] = {}
        self.lengths = Lengths()
        # The owner's tenants, and others' by origin and tenant.
        self._lines: tuple[Turns[Claim], Turns[Claim]] = (Turns(), Turns(levels=2))

    def __len__(self) -> int:
        return sum(map(len, self._lines))

    @property
    def waiting(self) -> tuple[Claim, ...]:
        """Who is in line, in no order."""
        return tuple(claim for line in self._lines for claim in line)

    @property
    def crowded(self) -> bool:
        """Whether others would do better elsewhere."""
        line = self._lines[1]
        return line.tokens > CROWDED * self.tokens_most or len(line) > CROWDED * CLAIMS_MAX

    # --- Coming, going, beginning ---

    def enter(self, claim: Claim, kept: int = 0) -> tuple[Claim, ...]:
        """Take a claim into the line; raises Busy, with when to come back.

        Those who are given are out of it for that: where it is full, whoever has most in line has to make room for
        one who would have less. So many places are `kept` for others than whoever claims.
        """
        estimate = self._check_in_time(claim)
        if kept and not self.takes_one_more(kept):
            raise _busy("The queue is full.", self.retry_in_s(claim), estimate)
        dropped = self._make_room(claim, estimate)
        self._line(claim).add(self._path(claim), claim)
        return dropped

    def begin(self) -> tuple[Claim, ...]:
        """Those whose turn has come, who run from now on."""
        begun: list[Claim] = []
        while (line := self._next_line()) is not None:
            claim = line.pop()
            self.running[claim] = None
            begun.append(claim)
        return tuple(begun)

    def leave(self, claim: Claim, *, ended: bool = False) -> None:
        """A claim is given up, whether it ran or not; `ended` by itself, which tells how long answers are."""
        if claim in self.running:
            del self.running[claim]
            if ended:
                self.lengths.note(claim.written)
            self._line(claim).settle(self._path(claim), claim.cost - claim.read - claim.written)
        elif claim in self.waiting:
            self._line(claim).remove(self._path(claim), claim)

    def to_move_on(self) -> Claim | None:
        """Whose run has to go elsewhere for the owner, who would wait behind it: the newest one of others'."""
        held = sum(not claim.others for claim in self.running)
        if not len(self._lines[0]) or len(self.running) < self.slots or held >= self.owner_slots:
            return None
        return next((claim for claim in reversed(self.running) if claim.others), None)

    # --- What is known of the wait ---

    def estimate(self, claim: Claim) -> Estimate:
        """When a claim would begin and have read its prompt, if it came now and nobody else did."""
        if self._may_begin(claim):
            return Estimate(0.0, claim.work.prefill_s)
        lines = [line.copy() for line in self._lines]
        lines[claim.others].add(self._path(claim), claim)
        orders = [_order(line) for line in lines]
        starts = self._starts(*orders)
        wait_s = starts[claim.others][orders[claim.others].index(claim)]
        return Estimate(wait_s, wait_s + claim.work.prefill_s)

    def retry_in_s(self, claim: Claim) -> float:
        """In how many seconds the line has room for a claim, and what is before it then is short enough; 0 for now.

        Nobody keeps a place for who is refused: whoever comes back is last in the round again. Of those in line more
        have begun by then, and the fewest that must have are looked for.
        """
        lines = [line.copy() for line in self._lines]
        orders = [_order(line) for line in lines]
        orders[claim.others].append(claim)
        starts = self._starts(*orders)[claim.others]
        slack_s = claim.deadline_s - claim.work.prefill_s if claim.work.card.prompt_tps else math.inf
        begun = bisect_left(
            range(len(starts) - 1), True, key=lambda count: self._takes(claim, count, starts, slack_s)
        )
        since_s = starts[begun - 1] if begun else 0.0
        return max(since_s, starts[begun + self._before(claim, begun)] - slack_s)

    def _takes(self, claim: Claim, begun: int, starts: list[float], slack_s: float) -> bool:
        """Whether a claim would be taken before one more begins, of those in line, than so many."""
        left = self._after(claim, begun)
        fits = self._fits(left.tokens, len(left), claim)
        return fits and starts[begun + self._before(claim, begun)] - slack_s <= starts[begun]

    def _before(self, claim: Claim, begun: int) -> int:
        """How many would go before a claim that came when so many in line had begun."""
        left = self._after(claim, begun)
        left.add(self._path(claim), claim)
        return _order(left).index(claim)

    def _after(self, claim: Claim, begun: int) -> Turns[Claim]:
        line = self._line(claim).copy()
        for _ in range(begun):
            line.pop()
        return line

    def _starts(self, own: list[Claim], others: list[Claim]) -> tuple[list[float], list[float]]:
        return starts_s(
            [claim.work for claim in self.running],
            [claim.work for claim in own],
            [claim.work for claim in others],
            slots=self.slots,
            others_slots=self.others_slots,
        )

    # --- The rules ---

    def _check_in_time(self, claim: Claim) -> Estimate:
        """Refuse what could not begin to answer in time. Speeds that were never measured refuse nobody."""
        estimate = self.estimate(claim)
        if claim.work.card.prompt_tps and estimate.first_token_s > claim.deadline_s:
            if claim.work.prefill_s > claim.deadline_s:
                raise _never(claim, estimate)
            raise _busy("It would begin to answer too late.", self.retry_in_s(claim), estimate)
        return estimate

    def _make_room(self, claim: Claim, estimate: Estimate) -> tuple[Claim, ...]:
        line = self._line(claim)
        dropped: list[Claim] = []
        tokens = line.tokens_of(self._path(claim)[0]) + claim.cost
        while not self._fits(line.tokens, len(line), claim):
            heaviest = line.heaviest()
            if heaviest == self._path(claim)[0] or line.tokens_of(heaviest) <= tokens:
                for one in reversed(dropped):  # in vain: they keep their places
                    line.add(self._path(one), one)
                raise _busy("The queue is full.", self.retry_in_s(claim), estimate)
            newest = line.newest()
            line.remove(self._path(newest), newest)
            dropped.append(newest)
        return tuple(dropped)

    def takes_one_more(self, kept: int) -> bool:
        """Whether the line of others has a place beside those that are kept."""
        line = self._lines[1]
        return line.tokens < self.tokens_most and len(line) + kept < CLAIMS_MAX

    def has_room(self, claim: Claim) -> bool:
        """Whether the line is not full for a claim."""
        line = self._line(claim)
        return self._fits(line.tokens, len(line), claim)

    def _fits(self, tokens: int, count: int, claim: Claim) -> bool:
        """Whether a claim may join a line; into an empty one anybody may, however long its prompt."""
        return not count or (tokens + claim.cost <= self.tokens_most and count < CLAIMS_MAX)

    def _may_begin(self, claim: Claim) -> bool:
        """Whether it would not wait at all."""
        others = sum(one.others for one in self.running)
        free = len(self.running) < self.slots and not len(self._lines[0])
        return free and (not claim.others or (others < self.others_slots and not len(self._lines[1])))

    def _next_line(self) -> Turns[Claim] | None:
        if len(self.running) >= self.slots:
            return None
        if len(self._lines[0]):
            return self._lines[0]
        others = sum(claim.others for claim in self.running)
        return self._lines[1] if len(self._lines[1]) and others < self.others_slots else None

    def _line(self, claim: Claim) -> Turns[Claim]:
        return self._lines[claim.others]

    @staticmethod
    def _path(claim: Claim) -> tuple[bytes, ...]:
        return (claim.origin, claim.tag) if claim.others else (claim.tag,)


def _order(line: Turns[Claim]) -> list[Claim]:
    """Those in a line in the order of their turns, which uses it up."""
    return [line.pop() for _ in range(len(line))]


def _busy(why: str, retry_after_s: float, estimate: Estimate) -> Busy:
    retry_after_s = max(RETRY_MIN_S, retry_after_s)
    message = f"{why} The first token would come in {estimate.first_token_s:.1f} s."
    error = Busy(message, hint=f"Try again in {retry_after_s:.1f} s.", retry_after_s=retry_after_s)
    error.estimate_s = estimate.first_token_s
    return error


def _never(claim: Claim, estimate: Estimate) -> Busy:
    error = Busy(
        f"Reading the prompt alone takes {claim.work.prefill_s:.1f} s here, longer than its deadline.",
        hint="Allow more time with mesh.deadline_ms, or shorten the prompt.",
    )
    error.estimate_s = estimate.first_token_s
    return error
