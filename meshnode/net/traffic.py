"""How much gossip has said and heard: the bytes of digests and records, without frames and seals. It only counts."""

from typing import TypeVar

from meshwire.messages import GossipAck, GossipSyn, GossipSynAck, RecordGot
from meshwire.numbers import Message

M = TypeVar("M", bound=Message)


class Traffic:
    """The sums of one gossip, in bytes."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0

    def sent(self, message: M) -> M:
        """Count a message that goes out, and give it back."""
        self.sent_bytes += bytes_of(message)
        return message

    def received(self, message: M) -> M:
        """Count a message that came, and give it back."""
        self.received_bytes += bytes_of(message)
        return message


def bytes_of(message: Message) -> int:
    """The digests and records in a message of gossip's; 0 for any other."""
    match message:
        case GossipSyn(digest=digest):
            return len(digest)
        case GossipSynAck(digest=digest, deltas=raws) | GossipAck(follows=digest, deltas=raws):
            return len(digest) + sum(map(len, raws))
        case RecordGot(records=raws):
            return sum(map(len, raws))
    return 0
