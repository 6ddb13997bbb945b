"""Which beginnings of conversations this node sent where: a peer that still has one computed need not read it again.

Kept as digests of what came before each turn, never as text; those of different tenants never match, since a worker
keeps their prompts apart. Whether the peer really has it still is its own affair, so this is an estimate.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from meshnode.routing.ledger import Key
from meshnode.terms import Job

PREFIXES_MAX = 8192
PREFIX_MEMORY_S = 600.0
TURNS_MAX = 64  # of one conversation: the last that many are told apart
DIGEST_BYTES = 16

Prefix = tuple[bytes, int]
"""The digest of a beginning, and an estimate of its tokens."""


def prefixes_of(job: Job) -> tuple[Prefix, ...]:
    """The beginnings of a job's conversation, one for each turn, the shortest first."""
    characters = sum(len(turn.content) for turn in job.turns)
    if not characters:
        return ()
    digest = hashlib.blake2b(job.tenant_tag, digest_size=DIGEST_BYTES)
    for tool in job.tools:
        digest.update(repr((tool.name, tool.parameters)).encode())
    found: list[Prefix] = []
    done = 0
    for turn in job.turns:
        digest.update(repr((turn.role, turn.name, turn.content, turn.tool_call_id)).encode())
        done += len(turn.content)
        found.append((digest.digest(), job.wish.prompt_tokens * done // characters))
    return tuple(found[-TURNS_MAX:])


class PrefixLog:
    """The record; the least recently used go where there are too many."""

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[Key, bytes], float] = OrderedDict()

    def note(self, key: Key, prefixes: Sequence[Prefix], now: float) -> None:
        """A conversation with these beginnings was read there."""
        for digest, _ in prefixes:
            self._sent.pop((key, digest), None)
            while len(self._sent) >= PREFIXES_MAX:
                self._sent.popitem(last=False)
            self._sent[key, digest] = now

    def matched(self, key: Key, prefixes: Sequence[Prefix], now: float) -> int:
        """The tokens of the longest beginning that went there lately."""
        for digest, tokens in reversed(prefixes):
            if now - self._sent.get((key, digest), -PREFIX_MEMORY_S) < PREFIX_MEMORY_S:
                return tokens
        return 0
