"""The other end of the remote step: a job that came over a link is admitted and run here, never passed on."""

import msgspec
import structlog
import trio

from meshnode.errors import BadRequest, MeshError, ModelNotFound, NotAllowed
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.serve.admit import Admission
from meshnode.serve.choose import ChooseLocal
from meshnode.serve.emitting import write
from meshnode.serve.local import Bench
from meshnode.serve.packing import unpack_job
from meshnode.serve.remote import send_failure
from meshnode.terms import End, Job, ModelCard, Privacy
from meshwire import inner, messages
from meshwire.errors import RemoteWireError
from meshwire.numbers import ResetCode

ASK_WITHIN_S = 10.0
log = structlog.get_logger("meshnode.serve")


class Inbound:
    """Serves the asks of peers on this node's own engines."""

    def __init__(self, admission: Admission, bench: Bench, choose_local: ChooseLocal) -> None:
        self._admission = admission
        self._bench = bench
        self._choose_local = choose_local

    async def serve(self, link: Link, stream: Stream, opening: messages.Open) -> None:
        """Answer one ask; the asker's reset, or the loss of its link, cancels the run at once."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_lost, stream, nursery.cancel_scope)
            try:
                job = await _read_job(stream, opening)
                log.info("ask accepted", request=job.id, origin=link.name)
                with self._admission.place():
                    await self._run(stream, job, link.node)
            except MeshError as error:
                log.info("ask failed", origin=link.name, code=error.code)
                await send_failure(stream, error)
            except StreamLost as error:
                log.info("asker left", origin=link.name, code=error.code.name)
            except Exception:  # whatever goes wrong with one ask must not end the link that others use too
                log.exception("ask broke", origin=link.name)
                await send_failure(
                    stream, MeshError("Something went wrong inside the node that served this.")
                )
            nursery.cancel_scope.cancel()

    async def _run(self, stream: Stream, job: Job, origin: bytes) -> None:
        with trio.move_on_after(job.deadline_ms / 1000) as in_time:
            card = await self._card(job)
            self._bench.check_open(card.digest)
            async with self._bench.run(card.digest, job, origin) as pieces:
                async for emitted in pieces:
                    for message in write(emitted):
                        await stream.send_message(message, end=isinstance(emitted, End))
        if in_time.cancelled_caught:
            stream.reset(ResetCode.DEADLINE)

    async def _card(self, job: Job) -> ModelCard:
        """The model of this node that the job means; an engine that restarts, and is still advertised, is
        waited for.
        """
        try:
            return self._choose_local(job)
        except ModelNotFound:
            if not self._bench.loading:
                raise
        await self._bench.settled()
        return self._choose_local(job)


async def _read_job(stream: Stream, opening: messages.Open) -> Job:
    with trio.move_on_after(ASK_WITHIN_S):
        message = await stream.receive_message()
        if isinstance(message, inner.Ask):
            return _checked(message.job, opening.remaining_ms)
    raise BadRequest("A stream for an ask carries exactly one Ask, at once.")


async def _cancel_when_lost(stream: Stream, scope: trio.CancelScope) -> None:
    await stream.lost()
    scope.cancel()


def _checked(packed: bytes, clear_ms: int) -> Job:
    """The job, unless it should not have come here; the lesser of both deadlines holds."""
    try:
        job = unpack_job(packed)
    except RemoteWireError as error:
        raise BadRequest(str(error)) from error
    if job.wish.privacy is Privacy.LOCAL:
        raise NotAllowed("A job of class local must not leave its node.", param="privacy")
    deadline_ms = min(job.deadline_ms, clear_ms or job.deadline_ms)
    return msgspec.structs.replace(job, deadline_ms=deadline_ms)
