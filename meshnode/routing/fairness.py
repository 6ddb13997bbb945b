"""Whose turn it is: deficit round robin over token cost, between origins and between the tenants of each. Pure.

Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin" (SIGCOMM 1995): whose turn comes gets
QUANTUM tokens of credit, and goes while its credit covers what it has next in line. Two levels, since an origin names
its own tenants: who invents a hundred of them has no more turns than before.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

QUANTUM = 512  # tokens of credit a round


class Costly(Protocol):
    """Something in line."""

    @property
    def cost(self) -> int:
        """Tokens that its turn takes; does not change while it is in line."""
        ...


Path = Sequence[bytes]
T = TypeVar("T", bound=Costly)


class Line(Generic[T]):
    """What one tenant has in line, in order."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, path: Path, item: T) -> None:
        """One more, at the end."""
        assert not path
        self._waiting.append(item)
        self.tokens += item.cost

    def remove(self, path: Path, item: T) -> None:
        """Somebody left the line."""
        assert not path
        self._waiting.remove(item)
        self.tokens -= item.cost

    def settle(self, path: Path, tokens: int) -> None:
        """A line keeps no accounts."""

    def peek(self) -> T:
        """Whose turn it is."""
        return self._waiting[0]

    def pop(self) -> T:
        """Take whose turn it is out of the line."""
        item = self._waiting.popleft()
        self.tokens -= item.cost
        return item

    def newest(self) -> T:
        """Who came last."""
        return self._waiting[-1]

    def copy(self) -> "Line[T]":
        """Another one, to play through what comes."""
        other: Line[T] = Line()
        other._waiting, other.tokens = self._waiting.copy(), self.tokens
        return other

    def __iter__(self) -> Iterator[T]:
        return iter(self._waiting)


class Turns(Generic[T]):
    """Several who take turns, each of them a Line, or Turns again for `levels` above 1. Nobody in it is empty."""

    def __init__(self, levels: int = 1) -> None:
        self._levels = levels
        self._members: dict[bytes, Line[T] | Turns[T]] = {}
        self._ring: deque[bytes] = deque()  # whose turn it is first
        self._credit: dict[bytes, int] = {}
        self._count = 0
        self.tokens = 0

    def __len__(self) -> int:
        return self._count

    def tokens_of(self, key: bytes) -> int:
        """What one of them has in line."""
        member = self._members.get(key)
        return member.tokens if member is not None else 0

    def heaviest(self) -> bytes:
        """Who has most in line; the later in the round of two alike."""
        return max(self._ring, key=self.tokens_of)

    def add(self, path: Path, item: T) -> None:
        """One more at the end of its line; a newcomer's turn comes last in this round."""
        key = path[0]
        if key not in self._members:
            self._members[key] = Turns(self._levels - 1) if self._levels > 1 else Line()
            self._ring.append(key)
            self._credit[key] = QUANTUM if len(self._ring) == 1 else 0
        self._members[key].add(path[1:], item)
        self._count, self.tokens = self._count + 1, self.tokens + item.cost

    def remove(self, path: Path, item: T) -> None:
        """Somebody left before its turn came."""
        self._members[path[0]].remove(path[1:], item)
        self._left(path[0], item)

    def settle(self, path: Path, tokens: int) -> None:
        """A turn took so many tokens fewer than it cost (more, if negative); who has nothing in line owes nothing."""
        if path[0] in self._members:
            self._credit[path[0]] += tokens
            self._members[path[0]].settle(path[1:], tokens)

    def peek(self) -> T:
        """Whose turn it is."""
        return self._members[self._whose_turn()].peek()

    def pop(self) -> T:
        """Take whose turn it is out of line, which it pays for."""
        key = self._whose_turn()
        item = self._members[key].pop()
        self._credit[key] -= item.cost
        self._left(key, item)
        return item

    def newest(self) -> T:
        """Who came last of those who have most in line."""
        return self._members[self.heaviest()].newest()

    def copy(self) -> "Turns[T]":
        """Another one, to play through what comes."""
        other: Turns[T] = Turns(self._levels)
        other._members = {key: member.copy() for key, member in self._members.items()}
        other._ring, other._credit = self._ring.copy(), dict(self._credit)
        other._count, other.tokens = self._count, self.tokens
        return other

    def __iter__(self) -> Iterator[T]:
        for member in self._members.values():
            yield from member

    def _whose_turn(self) -> bytes:
        looked = 0
        while self._lacks(self._ring[0]) > 0:
            self._ring.rotate(-1)
            self._credit[self._ring[0]] += QUANTUM
            looked += 1
            if looked == len(self._ring):
                self._skip_rounds()
        return self._ring[0]

    def _skip_rounds(self) -> None:
        """Give all the credit of the rounds in which nobody could go anyway: one turn may cost a thousand rounds."""
        rounds = min(-(-self._lacks(key) // QUANTUM) for key in self._ring) - 1
        if rounds > 0:
            for key in self._ring:
                self._credit[key] += rounds * QUANTUM

    def _lacks(self, key: bytes) -> int:
        """The credit that is missing for what comes next."""
        return self._members[key].peek().cost - self._credit[key]

    def _left(self, key: bytes, item: T) -> None:
        self._count, self.tokens = self._count - 1, self.tokens - item.cost
        if len(self._members[key]):
            return
        first = self._ring[0] == key
        del self._members[key], self._credit[key]
        self._ring.remove(key)
        if first and self._ring:
            self._credit[self._ring[0]] += QUANTUM
