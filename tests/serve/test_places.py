"""Places that are kept for who asked."""

from meshnode.serve.places import Held, Place, Places
from meshwire.limits import PLACES_TOTAL

DIGEST = b"d" * 32


def test_one_for_each_origin_and_model_until_its_time() -> None:
    places = Places()
    first = Place(1.0, 100, 10)
    assert places.keep(b"a", DIGEST, first, 0.0)
    assert places.keep(b"a", DIGEST, Place(2.0, 200, 20), 0.0)
    assert places.keep(b"a", b"other", Place(2.0, 1, 1), 0.0)
    assert places.held(DIGEST, b"b", 0.0) == Held(1, 200, 20)
    assert places.held(DIGEST, b"a", 0.0) == Held()
    places.free(b"a", DIGEST, first)  # which is there no longer
    assert places.held(DIGEST, b"b", 1.9).requests == 1
    assert places.held(DIGEST, b"b", 2.0) == Held()


def test_there_are_never_too_many() -> None:
    places = Places()
    kept = [places.keep(str(n).encode(), DIGEST, Place(1.0, 1, 1), 0.0) for n in range(PLACES_TOTAL + 1)]
    assert kept == [True] * PLACES_TOTAL + [False]
    assert places.keep(b"later", DIGEST, Place(9.0, 1, 1), 1.0)
