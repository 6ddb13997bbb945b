"""One run on an upstream, as its caller sees it: an iterator that is fed from elsewhere."""

from collections.abc import Collection

from meshnode.engine.base import Load
from meshnode.engine.outlet import Outlet
from meshnode.engine.upstream.pace import Watch
from meshnode.errors import EngineFailed, MeshError
from meshnode.terms import Emitted, End, Job

WAITING_MAX = 64 * 1024  # pieces that a caller has not taken yet
CHARS_PER_TOKEN = 4  # a guess, for the queue's figures only


class UpstreamRun(Outlet):
    """What is emitted, in order; the figures say how much work the run may still be, in tokens."""

    def __init__(self, job: Job) -> None:
        super().__init__(WAITING_MAX + 1)
        texts = (*(turn.content for turn in job.turns), *job.inputs)
        self.prefill_left = sum(len(text) for text in texts) // CHARS_PER_TOKEN + 1
        self.decode_left = 0 if job.inputs else job.sampling.max_tokens or job.wish.output_tokens
        self.watch = Watch()

    def put(self, emitted: Emitted) -> None:
        """Something has come. Raises EngineFailed when the caller leaves too much lying."""
        self.prefill_left, self.decode_left = 0, max(0, self.decode_left - 1)
        if self._get.statistics().current_buffer_used >= WAITING_MAX:
            raise EngineFailed("The answer comes faster than it is taken.")
        self._put.send_nowait(emitted)

    def finish(self, last: End | MeshError) -> None:
        """The end, after what has already come."""
        self.prefill_left = self.decode_left = 0
        self._close(last)


def load_of(runs: Collection[UpstreamRun], slots: int) -> Load:
    """What is under way at a server for this node, of so many requests that may be at once."""
    return Load(
        in_flight=len(runs),
        queued_prefill=sum(run.prefill_left for run in runs),
        queued_decode=sum(run.decode_left for run in runs),
        slots=slots,
    )
