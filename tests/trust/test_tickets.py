"""Tickets: their text, and the rules of redeeming one."""

import base64
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import ClockSkew, MeshError, TicketExpired, TicketInvalid, TicketUnknown, TicketUsed
from meshnode.trust import tickets
from meshnode.trust.tickets import (
    Ticket,
    TicketRow,
    check_redeemed,
    check_redemption,
    from_text,
    mac,
    row_of,
    ticket_id,
    to_text,
)

NOW = 1_700_000_000_000
MINUTE = 60_000
SECRET = b"s" * 16
JOINER, OTHER = b"j" * 32, b"o" * 32
HASH = b"h" * 32
TICKET = Ticket(
    root_key=b"r" * 32,
    issuer=b"i" * 32,
    addresses=("ws://192.168.1.20:8421", "ws://10.0.0.7:8421"),
    secret=SECRET,
    expires_ms=NOW + 60 * MINUTE,
    mesh_name="home",
)


def keys() -> st.SearchStrategy[bytes]:
    return st.binary(min_size=32, max_size=32)


TICKETS = st.builds(
    Ticket,
    keys(),
    keys(),
    st.lists(st.text(min_size=1, max_size=20), max_size=8).map(tuple),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**63 - 1),
    st.text(max_size=20),
)


@given(TICKETS)
def test_text_round_trip(ticket: Ticket) -> None:
    assert from_text(to_text(ticket)) == ticket


def test_a_ticket_survives_mail_and_shouting_and_fits_a_qr_code() -> None:
    text = to_text(TICKET)
    assert text.startswith("mesh1")
    assert text.isalnum()
    assert len(text) < 400
    wrapped = "  " + "\n".join(text[n : n + 60] for n in range(0, len(text), 60)).upper() + "\r\n"
    assert from_text(wrapped) == TICKET


@given(st.data())
def test_any_changed_or_lost_character_is_noticed(data: st.DataObject) -> None:
    text = to_text(TICKET)
    position = data.draw(st.integers(5, len(text) - 1))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
    if letter != text[position]:
        with pytest.raises(TicketInvalid):
            from_text(text[:position] + letter + text[position + 1 :])
    with pytest.raises(TicketInvalid):
        from_text(text[:position])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "mesh2abc",
        "mesh1",
        "mesh1!!!",
        "mesh1" + "a" * 5000,
        "ws://host:1",
        "mesh1ä",
        "http://mesh1",
    ],
)
def test_garbage_is_no_ticket_and_says_what_to_do(text: str) -> None:
    with pytest.raises(TicketInvalid, match="meshnode invite"):
        from_text(text)


@pytest.mark.parametrize("fields", [{}, [], 5, {1: b"short"}, {1: True}, {"a": 1}])
def test_a_ticket_with_a_good_checksum_and_bad_fields_is_refused(fields: Any) -> None:
    packed = msgpack.packb(fields)
    text = base64.b32encode(packed + tickets._checksum(packed)).decode().rstrip("=").lower()
    with pytest.raises(TicketInvalid, match="cannot be read"):
        from_text("mesh1" + text)


@given(st.text(max_size=200))
def test_random_text_is_refused_politely(text: str) -> None:
    with pytest.raises(TicketInvalid):
        from_text("mesh1" + text)


ROW = row_of(TICKET, labels=("trusted",))


def redeem(row: TicketRow | None = ROW, **changes: Any) -> TicketRow:
    facts: dict[str, Any] = {
        "proof": mac(SECRET, HASH, JOINER),
        "binding": HASH,
        "key": JOINER,
        "wall_ms": NOW,
        "now_ms": NOW,
    }
    return check_redemption(row, **(facts | changes))


def used_by(key: bytes) -> TicketRow:
    return TicketRow(ROW.id, ROW.mac_key, ROW.expires_ms, ROW.labels, key, b"certificate")


def test_the_issuer_keeps_nothing_that_makes_the_ticket() -> None:
    assert ROW.id == ticket_id(SECRET)
    assert SECRET not in ROW.id + ROW.mac_key
    assert redeem() is ROW


@pytest.mark.parametrize(
    ("row", "changes", "error"),
    [
        (None, {}, TicketUnknown),
        (ROW, {"proof": bytes(32)}, TicketUnknown),
        (ROW, {"proof": b""}, TicketUnknown),
        (ROW, {"proof": mac(b"x" * 16, HASH, JOINER)}, TicketUnknown),
        (ROW, {"key": OTHER}, TicketUnknown),
        (ROW, {"binding": b"another link's hash............."}, TicketUnknown),
        (used_by(OTHER), {}, TicketUsed),
        (ROW, {"now_ms": ROW.expires_ms + 1, "wall_ms": 0}, TicketExpired),
        (used_by(JOINER), {"now_ms": ROW.expires_ms + 1, "wall_ms": 0}, TicketExpired),
        (ROW, {"wall_ms": NOW + 11 * MINUTE}, ClockSkew),
        (ROW, {"wall_ms": NOW - 11 * MINUTE}, ClockSkew),
    ],
)
def test_refusals_are_typed_and_say_what_to_do(
    row: TicketRow | None, changes: dict[str, Any], error: type[MeshError]
) -> None:
    with pytest.raises(error) as caught:
        redeem(row, **changes)
    assert type(caught.value) is error
    assert "meshnode invite" in caught.value.hint or "clocks right" in caught.value.hint


def test_without_the_secret_one_learns_nothing_about_a_ticket() -> None:
    for row in (None, ROW, used_by(OTHER)):
        with pytest.raises(TicketUnknown):
            redeem(row, proof=bytes(32), now_ms=NOW + 10**9)


def test_the_clocks_may_differ_by_ten_minutes_or_be_unknown() -> None:
    for wall_ms in (NOW + 10 * MINUTE, NOW - 10 * MINUTE, 0):
        assert redeem(wall_ms=wall_ms) is ROW


def test_the_same_device_may_ask_again() -> None:
    row = used_by(JOINER)
    assert redeem(row) is row
    assert check_redeemed(row, JOINER) is row
    with pytest.raises(TicketUsed):
        check_redeemed(row, OTHER)
    with pytest.raises(TicketUnknown):
        check_redeemed(None, JOINER)
