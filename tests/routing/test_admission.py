"""Queues as plays: who begins when, who is refused and with which advice, and whether that comes true."""

import random

import msgspec
import pytest

from meshnode.errors import Busy
from meshnode.routing import admission
from meshnode.routing.admission import CLAIMS_MAX, Claim, Lengths, Queue, claim_of
from meshnode.routing.forecast import Work
from meshnode.terms import ModelCard, Sampling, Turn
from tests.routing.offers import card, job

OWN, PEER, OTHER = b"own", b"peer", b"other"
CARD = card(prompt_tps=500.0, generate_tps=100.0, slots=2, batch_gain=2.0)


def claim(
    origin: bytes = PEER,
    *,
    prefill: int = 100,
    decode: int = 100,
    deadline_s: float = 60.0,
    tag: bytes = b"",
    model: ModelCard = CARD,
) -> Claim:
    others = origin != OWN
    return Claim(origin, tag, others, Work(prefill, decode, model, others), decode, deadline_s)


def read(one: Claim, tokens: float) -> None:
    one.has_read(one.read + round(min(tokens, one.work.prefill)), one.read + round(one.work.prefill))


class Play:
    """A queue whose runs take exactly what their claims say, in a fluid engine stepped every 10 ms."""

    STEP_S = 0.01

    def __init__(self, slots: int = 2, *, owner_slots: int = 1) -> None:
        self.queue = Queue(slots, owner_slots=owner_slots)
        self.now = 0.0
        self.began: dict[Claim, float] = {}
        self.ended: dict[Claim, float] = {}

    def enter(self, *claims: Claim) -> None:
        for one in claims:
            assert self.queue.enter(one) == ()
        self.begin()

    def begin(self) -> None:
        for one in self.queue.begin():
            self.began[one] = self.now

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / self.STEP_S)):
            self.step()

    def step(self) -> None:
        self.now += self.STEP_S
        for one in tuple(self.queue.running):
            work = one.work
            if work.prefill > 0:
                read(one, work.card.prompt_tps * self.STEP_S)
            else:
                work.decode -= work.card.generate_tps * self.STEP_S
                one.written += round(work.card.generate_tps * self.STEP_S)
            if work.decode <= 0:
                self.queue.leave(one, ended=True)
                self.ended[one] = self.now
        self.begin()


def test_who_finds_a_slot_begins_at_once_and_others_leave_one_to_the_owner() -> None:
    play = Play(slots=3)
    peers = [claim() for _ in range(4)]
    play.enter(*peers)
    assert len(play.began) == 2
    mine = claim(OWN)
    assert play.queue.estimate(mine).wait_s == 0.0
    play.enter(mine)
    assert mine in play.began
    another = claim(OWN)
    play.enter(another)
    play.run(60)
    assert [*play.began][3] is another  # before those who came earlier


def test_a_server_without_an_owner_gives_all_its_slots() -> None:
    play = Play(slots=3, owner_slots=0)
    play.enter(*(claim() for _ in range(4)))
    assert len(play.began) == 3


def test_where_there_is_one_slot_a_run_of_others_moves_on_for_the_owner() -> None:
    play = Play(slots=1)
    peer, mine = claim(), claim(OWN)
    play.enter(peer)
    assert play.queue.to_move_on() is None
    play.enter(mine)
    assert play.queue.to_move_on() is peer
    play.queue.leave(peer)
    play.begin()
    assert mine in play.began
    play.enter(claim(OWN))
    assert play.queue.to_move_on() is None  # the owner waits for the owner


def test_the_owner_of_several_slots_moves_nobody() -> None:
    play = Play(slots=2)
    play.enter(claim(), claim(OWN), claim(OWN))
    assert play.queue.to_move_on() is None


@pytest.mark.parametrize("hog", ["one tenant", "many tenants of one peer", "many small", "few large"])
def test_a_hundred_requests_keep_another_waiting_no_longer_than_its_share(hog: str) -> None:
    play = Play(slots=2, owner_slots=0)
    size = {"many small": 20, "few large": 400}.get(hog, 70)
    count = {"few large": 17}.get(hog, 100)
    crowd = [
        claim(PEER, prefill=size, decode=size, tag=b"%d" % n if "tenants" in hog else b"", deadline_s=1e6)
        for n in range(count)
    ]
    play.enter(*crowd)
    few = [claim(OTHER, prefill=100, decode=100, deadline_s=1e6) for _ in range(10)]
    play.enter(*few)
    while not all(one in play.ended for one in few):
        play.step()
    # Had it the half of both slots to itself, which is its share, it would take 10 requests of 1.2 s in a row;
    # beyond that, a turn of the other's that has begun, and the credit of one round.
    largest_s = (size / 500 + size / 100) + 512 / 100
    assert play.now <= 10 * 1.2 + largest_s


