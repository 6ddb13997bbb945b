"""The book of records: reconciliation, ordering, expiry, bounds, and what it refuses."""

import random
from functools import partial

from meshnode.mesh import book
from meshnode.mesh.book import DELTA_BUDGET_BYTES, Refused
from meshnode.mesh.digest import DIGEST_PAGE
from meshwire.ids import node_id, to_text
from meshwire.limits import RECORDS_PER_PEER, RECORDS_TOTAL
from meshwire.records import RecordType, read_record
from meshwire.signing import Signer
from tests.mesh.cast import MINUTE_MS, WALL_MS, Actor

NODE, MODEL, VITALS = RecordType.NODE, RecordType.MODEL, RecordType.VITALS
CERTIFICATE, TOMBSTONE = RecordType.CERTIFICATE, RecordType.TOMBSTONE


def reasons(merged: book.Merged) -> list[Refused]:
    return [refusal.reason for refusal in merged.refused]


# --- Reconciliation ---


def test_two_books_agree_after_one_exchange_each_way() -> None:
    ann, bob = Actor(1), Actor(2)
    ann.publish(NODE)
    ann.publish(MODEL, "smollm2:135m@Q4_1")
    bob.publish(VITALS)
    assert len(ann.learn_from(bob).accepted) == 1
    assert len(bob.learn_from(ann).accepted) == 2
    assert ann.book.digest() == bob.book.digest()
    assert bob.book.deltas_for(ann.book.digest(), now=0) == ()


def test_one_counter_runs_through_all_of_an_owners_records() -> None:
    ann = Actor(1)
    seqs = [ann.publish(kind).seq for kind in (NODE, VITALS, NODE, VITALS)]
    assert seqs == [WALL_MS, WALL_MS + 1, WALL_MS + 2, WALL_MS + 3]
    assert ann.book.digest() == [(ann.node[:8], WALL_MS + 3)]


def test_a_delta_cut_short_leaves_no_gap() -> None:
    ann, bob = Actor(1), Actor(2)
    for number in range(10):
        ann.publish(MODEL, f"m{number}", content="x" * 200)
    first = bob.learn_from(ann, budget_bytes=1500).accepted
    assert 0 < len(first) < 10
    assert [record.seq for record in first] == sorted(record.seq for record in first)
    assert bob.book.version(ann.node) == first[-1].seq
    while bob.learn_from(ann, budget_bytes=1500):
        pass
    assert {record.name for record in bob.book.of(ann.node)} == {f"m{number}" for number in range(10)}


def test_deltas_stay_within_the_budget() -> None:
    ann = Actor(1)
    for number in range(60):
        other = Actor(100 + number)
        ann.hear(other.sign(1, content="x" * 700))
    deltas = ann.book.deltas_for([], now=0)
    assert 10 <= len(deltas) <= 256
    assert sum(map(len, deltas)) <= DELTA_BUDGET_BYTES


def test_certificates_come_before_everything_else() -> None:
    ann, issuer = Actor(1), Actor(2)
    ann.hear(Actor(3).sign(5), Actor(4).sign(5), issuer.sign(7, CERTIFICATE, to_text(ann.node)))
    raws = ann.book.deltas_for([], now=0)
    assert raws[0] == issuer.sign(7, CERTIFICATE, to_text(ann.node)).raw


def test_a_certificate_in_the_same_batch_makes_its_subject_count() -> None:
    ann, issuer, newcomer = Actor(1), Actor(2), Actor(3)
    ann.book._is_member = lambda key: bool(ann.book.certificates_of(node_id(key)))
    certificate = issuer.sign(9, CERTIFICATE, to_text(newcomer.node))
    merged = ann.hear(newcomer.sign(1), certificate)
    assert [record.type for record in merged.accepted] == [CERTIFICATE, NODE]
    assert ann.book.certificates_of(newcomer.node) == [certificate]


