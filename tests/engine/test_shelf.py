"""The shelf by itself: what is found, and what makes room."""

from meshnode.engine.worker.shelf import Kept, Shelf


def kept(first, last, *, scope=b"a", least=0, size=10):
    return Kept(scope, list(range(first, last)), least, bytes(size))


def test_the_longest_beginning_is_found_in_its_scope_only():
    shelf = Shelf(100)
    short, long = kept(0, 5), kept(0, 9)
    shelf.put(short)
    shelf.put(long)
    shelf.put(kept(0, 20, scope=b"b"))
    found = shelf.find(b"a", list(range(20)))
    assert (found.length, found.kept) == (9, long)
    assert shelf.find(b"c", list(range(20))) is None
    assert shelf.find(b"", list(range(20))) is None
    assert shelf.find(b"a", [9, 9]) is None


def test_what_must_be_whole_or_reach_a_window_is_found_only_then():
    shelf = Shelf(100)
    shelf.put(kept(0, 10, least=6))
    assert shelf.find(b"a", [*range(5), 77]) is None
    assert shelf.find(b"a", [*range(7), 77]).length == 7
    assert shelf.find(b"a", [*range(7), 77], whole=True) is None
    assert shelf.find(b"a", list(range(12)), whole=True).length == 10


def test_the_least_recently_used_make_room_and_what_is_too_large_moves_nobody():
    shelf = Shelf(30)
    first, second, third = (kept(start, start + 5) for start in (0, 10, 20))
    for each in (first, second, third):
        shelf.put(each)
    shelf.remove(first)
    shelf.put(first)  # used again
    shelf.put(kept(30, 35, size=31))
    assert (len(shelf), shelf.used) == (3, 30)
    shelf.put(kept(40, 45, size=15))
    assert (len(shelf), shelf.used) == (2, 25)
    assert shelf.find(b"a", first.tokens).kept is first
    shelf.remove(first)
    assert shelf.used == 15
    shelf.clear()
    assert (len(shelf), shelf.used) == (0, 0)
