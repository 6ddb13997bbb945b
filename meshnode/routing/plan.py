"""One decision for one request: which candidates, in which order, and why not the others. It asks nobody.

The ladder goes from this node to trusted peers, other members and commercial APIs. A rung is passed over when
nobody on it can serve, or when the next would start to answer much sooner; what was passed over stays in the plan
as a later choice, since every figure here is an estimate.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from meshnode.errors import BudgetExceeded, Busy, MeshError, ModelNotFound, NoCandidate
from meshnode.routing import ceilings, policy
from meshnode.routing.policy import ModelWish, Reason
from meshnode.routing.quality import TASKS
from meshnode.routing.score import NOTHING, Known, Score, Worth, capacity, score
from meshnode.seams import Rng
from meshnode.terms import Candidate, Job, Trust, Wish
from meshwire.ids import to_text

PATIENCE_S = 2.0  # a first token within this is never worth another rung
MUCH_SOONER = 2.0
RETRY_S = 2.0
SHORT_ID = 8


class Rung(StrEnum):
    """The steps of the ladder, nearest first."""

    LOCAL = "local"
    TRUSTED = "trusted"
    MEMBERS = "members"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate that may serve, and what it is estimated to cost."""

    candidate: Candidate
    score: Score
    rung: Rung
    known: Known = NOTHING


