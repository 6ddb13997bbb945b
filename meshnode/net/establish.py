"""Establishing a link: the handshake over a fresh transport, up to both ends having admitted each other.

It decides nothing: who is welcome is the answer of a function that it is given.
"""

from collections.abc import Callable

import trio

from meshnode.errors import MeshError, Unreachable
from meshnode.net.base import Guarded, Transport
from meshnode.net.closing import code_of, error_of, turned_away
from meshnode.net.link import Link
from meshwire import events, limits
from meshwire.errors import RemoteWireError
from meshwire.session import Session, SessionConfig
from meshwire.states import SessionState

Judge = Callable[[events.Introduced], bool]


async def establish(
    transport: Transport, config: SessionConfig, judge: Judge, *, path_links: int = 1, eager: bool = False
) -> Link:
    """Shake hands over a fresh transport, within HANDSHAKE_S, and let `judge` answer the introduction.

    `judge` returns True to admit the other end, False if one of the two has no certificate yet and may only
    join, or raises a MeshError to turn it away, which is raised here too. Otherwise raises Unreachable, or
    the error that the other end turned us away with. The transport is closed unless a Link comes back. An
    `eager` initiator does not wait to be admitted: it hears of that with the answer to its first question.
    """
    session = Session(config)
    try:
        with trio.fail_after(limits.HANDSHAKE_S):
            await _shake_hands(transport, session, judge, eager)
    except trio.TooSlowError:
        await _close(transport)
        raise Unreachable(
            f"{transport.remote} did not finish the handshake within {limits.HANDSHAKE_S:g} s."
        ) from None
    except BaseException:
        await _close(transport)
        raise
    if isinstance(transport, Guarded):
        transport.introduced()
    return Link(transport, session, path_links)


async def _close(transport: Transport) -> None:
    with trio.CancelScope(shield=True):
        await transport.aclose()


async def _shake_hands(transport: Transport, session: Session, judge: Judge, eager: bool) -> None:
    """Exchange handshake messages until both ends have admitted each other, or at least this end the other."""
    session.start()
    await _send(transport, session)
    patient = session.initiator and not eager
    while not session.confirmed and (patient or session.state is SessionState.HANDSHAKE):
        try:
            found = session.receive_data(await transport.receive())
        except RemoteWireError as error:
            await _send(transport, session)
            raise error_of(error.code, f"The handshake with {transport.remote} failed: {error}.") from error
        for event in found:
            await _answer(transport, session, judge, event)
        await _send(transport, session)


async def _answer(transport: Transport, session: Session, judge: Judge, event: events.Event) -> None:
    if isinstance(event, events.Closed):
        raise error_of(event.code, turned_away(transport.remote, event))
    if not isinstance(event, events.Introduced):
        return
    try:
        welcome = judge(event)
    except MeshError as error:
        session.refuse(code_of(error), error.message)
        await _send(transport, session)
        raise
    if welcome:
        session.admit()
    else:
        session.admit_joining()


async def _send(transport: Transport, session: Session) -> None:
    for message in session.data_to_send():
        await transport.send(message)