def test_the_invented_tenants_of_one_peer_share_its_turns() -> None:
    play = Play(slots=1, owner_slots=0)
    invented = [claim(PEER, tag=b"%d" % n) for n in range(20)]
    play.enter(claim(OWN), *invented, *(claim(OTHER) for _ in range(5)))
    play.run(20)
    order = [one.origin for one in play.began if one.others]
    assert order[:10].count(OTHER) >= 4


def test_who_wrote_less_than_it_paid_for_gets_that_back() -> None:
    queue = Queue(1, owner_slots=0)
    for origin in (PEER, OTHER):
        for _ in range(6):
            queue.enter(claim(origin, prefill=1, decode=511))
    order: list[bytes] = []
    for _ in range(9):
        (one,) = queue.begin()
        order.append(one.origin)
        one.read, one.written = 1, 255 if one.origin == PEER else 511
        queue.leave(one)
    assert order.count(PEER) == 6
    assert order.count(OTHER) == 3


# --- Refusals ---


def test_what_cannot_begin_in_time_is_refused_at_once_and_comes_back_in_time() -> None:
    play = Play(slots=1, owner_slots=0)
    play.enter(claim(prefill=500, decode=1900))  # 20 s
    late = claim(OTHER, prefill=500, deadline_s=5.0)
    with pytest.raises(Busy) as caught:
        play.queue.enter(late)
    assert caught.value.estimate_s == pytest.approx(21.0)
    assert caught.value.retry_after_s == pytest.approx(16.0)
    play.run(15.8)
    with pytest.raises(Busy):
        play.queue.enter(late)
    play.run(0.5)
    play.enter(late)
    play.run(5.0)
    assert late in play.began


def test_a_prompt_that_can_never_be_read_in_time_gets_no_time_to_retry() -> None:
    queue = Queue(2)
    with pytest.raises(Busy, match="Reading the prompt alone takes 8") as caught:
        queue.enter(claim(prefill=4000, deadline_s=5.0))
    assert caught.value.retry_after_s is None


def test_an_idle_node_refuses_nobody_whose_speeds_it_has_not_measured() -> None:
    unknown = card(prompt_tps=0.0, generate_tps=0.0)
    queue = Queue(2)
    queue.enter(claim(prefill=4000, deadline_s=0.1, model=unknown))
    assert len(queue.begin()) == 1


def test_a_full_line_is_told_of_with_the_time_until_there_is_room() -> None:
    play = Play(slots=1, owner_slots=0)
    refused = None
    while refused is None:
        try:
            play.enter(claim(prefill=100, decode=900, deadline_s=1e6))
        except Busy as error:
            refused = error
    assert len(play.queue) == play.queue.tokens_most // 1000
    assert refused.retry_after_s == pytest.approx(9.2, abs=0.5)
    play.run(refused.retry_after_s + 0.5)
    play.enter(claim(prefill=100, decode=900, deadline_s=1e6))


def test_a_line_has_few_places_for_small_requests_too() -> None:
    queue = Queue(1, owner_slots=0)
    queue.enter(claim())
    queue.begin()
    for _ in range(CLAIMS_MAX):
        queue.enter(claim(prefill=1, decode=1))
    with pytest.raises(Busy, match="full"):
        queue.enter(claim(prefill=1, decode=1))


def test_a_prompt_longer_than_the_whole_line_waits_where_nobody_else_does() -> None:
    queue = Queue(1, owner_slots=0)
    queue.enter(claim(deadline_s=1e6))
    queue.begin()
    queue.enter(claim(prefill=queue.tokens_most * 2, deadline_s=1e6))
    assert len(queue) == 1


def test_who_fills_the_line_makes_room_for_one_who_has_less_in_it() -> None:
    queue = Queue(1, owner_slots=0)
    queue.enter(claim())
    queue.begin()
    crowd = [claim(prefill=24, decode=1000, deadline_s=1e6) for _ in range(8)]
    for one in crowd:
        assert queue.enter(one) == ()
    assert queue.enter(claim(OTHER, prefill=24, decode=1500, deadline_s=1e6)) == (crowd[7], crowd[6])
    with pytest.raises(Busy):
        queue.enter(claim(OTHER, prefill=24, decode=6000, deadline_s=1e6))  # it would have more itself
    assert set(crowd[:6]) < set(queue.waiting)
    assert len(queue) == 7


def test_who_leaves_the_line_is_out_of_it() -> None:
    queue = Queue(1, owner_slots=0)
    claims = [claim() for _ in range(3)]
    for one in claims:
        queue.enter(one)
    queue.begin()
    queue.leave(claims[1])
    queue.leave(claims[1])
    queue.leave(claims[0])
    assert queue.begin() == (claims[2],)