def test_a_large_mesh_is_digested_page_by_page() -> None:
    ann, bob = Actor(1), Actor(2)
    others = [Actor(1000 + number) for number in range(150)]
    for other in others:
        bob.hear(other.sign(1))
    for other in others[:120]:
        ann.hear(other.sign(1))
    pages = [ann.book.digest(), ann.book.digest(start=ann.book.digest()[-1][0])]
    assert [len(page) for page in pages] == [DIGEST_PAGE, DIGEST_PAGE]
    for page in pages:
        ann.hear(*bob.book.deltas_for(page, now=0, budget_bytes=10**6))
    assert len(ann.book) == 150


def test_a_page_does_not_ask_for_what_it_does_not_cover() -> None:
    ann = Actor(1)
    for number in range(150):
        ann.hear(Actor(1000 + number).sign(1))
    assert ann.book.deltas_for(ann.book.digest(), now=0, budget_bytes=10**6) == ()


def test_differences_name_only_where_two_books_differ() -> None:
    ann, bob = Actor(1), Actor(2)
    for number in range(3, 9):
        for actor in (ann, bob):
            actor.hear(Actor(number).sign(5))
    newer, unknown = Actor(3).sign(9), Actor(20).sign(4)
    ann.hear(newer, unknown)
    bob.hear(Actor(4).sign(7))
    differing = dict(bob.book.differences(ann.book.digest()))
    assert differing == {Actor(3).node[:8]: 5, Actor(20).node[:8]: 0, Actor(4).node[:8]: 7}
    raws = ann.book.deltas_for(list(differing.items()), now=0, named_only=True)
    assert sorted(raws) == sorted([newer.raw, unknown.raw])
    assert ann.book.deltas_for([], now=0, named_only=True) == ()


def test_a_record_that_came_out_of_order_leaves_the_version_alone_and_is_not_handed_on() -> None:
    ann, bob, eve = Actor(1), Actor(2), Actor(3)
    first, second = ann.publish(NODE), ann.publish(MODEL, "m")
    bob.hear(second, in_order=False)
    assert bob.book.get(ann.node, MODEL, "m") == second
    assert bob.book.version(ann.node) == 0
    assert not eve.learn_from(bob)
    bob.learn_from(ann)
    assert bob.book.version(ann.node) == second.seq
    assert [record.raw for record in eve.learn_from(bob).accepted] == [first.raw, second.raw]


def test_news_that_follow_what_never_came_leave_the_version_alone() -> None:
    ann, bob = Actor(1), Actor(2)
    first, second = ann.publish(NODE), ann.publish(MODEL, "m")
    prefix = ann.node[:8]
    bob.hear(second, follows={prefix: first.seq})
    assert bob.book.get(ann.node, MODEL, "m") == second
    assert bob.book.version(ann.node) == 0
    assert [record.raw for record in bob.learn_from(ann).accepted] == [first.raw]
    third = ann.publish(MODEL, "n")
    bob.hear(third, follows={prefix: second.seq})
    assert bob.book.version(ann.node) == third.seq


def test_only_what_is_new_is_news() -> None:
    ann, bob = Actor(1), Actor(2)
    ann.publish(NODE)
    assert ann.book.take_news() == {ann.node: 0}
    bob.learn_from(ann)
    assert bob.book.take_news() == {ann.node: 0}
    bob.learn_from(ann)
    known = ann.publish(NODE, content="moved").seq
    bob.learn_from(ann)
    assert bob.book.take_news() == {}
    ann.publish(MODEL, "m")
    bob.learn_from(ann)
    assert bob.book.take_news() == {ann.node: known}
    ann.publish(RecordType.TOMBSTONE)
    bob.learn_from(ann)
    assert bob.book.take_news().keys() == {ann.node}


def test_beyond_a_gap_nothing_is_handed_on() -> None:
    ann, bob, eve = Actor(1), Actor(2), Actor(3)
    first, missed, last = (ann.publish(MODEL, name) for name in ("a", "b", "c"))
    bob.hear(first)
    bob.hear(last, in_order=False)
    assert eve.learn_from(bob).accepted == (first,)
    assert [record.name for record in eve.learn_from(ann).accepted] == [missed.name, last.name]


