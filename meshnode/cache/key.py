"""What makes two requests the same request: everything that may change the answer, in one digest. Pure.

The weights are not in it. Which of them answer is decided after the cache was asked, and a name may mean several; so
they stand beside the digest, and `fits` says whether an answer that some weights gave is one that was asked for.
"""

import hashlib

import msgspec

from meshnode.routing.policy import parse_model
from meshnode.terms import Job, ModelCard, Turn

FORMAT = 1
NOT_ASKED = frozenset(("model", "min_tier", "prompt_tokens", "output_tokens", "cache"))
"""Fields of a wish that are estimates, or are compared by `fits`. A field that is new is in the key by itself."""


class Keys:
    """The keys of a node. `origin` is what it adds to every request unasked: its version, its settings."""

    def __init__(self, origin: bytes = b"") -> None:
        self._origin = origin

    def ask(self, job: Job) -> bytes:
        """The digest of a request: tenant, privacy class, conversation, sampling, shape of the answer, and the rest.

        The name of the model is in it only where it leaves the choice to the mesh.
        """
        return self._digest(job, job.turns)

    def namespace(self, job: Job) -> bytes:
        """The same without what was said last; never the key of any request."""
        return self._digest(job, (*job.turns[:-1], None))

    def flight(self, job: Job) -> bytes:
        """The digest of a request with the weights that it asks for, whichever those are."""
        weights = msgspec.msgpack.encode((job.wish.model, job.wish.min_tier))
        return hashlib.sha256(self.ask(job) + weights).digest()

    def _digest(self, job: Job, turns: tuple[Turn | None, ...]) -> bytes:
        wish = {name: getattr(job.wish, name) for name in job.wish.__struct_fields__ if name not in NOT_ASKED}
        asked = (
            FORMAT,
            self._origin,
            job.tenant_tag,
            wish,
            job.wish.model if parse_model(job.wish.model).auto else None,
            turns,
            (job.tools, job.tool_choice, job.parallel_tool_calls, job.output, job.schema),
            job.sampling,
        )
        return hashlib.sha256(msgspec.msgpack.encode(asked, order="deterministic")).digest()


def fits(job: Job, card: ModelCard) -> bool:
    """Whether the answer that these weights gave is one that the request asks for."""
    wanted = parse_model(job.wish.model)
    return wanted.fits(card) and card.tier >= max(job.wish.min_tier, wanted.min_tier)