def test_a_crowded_line_says_so() -> None:
    queue = Queue(1, owner_slots=0)
    queue.enter(claim())
    queue.begin()
    assert not queue.crowded
    queue.enter(claim(prefill=queue.tokens_most, deadline_s=1e6))
    assert queue.crowded


class Surprising(Play):
    """A play whose answers are shorter than they might be, as nobody knows beforehand."""

    STEP_S = 0.05

    def __init__(self, rng: random.Random) -> None:
        slots = rng.choice([1, 2, 4, 8])
        super().__init__(slots, owner_slots=0)
        speeds = {"prompt_tps": rng.uniform(100, 1000), "generate_tps": rng.uniform(10, 100)}
        self.model = card(slots=slots, batch_gain=float(slots), **speeds)
        self.rng, self.share = rng, rng.uniform(0.2, 1.0)
        self.left: dict[Claim, float] = {}

    def request(self) -> Claim:
        most = self.rng.randrange(50, 500)
        expected = self.queue.lengths.expected(most)
        prefill = self.rng.randrange(10, 2000)
        origin = self.rng.choice([PEER, OTHER])
        one = claim(origin, prefill=prefill, decode=expected, model=self.model, deadline_s=30.0)
        one.most = most
        return one

    def step(self) -> None:
        self.now += self.STEP_S
        running = tuple(self.queue.running)
        reading = [one for one in running if one.work.prefill > 0]
        for one in reading:
            read(one, self.model.prompt_tps * self.STEP_S / len(reading))
        for one in set(running) - set(reading):
            left = self.left.setdefault(one, max(1.0, self.share * one.most))
            self.left[one] = left - self.model.generate_tps * self.STEP_S
            one.has_written(round(left) - round(self.left[one]))
            if self.left[one] <= 0:
                self.queue.leave(one, ended=True)
        self.begin()

    def admitted(self, one: Claim) -> bool:
        try:
            self.queue.enter(one)
        except Busy:
            return False
        self.begin()
        return True


@pytest.mark.parametrize("seed", range(20))
def test_the_time_to_retry_is_within_a_factor_of_two_of_the_truth(seed: int) -> None:
    play = Surprising(random.Random(seed))
    while len(play.left) < 20:  # by then it has seen how long answers are
        play.admitted(play.request())
        play.run(1.0)
    for _ in range(3):
        while play.admitted(play.request()):
            pass
        refused = play.request()
        refused.deadline_s = refused.work.prefill_s + play.rng.uniform(0, 15)
        with pytest.raises(Busy) as caught:
            play.enter(refused)
        told_s, begun = caught.value.retry_after_s, play.now
        assert told_s is not None
        while not play.admitted(refused):
            play.run(0.25)
        took_s = play.now - begun
        assert took_s / 2 <= told_s <= took_s * 2


# --- What a job costs ---


def test_a_jobs_claim_is_measured_on_the_job_itself() -> None:
    asked = msgspec.structs.replace(
        job(prompt_tokens=0, output_tokens=1),
        turns=(Turn(role="user", content="x" * 4000),),
        sampling=Sampling(max_tokens=200),
        resume=tuple(range(50)),
    )
    made = claim_of(asked, CARD, Lengths(), origin=PEER, others=True)
    assert made.work == Work(1051, 150, CARD, True)
    assert (made.most, made.deadline_s, made.tag) == (150, 60.0, asked.tenant_tag)
    within = msgspec.structs.replace(
        asked, tenant_tag=b"k" * 16 + b"one of its own"
    )  # has its turn, and no other
    assert claim_of(within, CARD, Lengths(), origin=PEER, others=True).tag == b"k" * 16
    texts = msgspec.structs.replace(job(), inputs=("x" * 40,))
    assert claim_of(texts, CARD, Lengths(), origin=OWN, others=False).work == Work(11, 0, CARD, False)
    endless = msgspec.structs.replace(asked, sampling=Sampling(max_tokens=2**31 - 1))
    assert claim_of(endless, CARD, Lengths(), origin=PEER, others=True).most == CARD.context - 50


def test_how_long_answers_are_is_learnt_from_those_that_ended() -> None:
    lengths = Lengths()
    assert lengths.expected(1000) == 1000
    for _ in range(admission.LENGTHS):
        lengths.note(100)
    assert lengths.expected(1000) == 100
    assert lengths.expected(50) == 50


def test_an_answer_that_is_longer_than_expected_is_expected_to_go_on() -> None:
    one = claim(decode=10)
    one.most = 1000
    one.has_read(60, 120)
    assert one.work.prefill == 60
    one.has_written(10)
    assert (one.work.prefill, one.read) == (0, 120)
    one.has_written(90)
    assert one.work.decode == 25
    one.has_written(900)
    assert one.work.decode == 0