def test_everybody_converges_whatever_the_order() -> None:
    rng = random.Random(7)
    actors = [Actor(number) for number in range(1, 9)]
    for actor in actors:
        for number in range(5):
            actor.publish(rng.choice([NODE, VITALS, MODEL]), f"n{number % 3}", content="x" * 150)
    for _ in range(200):
        one, other = rng.sample(actors, 2)
        one.learn_from(other, budget_bytes=900)
    digests = [actor.book.digest() for actor in actors]
    assert all(digest == digests[0] for digest in digests)
    assert len({frozenset(record.raw for _, record in actor.book.all()) for actor in actors}) == 1


# --- Order, restarts, leaving ---


def test_an_older_record_never_replaces_a_newer_one() -> None:
    ann, bob = Actor(1), Actor(2)
    old, new = ann.publish(NODE, content="old"), ann.publish(NODE, content="new")
    bob.hear(new)
    assert reasons(bob.hear(old)) == [Refused.STALE]
    assert bob.book.get(ann.node, NODE) == new


def test_two_bodies_under_one_seq_are_an_equivocation_also_under_another_name() -> None:
    ann, bob = Actor(1), Actor(2)
    kept = ann.sign(5, content="one")
    bob.hear(kept)
    assert reasons(bob.hear(ann.sign(5, content="other"))) == [Refused.EQUIVOCATION]
    assert reasons(bob.hear(ann.sign(5, MODEL, "m"))) == [Refused.EQUIVOCATION]
    assert bob.book.of(ann.node) == [kept]


def test_an_equivocator_is_heard_again_once_the_record_has_expired() -> None:
    ann, bob = Actor(1), Actor(2)
    bob.hear(ann.sign(5, ttl_ms=MINUTE_MS))
    bob.pass_time(61)
    bob.book.expire(bob.now)
    assert bob.hear(ann.sign(6, content="honest again", issued_ms=bob.wall_ms))


def test_a_tombstone_ends_what_came_before_and_a_newer_record_brings_the_node_back() -> None:
    ann, bob = Actor(1), Actor(2)
    before = ann.publish(MODEL, "m")
    ann.publish(VITALS)
    tombstone = ann.publish(TOMBSTONE)
    bob.hear(before, tombstone)
    assert bob.book.of(ann.node) == [tombstone]
    assert reasons(bob.hear(before)) == [Refused.LEFT]
    back = ann.publish(NODE)
    assert bob.hear(back, sender=None).accepted == (back,)


def test_an_issuer_that_leaves_takes_no_certificate_along() -> None:
    ann, bob = Actor(1), Actor(2)
    certificate = ann.publish(CERTIFICATE, to_text(bob.node))
    bob.hear(certificate, ann.publish(NODE), ann.publish(TOMBSTONE))
    assert bob.book.certificates_of(bob.node) == [certificate]


def test_a_node_with_a_stale_disk_continues_above_what_others_hold() -> None:
    ann, bob = Actor(1), Actor(2)
    ann.wall_ms += 5 * MINUTE_MS
    last = ann.publish(NODE)
    bob.hear(last)
    reborn = Actor(1)
    reborn.publish(NODE)
    reborn.book.notice_versions(bob.book.digest(), reborn.wall_ms)
    assert reborn.book.outrun
    assert reborn.publish(NODE).seq == last.seq + 1
    assert not reborn.book.outrun
    assert bob.learn_from(reborn)


def test_outrun_lasts_until_every_record_is_signed_again() -> None:
    ann = Actor(1)
    ann.publish(NODE)
    ann.publish(VITALS)
    ann.hear(ann.sign(WALL_MS + 10_000))
    ann.publish(NODE)
    assert ann.book.outrun
    ann.publish(VITALS)
    assert not ann.book.outrun


