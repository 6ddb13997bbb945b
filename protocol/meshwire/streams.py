"""One stream's pure state, and credit in both directions. It knows nothing of frames, sessions or who reads.

Credit is counted in bytes: a DATA frame costs its payload plus FRAME_COST, so that a flood of tiny frames,
which cost memory beyond their bytes, runs out of credit too. An empty frame only ends a stream, and is free.
"""

from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.limits import STREAM_CREDIT
from meshwire.states import STREAM_MOVES, StreamState, StreamStep, move

FRAME_COST = 32


def cost(payload_bytes: int) -> int:
    """The credit that a DATA frame with a payload of this size takes."""
    return payload_bytes + FRAME_COST if payload_bytes else 0


class Outflow:
    """What we may still send."""

    __slots__ = ("_size", "left")

    def __init__(self, size: int) -> None:
        self._size = size
        self.left = size

    @property
    def spent(self) -> int:
        """What the other end has not given back."""
        return self._size - self.left

    def take(self, amount: int) -> None:
        """Spend credit; raises LocalWireError if there is not enough."""
        if amount > self.left:
            raise LocalWireError(f"{amount} bytes to send with a credit of {self.left}")
        self.left -= amount

    def add(self, credit: int) -> None:
        """The other end gave credit; raises RemoteWireError if it gives back more than was spent."""
        if self.left + credit > self._size:
            raise RemoteWireError("more credit than the window holds", CloseCode.CREDIT)
        self.left += credit


class Inflow:
    """What they may still send, and what is due to them for what was consumed.

    What is due is told by halves: of the window, or, where it is `shared` by several readers, of what is not held by
    those who do not read. Else a few of them would keep from all others what these have given back.
    """

    __slots__ = ("_due", "_shared", "_size", "left")

    def __init__(self, size: int, *, shared: bool = False) -> None:
        self._size = size
        self._shared = shared
        self._due = 0
        self.left = size

    def take(self, amount: int) -> bool:
        """Whether what arrived was within the credit."""
        if amount > self.left:
            return False
        self.left -= amount
        return True

    def give(self, amount: int) -> int:
        """Something was consumed; the credit to announce now, or 0 while it is less than half."""
        self._due += amount
        free = self.left + self._due if self._shared else self._size
        if 2 * self._due < free:
            return 0
        credit, self._due = self._due, 0
        self.left += credit
        return credit


class Stream:
    """One stream: its state, its credit, and what was received but not consumed yet (`held`).

    `answered` says whether the end that did not open it has sent anything on it.
    """

    __slots__ = ("answered", "held", "inflow", "number", "ours", "outflow", "state")

    def __init__(self, number: int, *, ours: bool) -> None:
        self.number = number
        self.ours = ours
        self.state = StreamState.OPEN
        self.outflow = Outflow(STREAM_CREDIT)
        self.inflow = Inflow(STREAM_CREDIT)
        self.held = 0
        self.answered = False

    @property
    def may_send(self) -> bool:
        """Whether our half is open."""
        return self.state in (StreamState.OPEN, StreamState.REMOTE_ENDED)

    @property
    def may_receive(self) -> bool:
        """Whether their half is open."""
        return self.state in (StreamState.OPEN, StreamState.LOCAL_ENDED)

    @property
    def done(self) -> bool:
        """Whether both halves ended and everything was consumed, so that it can be forgotten."""
        return self.state is StreamState.CLOSED and not self.held

    def step(self, step: StreamStep) -> None:
        """Move on as STREAM_MOVES says."""
        self.state = move(STREAM_MOVES, self.state, step)

    def receive(self, amount: int) -> bool:
        """Account for what arrived; False if it was over credit."""
        if not self.inflow.take(amount):
            return False
        self.held += amount
        return True

    def consume(self, amount: int) -> int:
        """Account for what was consumed; the credit to announce on the stream now, often 0."""
        if amount > self.held:
            raise LocalWireError("more was consumed than had arrived")
        self.held -= amount
        return self.inflow.give(amount) if self.may_receive else 0
