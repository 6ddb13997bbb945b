"""What a worker says leaves at once where it matters, and together where nobody could tell."""

from meshnode.engine.worker.frames import Alive, Ended, Prefilled, Started, Written
from meshnode.engine.worker.outbox import Outbox
from meshnode.terms import FinishReason, TokenLogprob

HOLD_S = 0.25  # a power of two, so that quarters add up


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self):
        return self.now


def an_outbox():
    sent, clock = [], Clock()
    outbox = Outbox(sent.append, hold_s=HOLD_S, clock=clock)
    return outbox, sent, clock


def started(outbox, number=1):
    """A run whose first token has left."""
    outbox.add(Written(number, 0, (5,), "a"))
    outbox.send_due()


def test_a_first_token_leaves_at_once():
    outbox, sent, _ = an_outbox()
    started(outbox, 1)
    started(outbox, 2)
    assert sent == [[Written(1, 0, (5,), "a")], [Written(2, 0, (5,), "a")]]


def test_tokens_that_follow_fast_leave_together_as_one():
    outbox, sent, clock = an_outbox()
    started(outbox)
    for index, text in enumerate("bcd", 1):
        clock.now += HOLD_S / 4
        outbox.add(Written(1, index, (index,), text, (), (TokenLogprob(text.encode(), -1.0),)))
        outbox.send_due()
    assert len(sent) == 1
    clock.now += HOLD_S / 4
    outbox.send_due()
    (joined,) = sent[1]
    assert (joined.first_index, joined.ids, joined.text) == (1, (1, 2, 3), "bcd")
    assert [each.token for each in joined.logprobs] == [b"b", b"c", b"d"]


def test_tokens_that_come_slowly_leave_one_by_one():
    outbox, sent, clock = an_outbox()
    started(outbox)
    for index in range(1, 4):
        clock.now += HOLD_S
        outbox.add(Written(1, index, (index,), "x"))
        outbox.send_due()
    assert [len(events[0].ids) for events in sent] == [1, 1, 1, 1]


def test_an_end_leaves_at_once_behind_what_was_written():
    outbox, sent, _ = an_outbox()
    started(outbox)
    outbox.add(Written(1, 1, (6,), "b"))
    outbox.send_due()
    end = Ended(1, FinishReason.STOP, 3, 2)
    outbox.add(end)
    outbox.send_due()
    assert sent[1:] == [[Written(1, 1, (6,), "b"), end]]


def test_what_lies_between_two_tokens_of_a_run_stays_between_them():
    outbox, sent, _ = an_outbox()
    outbox.add(
        Written(1, 1, (1,), "a"), Written(2, 1, (7,), "x"), Prefilled(1, 2, 3), Written(1, 2, (2,), "b")
    )
    outbox.add(Written(2, 2, (8,), "y"))
    outbox.send()
    assert sent == [
        [Written(1, 1, (1,), "a"), Written(2, 1, (7, 8), "xy"), Prefilled(1, 2, 3), Written(1, 2, (2,), "b")]
    ]


def test_a_sign_of_life_may_wait_and_a_beginning_may_not():
    outbox, sent, _ = an_outbox()
    started(outbox)
    outbox.add(Alive())
    outbox.send_due()
    assert len(sent) == 1
    outbox.add(Started(2, 9))
    outbox.send_due()
    assert sent[1:] == [[Alive(), Started(2, 9)]]
