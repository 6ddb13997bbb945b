"""Who is a member, whatever certificates and revocations come, in whatever order, on links and in gossip."""

import random
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshnode.errors import MeshError
from meshnode.identity import create
from meshnode.mesh.members import Members
from meshnode.trust.certificates import (
    CLOCK_TOLERANCE_MS,
    MEMBER_LIFETIME_MS,
    Certificate,
    certificate_of,
    issue_member,
    revoke,
)
from meshnode.trust.membership import found_closed
from meshwire.records import Record, read_record
from meshwire.signing import Signer
from tests.machines import PLAYED

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
RNG = random.Random(6)
ROOT = Signer(RNG.randbytes(32))
ISSUER, STRANGER = create(RNG.randbytes), create(RNG.randbytes)
DEVICES = tuple(create(RNG.randbytes) for _ in range(3))
MESH = found_closed(ROOT, ISSUER, name="m", node_name="i", serial=bytes(8), now_ms=NOW_MS)
ISSUERS = certificate_of(read_record(MESH.chain[0]))
SIGNERS = {"issuer": ISSUER.signer, "root": ROOT, "device": DEVICES[0].signer, "stranger": STRANGER.signer}
devices = st.integers(0, len(DEVICES) - 1)
which = st.integers(0, 2)


class Issued(NamedTuple):
    record: Record
    says: Certificate


class MembersMachine(RuleBasedStateMachine):
    """What one node makes of three devices, of whose certificates it hears some, and some that were taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.seq = NOW_MS
        self.members = Members(MESH, ISSUER.key, lambda: self.now_ms)
        self.issued: list[list[Issued]] = [[] for _ in DEVICES]
        self.seen: list[list[Issued]] = [[] for _ in DEVICES]
        self.in_book: list[Issued | None] = [None for _ in DEVICES]
        self.revoked: set[bytes] = set()

    def hear(self, *raws: bytes) -> None:
        self.members.book.merge(raws, now=0.0, wall_ms=self.now_ms, in_order=False)

    def stands(self, issued: Issued, spare_ms: int) -> bool:
        """Whether it should count, by clocks that go wrong by so much."""
        in_time = self.now_ms <= min(issued.says.not_after_ms, ISSUERS.not_after_ms) + spare_ms
        return in_time and issued.says.serial not in self.revoked

    def pick(self, who: int, number: int) -> Issued | None:
        return self.issued[who][-1 - number] if number < len(self.issued[who]) else None

    @rule(who=devices)
    def certify(self, who: int) -> None:
        """The issuer makes one more; nobody has seen it yet."""
        self.seq += 1
        record = issue_member(
            ISSUER.signer,
            mesh=MESH.id,
            key=DEVICES[who].key,
            name="x",
            serial=self.seq.to_bytes(8),
            seq=self.seq,
            issued_ms=self.now_ms,
            labels=(),
        )
        self.issued[who].append(Issued(record, certificate_of(record)))

    @rule(who=devices, number=which)
    def show(self, who: int, number: int) -> None:
        """A device links, and shows its chain."""
        issued = self.pick(who, number)
        if issued is None:
            return
        chain = (issued.record.raw, *MESH.chain)
        if not self.stands(issued, CLOCK_TOLERANCE_MS) and not self.members.is_member(DEVICES[who].key):
            with pytest.raises(MeshError):
                self.members.admit(DEVICES[who].key, chain)
        elif self.stands(issued, -CLOCK_TOLERANCE_MS):
            self.members.admit(DEVICES[who].key, chain)
            assert self.members.is_member(DEVICES[who].key)
            self.seen[who].append(issued)

    @rule(who=devices, number=which)
    def hear_of(self, who: int, number: int) -> None:
        """Gossip brings a certificate."""
        issued = self.pick(who, number)
        if issued is None:
            return
        self.hear(*MESH.chain, issued.record.raw)
        self.seen[who].append(issued)
        held = self.in_book[who]
        if self.stands(issued, -CLOCK_TOLERANCE_MS) and (held is None or held.record.seq < issued.record.seq):
            self.in_book[who] = issued

    @rule(who=devices, number=which, by=st.sampled_from(sorted(SIGNERS)))
    def take_back(self, who: int, number: int, by: str) -> None:
        """Somebody says that a certificate counts no more; only the issuer and the root may."""
        issued = self.pick(who, number)
        if issued is None:
            return
        self.seq += 1
        self.hear(revoke(SIGNERS[by], issued.says, seq=self.seq, issued_ms=self.now_ms).raw)
        in_time = self.now_ms <= min(issued.says.not_after_ms, ISSUERS.not_after_ms) - CLOCK_TOLERANCE_MS
        if by in ("issuer", "root") and in_time:
            self.revoked.add(issued.says.serial)

    @rule(who=devices, number=which)
    def steal(self, who: int, number: int) -> None:
        """A stranger shows a device's chain as its own, and one that it has made itself."""
        issued = self.pick(who, number)
        own = issue_member(
            STRANGER.signer,
            mesh=MESH.id,
            key=STRANGER.key,
            name="x",
            serial=bytes(8),
            seq=NOW_MS,
            issued_ms=self.now_ms,
            labels=(),
        )
        for record in [own, *([issued.record] if issued else [])]:
            with pytest.raises(MeshError):
                self.members.admit(STRANGER.key, (record.raw, *MESH.chain))
        self.hear(own.raw)

    @rule(step_ms=st.sampled_from((HOUR_MS, MEMBER_LIFETIME_MS // 3, MEMBER_LIFETIME_MS)))
    def pass_time(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @invariant()
    def no_member_without_a_certificate_that_stands(self) -> None:
        for who, device in enumerate(DEVICES):
            standing = self.members.standing(device.key)
            if standing is None:
                continue
            assert any(self.stands(issued, CLOCK_TOLERANCE_MS) for issued in self.seen[who])
            assert not self.revoked & set(standing.serials)

    @invariant()
    def what_gossip_brought_last_counts_while_it_stands(self) -> None:
        for who, device in enumerate(DEVICES):
            held = self.in_book[who]
            if held is not None and self.stands(held, -CLOCK_TOLERANCE_MS):
                assert self.members.is_member(device.key)

    @invariant()
    def strangers_are_none(self) -> None:
        assert not self.members.is_member(STRANGER.key)
        assert not any(self.members.is_issuer(device.key) for device in DEVICES)


TestMembers = MembersMachine.TestCase
TestMembers.settings = PLAYED