@dataclass(frozen=True, slots=True)
class Rejected:
    """A candidate that may not, and the one reason."""

    candidate: Candidate
    reason: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision: whom to try, in order, and everybody else with a reason."""

    wanted: str
    choices: tuple[Choice, ...]
    rejected: tuple[Rejected, ...]

    @property
    def on_mesh(self) -> tuple[Choice, ...]:
        """The choices that cost nobody money: all but commercial APIs."""
        return tuple(choice for choice in self.choices if choice.rung is not Rung.CLOUD)

    def refusal(self) -> MeshError:
        """The error for a request that has no choice (left): what is in the way, and what to do."""
        return _refusal(self.wanted, [one for one in self.rejected if one.reason is not Reason.MODEL])


def make_plan(
    job: Job,
    candidates: Iterable[Candidate],
    *,
    tried: policy.Tried = (),
    counted_tokens: int = 0,
    known_of: Callable[[Candidate], Known] = lambda _candidate: NOTHING,
    worth: Worth = Worth(),  # noqa: B008 - frozen
    rng: Rng | None = None,
) -> Plan:
    """Decide who serves a job.

    `tried` holds (node, weights digest) pairs that have failed already; `counted_tokens` what a worker has
    counted, after it refused the job as too long; `known_of` tells what this node itself knows of a candidate,
    `worth` what money and energy are worth. With `rng`, the best of two drawn by capacity goes first on
    each rung of peers instead of the best of all: many nodes that read the same old figures and all took the
    best would herd. Without, the plan is the same each time, as an explanation wants.
    """
    model = policy.parse_model(job.wish.model)
    chosen: list[Choice] = []
    left_alone: list[Choice] = []
    rejected: list[Rejected] = []
    for candidate in candidates:
        reason = policy.reject(
            candidate,
            job.wish,
            model,
            tried=tried,
            counted_tokens=counted_tokens,
            too_dear=ceilings.too_dear(job, candidate),
        )
        known = known_of(candidate) if reason is None else NOTHING
        reason = reason or _too_thirsty(job, candidate, known)
        if reason is not None:
            rejected.append(Rejected(candidate, reason))
            continue
        choice = choice_of(candidate, job.wish, model, known, worth)
        (left_alone if known.open else chosen).append(choice)
    if not chosen:  # who fails at once may be tried where there is nobody else; who hangs may not
        chosen = [choice for choice in left_alone if not choice.known.silent]
    rejected += [Rejected(one.candidate, Reason.BREAKER) for one in left_alone if one not in chosen]
    rungs = [_ordered(chosen, rung, rng) for rung in Rung]
    ladder = _climb([rung for rung in rungs if rung], job.deadline_ms / 1000)
    return Plan(job.wish.model, tuple(choice for rung in ladder for choice in rung), tuple(rejected))


def _too_thirsty(job: Job, candidate: Candidate, known: Known) -> Reason | None:
    """Why a request that limits its energy may not be served there."""
    if job.wish.max_joules is None:
        return None
    joules = ceilings.most_joules(
        job, candidate.card, known=known, in_flight=candidate.in_flight + known.sent
    )
    if joules is None:
        return Reason.UNMETERED
    return Reason.ENERGY if joules > job.wish.max_joules else None


def choice_of(candidate: Candidate, wish: Wish, model: ModelWish, known: Known, worth: Worth) -> Choice:
    """A candidate that may serve, with its score."""
    cost = score(candidate, wish, auto=model.auto, task=model.task, known=known, worth=worth)
    return Choice(candidate, cost, _rung(candidate), known)


def _rung(candidate: Candidate) -> Rung:
    if candidate.cloud is not None:
        return Rung.CLOUD
    if policy.is_local(candidate):
        return Rung.LOCAL
    return Rung.TRUSTED if candidate.trust >= Trust.TRUSTED else Rung.MEMBERS


def _ordered(choices: Iterable[Choice], rung: Rung, rng: Rng | None) -> list[Choice]:
    """The choices on one rung, least cost first; among peers, the better of two drawn by lot before all.

    Commercial APIs stay in the order that their owner has put them in.
    """
    if rung is Rung.CLOUD:
        return [choice for choice in choices if choice.rung is rung]
    ranked = sorted((choice for choice in choices if choice.rung is rung), key=cost_of)
    if rng is None or rung is Rung.LOCAL or len(ranked) < 3:
        return ranked
    weights = [capacity(choice.candidate.card, choice.known) for choice in ranked]
    drawn = rng.choices(range(len(ranked)), weights, k=2)
    return [ranked.pop(min(drawn)), *ranked]


def cost_of(choice: Choice) -> tuple[float, bytes, bytes]:
    """What choices are ordered by: U, and then the ids, so that equal facts make equal plans."""
    return choice.score.total_s, choice.candidate.node, choice.candidate.card.digest


def _climb(rungs: list[list[Choice]], deadline_s: float) -> list[list[Choice]]:
    """The rungs with the one to start from first, and the others after it in their order."""
    start = 0
    while start + 1 < len(rungs) and _load_miss(rungs[start], rungs[start + 1], deadline_s):
        start += 1
    return rungs[start : start + 1] + rungs[:start] + rungs[start + 1 :]


def _load_miss(rung: Sequence[Choice], below: Sequence[Choice], deadline_s: float) -> bool:
    """Whether everybody on a rung would begin too late, measured by the next one."""
    ours, theirs = _soonest_s(rung), _soonest_s(below)
    if ours > deadline_s:
        return theirs < ours
    return ours > PATIENCE_S and ours > MUCH_SOONER * theirs


def _soonest_s(rung: Sequence[Choice]) -> float:
    return min(choice.score.first_token_s for choice in rung)


def _refusal(wanted: str, there: list[Rejected]) -> MeshError:
    """`there` are the rejected that do have the model."""
    name = wanted or policy.AUTO
    if not there:
        return ModelNotFound(
            f"No node in reach offers the model {name!r}.",
            hint=_hint(name),
            param="model",
        )
    reasons = "; ".join(f"{_who(one.candidate)}: {one.reason}" for one in there)
    message = f"No node may serve {name!r}: {reasons}."
    busy = [one for one in there if one.reason in (Reason.BUSY, Reason.BREAKER)]
    if busy:
        known = [one.candidate.retry_after_s for one in busy]
        retry_after_s = min((after for after in known if after is not None), default=RETRY_S)
        return Busy(message, hint="Try again shortly.", retry_after_s=retry_after_s)
    if any(one.reason is Reason.BUDGET for one in there):
        return BudgetExceeded(
            message, hint="Ask for a shorter answer (max_tokens), or let the owner raise the budget."
        )
    return NoCandidate(message, hint="Loosen the request, or trust or add a node that fits it.")


def _hint(name: str) -> str:
    """What to do where nobody has a model of this name."""
    if name.startswith(policy.AUTO_TASK):
        return f"The tasks are {', '.join(policy.AUTO_TASK + task for task in TASKS)}."
    return "`meshnode models` lists what there is; `meshnode pull` fetches more."


def _who(candidate: Candidate) -> str:
    card, cloud = candidate.card, candidate.cloud
    if cloud is not None:
        sums = f"up to {cloud.most_usd:.6f} USD, {cloud.left_usd:.6f} left this month"
        return f"{card.name} at {cloud.api} ({sums})"
    links = f", {len(candidate.path)} links" if len(candidate.path) > 1 else ""
    return f"{card.name}@{card.quant} on {to_text(candidate.node)[:SHORT_ID]}{links}"
