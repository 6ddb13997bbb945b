"""Tickets: an invitation as one line of text, and the rules by which it is redeemed once. Pure.

A ticket carries a secret that never travels again: the joiner proves it with a MAC over its own link's
handshake hash and its own key, so that nobody who sees or forwards the request can use it for another key or
link.
"""

import base64
import binascii
import hashlib
import hmac
from struct import pack
from typing import Annotated

import msgpack
import msgspec

from meshnode.errors import ClockSkew, TicketExpired, TicketInvalid, TicketUnknown, TicketUsed
from meshnode.trust.certificates import CLOCK_TOLERANCE_MS, FOR_EVER_MS, Key, UnixMs
from meshwire.errors import RemoteWireError
from meshwire.fields import pack_fields, unpack_fields

PREFIX = "mesh1"
SECRET_BYTES = 16
ID_BYTES = 8
CHECKSUM_BYTES = 4
ADDRESSES_MAX = 8
TEXT_CHARACTERS_MAX = 2048

ID_TAG = b"meshnode/ticket-id/1"
MAC_KEY_TAG = b"meshnode/ticket-mac/1"
MAC_TAG = b"meshnode/join/1"

ASK_AGAIN = "Ask for a new one: `meshnode invite` on a device of the mesh prints it."

Address = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Ticket(msgspec.Struct, frozen=True):
    """An invitation. `issuer` is the key of the node that redeems it; `addresses` say where to ask."""

    root_key: Key
    issuer: Key
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=ADDRESSES_MAX)]
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    expires_ms: UnixMs = FOR_EVER_MS
    mesh_name: Annotated[str, msgspec.Meta(max_length=64)] = ""


class TicketRow(msgspec.Struct, frozen=True):
    """What the issuer keeps of a ticket: never the secret, only what was derived from it.

    `redeemed_by` is the key of the device that used it, and `certificate` what it got.
    """

    id: bytes
    mac_key: bytes
    expires_ms: int
    labels: tuple[str, ...] = ()
    redeemed_by: bytes = b""
    certificate: bytes = b""


def to_text(ticket: Ticket) -> str:
    """The ticket as one line: `mesh1`, then base32 of its fields and a checksum. Case does not matter."""
    packed = msgpack.packb(pack_fields(ticket))
    return PREFIX + _base32(packed + _checksum(packed))


def from_text(text: str) -> Ticket:
    """The ticket in this text, whatever line breaks or capitals it caught; raises TicketInvalid."""
    compact = "".join(text.split()).lower()
    if not compact.startswith(PREFIX):
        raise _invalid("This is not a meshnode ticket: one starts with `mesh1`.")
    if len(compact) > TEXT_CHARACTERS_MAX:
        raise _invalid("This is not a meshnode ticket: it is too long.")
    packed = _checked(compact.removeprefix(PREFIX))
    try:
        return unpack_fields(Ticket, msgpack.unpackb(packed, strict_map_key=False))
    except (ValueError, TypeError, msgpack.UnpackException, RemoteWireError) as error:
        raise _invalid(f"The ticket cannot be read: {error}.") from error


def ticket_id(secret: bytes) -> bytes:
    """What names the ticket on the wire; says nothing of the secret."""
    return hashlib.sha256(ID_TAG + secret).digest()[:ID_BYTES]


def mac_key(secret: bytes) -> bytes:
    """What the issuer keeps to check MACs with."""
    return hashlib.sha256(MAC_KEY_TAG + secret).digest()


def row_of(ticket: Ticket, *, labels: tuple[str, ...]) -> TicketRow:
    """What the issuer keeps; `labels` go into the certificate."""
    return TicketRow(ticket_id(ticket.secret), mac_key(ticket.secret), ticket.expires_ms, labels)


def mac(secret: bytes, handshake_hash: bytes, own_key: bytes) -> bytes:
    """The joiner's proof that it has the secret, good for this handshake and this key only."""
    return _mac(mac_key(secret), handshake_hash, own_key)


def check_redemption(
    row: TicketRow | None, *, proof: bytes, binding: bytes, key: bytes, wall_ms: int, now_ms: int
) -> TicketRow:
    """The row, if the node with this key may have a certificate for it.

    `binding` is the handshake hash of the joiner's link, from somebody we believe; `wall_ms` the joiner's
    clock, 0 if it did not say. A device that redeemed the ticket already may ask again while the ticket
    lasts, since the reply can be lost. Raises TicketUnknown, TicketUsed, TicketExpired or ClockSkew; nothing
    but TicketUnknown without proof of the secret.
    """
    if row is None or not hmac.compare_digest(_mac(row.mac_key, binding, key), proof):
        raise _unknown()
    if row.redeemed_by:
        check_redeemed(row, key)
    if now_ms > row.expires_ms:
        raise expired(now_ms - row.expires_ms)
    if wall_ms and abs(wall_ms - now_ms) > CLOCK_TOLERANCE_MS:
        raise _skewed(wall_ms - now_ms)
    return row


def check_redeemed(row: TicketRow | None, key: bytes) -> TicketRow:
    """The row, if it was this key that redeemed it; raises TicketUsed or TicketUnknown."""
    if row is None:
        raise _unknown()
    if row.redeemed_by != key:
        raise TicketUsed(
            "Another device has already used this ticket.", hint=f"A ticket is for one device. {ASK_AGAIN}"
        )
    return row


def expired(ago_ms: int, *, hint: str = ASK_AGAIN) -> TicketExpired:
    """The error for a ticket whose time was over `ago_ms` ago."""
    return TicketExpired(f"The ticket expired {max(1, ago_ms // 60_000)} min ago.", hint=hint)


def _mac(key: bytes, binding: bytes, joiner_key: bytes) -> bytes:
    lengths = pack(">II", len(binding), len(joiner_key))
    return hmac.digest(key, MAC_TAG + lengths + binding + joiner_key, "sha256")


def _checksum(packed: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + packed).digest()[:CHECKSUM_BYTES]


def _base32(packed: bytes) -> str:
    return base64.b32encode(packed).decode("ascii").rstrip("=").lower()


def _checked(body: str) -> bytes:
    """The bytes behind the prefix, less their checksum."""
    try:
        decoded = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except (ValueError, binascii.Error) as error:
        raise _invalid("The ticket is damaged: it has characters that no ticket has.") from error
    packed, checksum = decoded[:-CHECKSUM_BYTES], decoded[-CHECKSUM_BYTES:]
    # The last character holds bits beyond the last byte, which decoding passes over.
    if not hmac.compare_digest(checksum, _checksum(packed)) or _base32(decoded) != body:
        raise _invalid("The ticket is damaged: part of it is missing or was changed.")
    return packed


def _unknown() -> TicketUnknown:
    return TicketUnknown("The issuer does not know this ticket.", hint=ASK_AGAIN)


def _invalid(message: str) -> TicketInvalid:
    return TicketInvalid(message, hint=f"Copy the whole line, from `mesh1` to its end. {ASK_AGAIN}")


def _skewed(ahead_ms: int) -> ClockSkew:
    direction = "ahead of" if ahead_ms > 0 else "behind"
    return ClockSkew(
        f"The joining device's clock is {abs(ahead_ms) // 60_000} min {direction} the issuer's.",
        hint="Set both machines' clocks right (NTP), then join again; the ticket is still good.",
    )