def test_an_issuer_gets_its_certificates_back_after_a_restart() -> None:
    issuer, bob = Actor(1), Actor(2)
    certificate = issuer.sign(issuer.book.next_seq(WALL_MS), CERTIFICATE, to_text(bob.node))
    issuer.book.adopt(certificate, 0.0)
    bob.learn_from(issuer)
    reborn = Actor(1)
    reborn.book.recalling = True
    reborn.pass_time(10)
    reborn.publish(NODE)
    reborn.learn_from(bob)
    assert not bob.book.deltas_for(reborn.book.digest(), now=0)
    assert reborn.book.certificates_of(bob.node) == [certificate]
    assert Actor(3).learn_from(reborn).accepted[0] == certificate


def test_a_lie_about_our_version_does_not_push_the_counter_into_the_future() -> None:
    ann = Actor(1)
    ann.book.notice_versions([(ann.node[:8], 2**60)], WALL_MS)
    assert ann.publish(NODE).seq == WALL_MS


def test_our_own_signed_record_is_proof_of_how_far_we_were() -> None:
    ann = Actor(1)
    assert reasons(ann.hear(ann.sign(2**60))) == [Refused.OWN]
    assert ann.publish(NODE).seq == 2**60 + 1


def test_the_floor_kept_on_disk_is_honoured() -> None:
    ann = Actor(1)
    ann.book.raise_floor(WALL_MS + 500)
    assert ann.publish(NODE).seq == WALL_MS + 501
    assert ann.book.last_seq == WALL_MS + 501


# --- Time ---


def test_a_record_ends_when_its_ttl_is_over_by_the_local_clock() -> None:
    ann, bob = Actor(1), Actor(2)
    record = ann.publish(VITALS, ttl_ms=MINUTE_MS)
    bob.hear(record)
    assert bob.book.expire(59.9) == []
    assert bob.book.expire(60.0) == [record]
    assert len(bob.book) == 0


def test_an_expired_record_is_not_brought_back_by_a_third_hand() -> None:
    ann, bob, eve = Actor(1), Actor(2), Actor(3)
    ann.publish(VITALS, ttl_ms=MINUTE_MS)
    bob.learn_from(ann)
    eve.pass_time(0)
    eve.hear(*ann.book.deltas_for([], now=0))
    bob.pass_time(61)
    bob.book.expire(bob.now)
    assert not bob.learn_from(eve)
    assert reasons(bob.hear(ann.book.of(ann.node)[0])) == [Refused.STALE]


def test_a_ttl_without_end_is_capped() -> None:
    ann, bob = Actor(1), Actor(2)
    bob.hear(ann.publish(VITALS, ttl_ms=2**62), sender=ann.node)
    assert bob.book.expire(3600.0)


def test_a_third_hand_cannot_date_records_beyond_the_tolerance() -> None:
    ann, bob = Actor(1), Actor(2)
    future = ann.sign(1, issued_ms=WALL_MS + 11 * MINUTE_MS)
    past = ann.sign(2, issued_ms=WALL_MS - 26 * MINUTE_MS)
    assert reasons(bob.hear(future, past)) == [Refused.SKEWED, Refused.SKEWED]
    assert len(bob.hear(future, past, sender=ann.node).accepted) == 2


def test_clocks_five_minutes_apart_are_no_obstacle() -> None:
    bob = Actor(2)
    for skew_minutes in (-5, 5):
        other = Actor(10 + skew_minutes)
        other.wall_ms += skew_minutes * MINUTE_MS
        assert bob.hear(other.publish(VITALS, ttl_ms=MINUTE_MS))


def test_an_old_record_lives_no_longer_than_its_issue_allows() -> None:
    ann, bob = Actor(1), Actor(2)
    bob.hear(ann.sign(1, issued_ms=WALL_MS - 20 * MINUTE_MS))
    assert bob.book.expire(5 * 60.0)


def test_what_is_about_to_end_is_not_handed_on() -> None:
    ann, bob = Actor(1), Actor(2)
    ann.publish(VITALS, ttl_ms=MINUTE_MS)
    ann.publish(CERTIFICATE, "someone", ttl_ms=MINUTE_MS)
    ann.pass_time(50)
    assert [record.type for record in bob.learn_from(ann).accepted] == [CERTIFICATE]


