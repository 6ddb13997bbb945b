"""The endpoint: runs the choices of each prompt and writes what comes, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from meshnode.api.text.body import TextBody, read_text_body, text_jobs
from meshnode.api.text.shapes import TextShapes
from meshnode.api.writing import ChoicesEndpoint
from meshnode.terms import Job


class TextCompletions(ChoicesEndpoint[TextBody]):
    """The endpoint, as an ASGI application."""

    fields: ClassVar = {"messages": "prompt"}

    def read(self, body: bytes, headers: Iterable[tuple[str, str]]) -> TextBody:
        """Decode and check a request, see read_text_body."""
        return read_text_body(body, headers)

    def jobs(self, asked: TextBody, job_id: str, tenant_tag: bytes) -> tuple[Job, ...]:
        """One job for each choice of each prompt, see text_jobs."""
        return text_jobs(asked, job_id, tenant_tag)

    def shapes(self, asked: TextBody, job_id: str, created: int, model: str) -> TextShapes:
        """A text completion's."""
        return TextShapes(asked, job_id, created, model)
