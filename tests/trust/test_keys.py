"""API keys as text and as what is kept of them: nobody gets in without the secret, nor after its time."""

import hmac
import os

import pytest

from meshnode.errors import KeyRefused
from meshnode.terms.profile import Scope
from meshnode.trust import keys
from meshnode.trust.keys import SECRET_BYTES, KeyRow, check, digest_of, id_in, key_text, new_id

NOW = 1_700_000_000_000


def made(**facts):
    text = key_text(new_id(os.urandom), os.urandom(SECRET_BYTES))
    row = KeyRow(
        id=id_in(text), name="desk", digest=digest_of(text), scopes=(Scope.CHAT,), made_ms=NOW, **facts
    )
    return text, row


def test_a_key_opens_with_its_own_text_only():
    text, row = made()
    other, _ = made()
    assert check(row, text, NOW) is row
    assert text.encode() not in row.digest
    for wrong in (
        other,
        text[:-1] + ("a" if text[-1] != "a" else "b"),
        f"mn-{row.id}-{other[12:]}",
        "",
        "none",
    ):
        with pytest.raises(KeyRefused):
            check(row, wrong, NOW)


@pytest.mark.parametrize(
    ("facts", "now", "said"),
    [({"expires_ms": NOW}, NOW, "expired"), ({"revoked_ms": NOW - 1}, NOW, "revoked")],
)
def test_a_key_that_is_over_says_so_to_who_has_it(facts, now, said):
    text, row = made(**facts)
    with pytest.raises(KeyRefused, match=said):
        check(row, text, now)
    with pytest.raises(KeyRefused, match="not one of this node's"):
        check(row, text[:-1] + ("a" if text[-1] != "a" else "b"), now)
    if "expires_ms" in facts:
        assert check(row, text, now - 1) is row


def test_an_unknown_key_takes_the_same_way(monkeypatch):
    """Also where there is no such id the digests are compared, and by the function that takes constant time."""
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(keys, "hmac", type("Hmac", (), {"compare_digest": staticmethod(compare)}))
    text, row = made()
    for known in (row, None):
        with pytest.raises(KeyRefused):
            check(known, text + "x", NOW)
    assert [len(one) == len(other) == 32 for one, other in compared] == [True, True]


@pytest.mark.parametrize(
    "text", ["", "none", "unused", "sk-abc", "mn-", "mn-abcdefgh-", "MN-abcdefgh-" + "a" * 52]
)
def test_what_is_no_key_has_no_id(text):
    assert id_in(text) == ""
