"""Two sessions that talk to each other through lists of bytes, for plays."""

import random
from collections.abc import Callable
from typing import Any

from meshwire.events import Event, Introduced
from meshwire.ids import node_id
from meshwire.noise import public_of
from meshwire.session import Session, SessionConfig, circuit_prologue, link_prologue
from meshwire.signing import Signer

MESH = b"m" * 16


def keys(name: str) -> tuple[bytes, bytes, Signer]:
    """A static key, an ephemeral key and a signer, always the same for a name."""
    rng = random.Random(name)
    return rng.randbytes(32), rng.randbytes(32), Signer(rng.randbytes(32))


def config(name: str, *, initiator: bool, **changes: Any) -> SessionConfig:
    """One side of an XX session on MESH."""
    static, ephemeral, signer = keys(name)
    facts: dict[str, Any] = {
        "initiator": initiator,
        "pattern": "XX",
        "prologue": link_prologue(1, MESH),
        "static_private": static,
        "ephemeral_private": ephemeral,
        "signer": signer,
    }
    return SessionConfig(**(facts | changes))


def circuit_configs(**changes: Any) -> tuple[SessionConfig, SessionConfig]:
    """Both sides of an IK session."""
    static, _, worker = keys("worker")
    origin = keys("origin")[2]
    prologue = circuit_prologue(1, MESH, node_id(origin.public), node_id(worker.public))
    facts: dict[str, Any] = {"pattern": "IK", "prologue": prologue} | changes
    return (
        config("origin", initiator=True, remote_static=public_of(static), **facts),
        config("worker", initiator=False, **facts),
    )


def admit(session: Session, _: Introduced) -> None:
    session.admit()


def join(session: Session, _: Introduced) -> None:
    session.admit_joining()


class Pair:
    """An initiator `a` and a responder `b`. `settle` carries bytes until both are silent."""

    def __init__(
        self,
        a: SessionConfig | None = None,
        b: SessionConfig | None = None,
        answer: Callable[[Session, Introduced], None] = admit,
    ) -> None:
        self.a = Session(a or config("a", initiator=True))
        self.b = Session(b or config("b", initiator=False))
        self.answer = answer
        self.seen: dict[Session, list[Event]] = {self.a: [], self.b: []}
        self.carried: list[bytes] = []

    def shake_hands(self) -> "Pair":
        self.a.start()
        self.settle()
        return self

    def settle(self) -> None:
        while self._carry(self.a, self.b) | self._carry(self.b, self.a):
            pass

    def _carry(self, source: Session, target: Session) -> bool:
        messages = source.data_to_send()
        for message in messages:
            self.carried.append(message)
            for event in target.receive_data(message):
                self.seen[target].append(event)
                if isinstance(event, Introduced):
                    self.answer(target, event)
        return bool(messages)

    def events(self, session: Session, kind: type) -> list[Any]:
        """What a session has reported of one kind, handshake apart, and forget it."""
        found = [event for event in self.seen[session] if isinstance(event, kind)]
        self.seen[session] = [event for event in self.seen[session] if not isinstance(event, kind)]
        return found


def open_pair(**changes: Any) -> Pair:
    """A pair that has shaken hands and admitted each other."""
    return Pair(config("a", initiator=True, **changes), config("b", initiator=False, **changes)).shake_hands()
