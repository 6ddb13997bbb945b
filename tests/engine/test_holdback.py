"""What leaves, what waits, and that ids and bytes always leave together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.engine.holdback import Holdback, Release


def feed(holdback, pieces):
    """Push all pieces as tokens 0, 1, 2, …; the releases."""
    released = []
    for token, piece in enumerate(pieces):
        if release := holdback.push(token, piece):
            released.append(release)
        if holdback.stopped:
            return released
    if release := holdback.flush():
        released.append(release)
    return released


def test_plain_tokens_leave_at_once():
    assert feed(Holdback(), [b"one", b" two"]) == [Release(0, (0,), "one"), Release(1, (1,), " two")]


def test_half_a_character_waits_with_its_token():
    smile = "🙂".encode()
    assert feed(Holdback(), [b"a", smile[:2], smile[2:], b"b"]) == [
        Release(0, (0,), "a"),
        Release(1, (1, 2), "🙂"),
        Release(3, (3,), "b"),
    ]


def test_bytes_that_never_become_a_character_are_replaced_at_the_end():
    assert feed(Holdback(), [b"a", b"\xf0\x9f"]) == [Release(0, (0,), "a"), Release(1, (1,), "�")]


def test_a_possible_stop_waits_and_leaves_when_it_is_none():
    assert feed(Holdback(["END"]), [b"a", b"E", b"N", b"x"]) == [
        Release(0, (0,), "a"),
        Release(1, (1, 2, 3), "ENx"),
    ]


def test_a_stop_string_ends_the_answer_before_it():
    holdback = Holdback(["END"])
    assert feed(holdback, [b"a", b" E", b"ND", b"never"]) == [Release(0, (0,), "a"), Release(1, (), " ")]
    assert holdback.stopped


def test_the_earliest_of_several_stops_wins():
    holdback = Holdback(["two", "one"])
    assert "".join(release.text for release in feed(holdback, [b"zero one two"])) == "zero "


def test_an_empty_stop_string_is_none():
    assert feed(Holdback([""]), [b"a"]) == [Release(0, (0,), "a")]


def test_a_token_without_bytes_leaves_with_an_empty_text():
    assert feed(Holdback(), [b"", b"a"]) == [Release(0, (0,), ""), Release(1, (1,), "a")]


@given(
    st.text(max_size=60), st.lists(st.integers(1, 5), max_size=60), st.lists(st.text(max_size=4), max_size=3)
)
def test_nothing_is_lost_doubled_or_reordered(text, cuts, stops):
    data, pieces = text.encode(), []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    pieces.append(data)
    holdback = Holdback(stops)
    released = feed(holdback, pieces)
    expected = min(
        (text[: text.find(stop)] for stop in stops if stop and stop in text), key=len, default=text
    )
    assert "".join(release.text for release in released) == expected
    ids = [token for release in released for token in release.ids]
    assert ids == list(range(len(ids)))
    assert [release.first_index for release in released] == [
        sum(len(before.ids) for before in released[:place]) for place in range(len(released))
    ]
    assert holdback.stopped == any(stop and stop in text for stop in stops)


@pytest.mark.parametrize("stop", ["aab", "abab"])
def test_overlapping_beginnings_of_a_stop_are_seen(stop):
    pieces = [bytes([byte]) for byte in b"x" + stop[:-1].encode() + stop.encode()]
    text = "".join(release.text for release in feed(Holdback([stop]), pieces))
    assert text == ("x" + stop[:-1] + stop).split(stop)[0]
