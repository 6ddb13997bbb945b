"""Keeps callers apart in an upstream's prompt cache, as far as that server can be told to. Pure.

A server that reuses what it computed for somebody else's prompt shows by its speed, and by the count of cached
tokens, how that prompt began. vLLM takes a salt for each circle of callers. llama-server knows only one cache:
it may use it while every run was of one scope, and never again after another came. Others cannot be told.
"""

import hashlib
from typing import Any

from meshnode.engine.upstream.offer import LLAMA_SERVER, VLLM

Fields = dict[str, Any]


class Apart:
    """What to add to a request so that it shares with its own scope only; an empty scope shares with nobody."""

    def __init__(self) -> None:
        self._first: bytes | None = None
        self._mixed = False

    def fields(self, owner: str, job_id: str, scope: bytes) -> Fields:
        """The fields for a server of this kind. The scope itself does not leave."""
        self._first = scope if self._first is None else self._first
        self._mixed = self._mixed or not scope or scope != self._first
        if owner == VLLM:
            return {"cache_salt": hashlib.sha256(scope or b"one job\0" + job_id.encode()).hexdigest()}
        return {"cache_prompt": not self._mixed} if owner == LLAMA_SERVER else {}
