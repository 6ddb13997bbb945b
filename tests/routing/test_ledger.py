"""What was sent counts until its node has spoken of its queue again, or it has ended."""

from meshnode.routing.ledger import SENT_MAX, SENT_MEMORY_S, Sent, SentLedger

NODE, DIGEST = b"n" * 20, b"d" * 32
KEY = (NODE, DIGEST)
NEVER = -1.0


def sent(ledger: SentLedger, request: str, seq: int = 7, now: float = 0.0) -> None:
    ledger.note(request, KEY, prefill=100, decode=50, vitals_seq=seq, now=now)


def test_it_counts_until_the_vitals_show_it() -> None:
    ledger = SentLedger()
    sent(ledger, "1", seq=7)
    sent(ledger, "2", seq=8, now=1.0)
    assert ledger.since(KEY, {NODE: 7}, NEVER, 1.0) == Sent(2, 200, 100)
    assert ledger.since(KEY, {NODE: 8}, NEVER, 1.0) == Sent(1, 100, 50)
    assert ledger.since(KEY, {NODE: 9}, NEVER, 1.0) == Sent()
    assert ledger.since((NODE, b"other"), {}, NEVER, 1.0) == Sent()


def test_it_counts_until_the_node_itself_told_its_queue() -> None:
    ledger = SentLedger()
    sent(ledger, "1", now=1.0)
    sent(ledger, "2", now=3.0)
    assert ledger.since(KEY, {}, 2.0, 4.0) == Sent(1, 100, 50)


def test_what_has_ended_counts_no_longer_and_nothing_counts_for_ever() -> None:
    ledger = SentLedger()
    sent(ledger, "1")
    sent(ledger, "2")
    ledger.ended("1")
    ledger.ended("1")
    assert ledger.since(KEY, {}, NEVER, 1.0) == Sent(1, 100, 50)
    assert ledger.since(KEY, {}, NEVER, SENT_MEMORY_S + 1) == Sent()


def test_there_are_never_too_many() -> None:
    ledger = SentLedger()
    for number in range(SENT_MAX + 10):
        sent(ledger, str(number))
    assert ledger.since(KEY, {}, NEVER, 0.0).requests == SENT_MAX
