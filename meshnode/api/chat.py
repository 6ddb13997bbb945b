"""POST /v1/chat/completions: read the request, run it, and write what comes, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterable

from meshnode.api.chunks import ChatShapes
from meshnode.api.completion import Completion, jobs_of, read_completion
from meshnode.api.writing import ChoicesEndpoint
from meshnode.terms import Job


class Chat(ChoicesEndpoint[Completion]):
    """The endpoint, as an ASGI application."""

    def read(self, body: bytes, headers: Iterable[tuple[str, str]]) -> Completion:
        """Decode and check a request, see read_completion."""
        return read_completion(body, headers)

    def jobs(self, asked: Completion, job_id: str, tenant_tag: bytes) -> tuple[Job, ...]:
        """One job for each choice, see jobs_of."""
        return jobs_of(asked, job_id, tenant_tag)

    def shapes(self, asked: Completion, job_id: str, created: int, model: str) -> ChatShapes:
        """A chat completion's."""
        return ChatShapes(job_id, created, model, include_usage=asked.include_usage)
