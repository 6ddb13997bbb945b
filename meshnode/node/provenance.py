"""Who made an answer and on which way it comes, in words for people. It decides nothing."""

from collections.abc import Callable

from meshnode.node.views import Facts
from meshnode.terms import Answer, Candidate, Trust
from meshwire.ids import NodeId, to_text

SHORT_ID = 8


def answer_for(candidate: Candidate, own: bytes, label: Callable[[bytes], str]) -> Answer:
    """Where an answer would come from if the candidate made it."""
    path = (own, *candidate.path)
    return Answer(
        model=candidate.card.name,
        served_by=label(path[-1]),
        path=tuple(label(node) for node in path),
        rung="peer" if candidate.path else "local",
        trust="self" if candidate.trust is Trust.SELF else candidate.trust.name.lower(),
        tier=candidate.card.tier,
        digest=candidate.card.digest,
    )


def label_of(node: bytes, facts: Facts) -> str:
    """A node for people: its short id, and its name where one is known."""
    peer = facts.presence.view().get(NodeId(node)) if facts.presence else None
    name = facts.config.name if node == facts.node else peer.name if peer else ""
    short = to_text(NodeId(node))[:SHORT_ID]
    return f"{name}#{short}" if name.isascii() and name else short