def test_the_memory_of_an_owner_outlasts_its_records_and_ends() -> None:
    ann, bob = Actor(1), Actor(2)
    bob.hear(ann.publish(VITALS, ttl_ms=MINUTE_MS))
    bob.book.expire(60.0)
    assert bob.book.version(ann.node) == WALL_MS
    bob.book.expire(60.0 + book.MEMORY_S + 1)
    assert bob.book.version(ann.node) == 0


# --- Strangers, forgeries, bounds ---


def test_a_strangers_record_is_refused_and_moves_no_version() -> None:
    eve = Actor(3)
    bob = Actor(2, strangers=[eve])
    assert reasons(bob.hear(eve.sign(5))) == [Refused.STRANGER]
    bob.strangers.clear()
    assert bob.hear(eve.sign(5))


def test_only_issuers_certify() -> None:
    ann, bob = Actor(1), Actor(2, issuers=False)
    assert reasons(bob.hear(ann.sign(1, CERTIFICATE, "me"))) == [Refused.STRANGER]


def test_a_changed_byte_is_refused() -> None:
    ann, bob = Actor(1), Actor(2)
    raw = bytearray(ann.publish(NODE, content="text").raw)
    raw[-70] ^= 1
    merged = bob.hear(bytes(raw), b"", b"\xc1")
    assert reasons(merged) == [Refused.MALFORMED] * 3
    assert len(bob.book) == 0


def test_what_is_held_already_is_not_verified_again() -> None:
    checked = []

    def verify(*arguments: object) -> None:
        checked.append(arguments)

    bob = book.RecordBook(Actor(2).node, is_member=lambda key: True, read=partial(read_record, verify=verify))
    raw = Actor(1).sign(1).raw
    for _ in range(3):
        bob.merge([raw], now=0, wall_ms=WALL_MS)
    assert len(checked) == 1


def test_no_owner_gets_more_than_its_share() -> None:
    ann, bob = Actor(1), Actor(2)
    merged = bob.hear(*(ann.sign(seq, MODEL, f"m{seq}") for seq in range(1, 31)))
    assert len(merged.accepted) == RECORDS_PER_PEER
    assert set(reasons(merged)) == {Refused.TOO_MANY}
    assert bob.hear(ann.sign(99, MODEL, "m1"))


def test_an_issuer_may_certify_more_nodes_than_it_has_records_of_its_own() -> None:
    issuer, bob = Actor(1), Actor(2)
    certificates = [issuer.sign(seq, CERTIFICATE, f"node{seq}") for seq in range(1, 60)]
    assert len(bob.hear(*certificates).accepted) == 59
    assert bob.hear(issuer.sign(100, NODE))


OWNERS = RECORDS_TOTAL // 16 + 1


def test_the_whole_book_is_bounded() -> None:
    bob = Actor(2)
    records = [
        Actor(1000 + owner).sign(seq, MODEL, f"m{seq}")
        for owner in range(RECORDS_TOTAL // 16 + 1)
        for seq in range(1, 17)
    ]
    merged = bob.hear(*records)
    assert len(merged.accepted) == RECORDS_TOTAL
    assert set(reasons(merged)) == {Refused.FULL}
    assert bob.hear(Actor(1000).sign(50, MODEL, "m1"))


def test_a_dropped_owner_is_forgotten_and_may_come_back() -> None:
    ann, bob = Actor(1), Actor(2)
    record = ann.publish(NODE)
    bob.hear(record)
    revision = bob.book.revision
    bob.book.drop(ann.node)
    assert bob.book.of(ann.node) == []
    assert bob.book.revision > revision
    assert bob.hear(record)


def test_a_member_cannot_sign_for_another() -> None:
    ann, bob, eve = Actor(1), Actor(2), Actor(3)
    forged = bytearray(eve.sign(9, content="x").raw)
    forged[forged.index(eve.signer.public) : forged.index(eve.signer.public) + 32] = Signer(
        (1).to_bytes(32, "big")
    ).public
    assert reasons(bob.hear(bytes(forged))) == [Refused.MALFORMED]
    assert bob.book.of(ann.node) == []
