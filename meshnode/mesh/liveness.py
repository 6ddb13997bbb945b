"""Who is dead, by what its watchers sign and it does not deny. Pure; it hears nobody itself.

SWIM's suspicion (Das, Gupta, Motivala, 2002) with Lifeguard's window that shrinks as more accusers agree
(Dadgar, Phillips, Currey, 2018). A node's watchers are those that its own last vitals name, so nobody can make
himself one; an accusation is about those vitals, so any newer ones, signed by the accused, end it.
"""

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from meshwire.ids import NodeId, node_id
from meshwire.limits import (
    ACCUSATIONS_PASSED,
    ACCUSATIONS_PER_ACCUSER,
    ACCUSATIONS_TOTAL,
    ACCUSERS_NEEDED,
)
from meshwire.messages import Accuse

WINDOW_SHORTEST_S = 1.5  # in which the accused can deny it, besides the way there and back
WINDOW_LONGEST_S = 4.5  # with no more accusers than it takes
OWN_FAULT = 1.0  # how much longer it gets, in the same times, from a node that hears nobody in time
RTT_MOST_S = 0.5  # stalls make measured round trips longer than the way of a flood, which takes the fastest
ROUND_TRIPS = 2  # the accusation on its way to the accused, and the denial back, over a few links


class Word(NamedTuple):
    """A node's own last word: the seq of its vitals, and the neighbours that they name."""

    seq: int
    watchers: frozenset[NodeId]


@dataclass(slots=True)
class _Held:
    """One accusation, when it came, who is known to know it, and whether it has been handed on."""

    message: Accuse
    at: float
    knowers: set[NodeId] = field(default_factory=set)
    passed: bool = False


class Accusations:
    """All accusations that one node has heard of, whose signatures were checked before.

    `word_of(node)` is what its last known vitals say, None without any; it is asked anew each time, so that
    newer vitals count at once, whoever brought them.
    """

    def __init__(self, word_of: Callable[[NodeId], Word | None]) -> None:
        self._word_of = word_of
        self._held: dict[NodeId, dict[NodeId, _Held]] = {}
        self._found: dict[
            NodeId, tuple[Word, list[_Held]]
        ] = {}  # those that count, by the word they are about

    def is_news(self, message: Accuse) -> bool:
        """Whether it is worth checking its signature: by a watcher, about the last word, and not known yet.

        One about later vitals than those known here may be true; it waits for them.
        """
        accused, accuser = NodeId(message.accused), node_id(message.accuser)
        word = self._word_of(accused)
        if word is None or message.seq < word.seq or accused == accuser:
            return False
        if message.seq == word.seq and (accuser not in word.watchers or self.settled(accused)):
            return False
        held = self._held.get(accused, {}).get(accuser)
        if held is not None:
            return held.message.seq < message.seq
        return self._has_room(accuser)

    def take(self, message: Accuse, now: float) -> None:
        """Keep one that is news, and signed by whom it says."""
        accused = NodeId(message.accused)
        self._held.setdefault(accused, {})[node_id(message.accuser)] = _Held(message, now)
        self._found.pop(accused, None)

    def told_by(self, message: Accuse, sender: NodeId) -> None:
        """This one came from there, so that it need not be told there."""
        held = self._held.get(NodeId(message.accused), {}).get(node_id(message.accuser))
        if held is not None and held.message.seq == message.seq:
            held.knowers.add(sender)

    def to_pass(self) -> list[tuple[Accuse, Set[NodeId]]]:
        """Those that count and have not been handed on yet, with who told them; they have been, from now on."""
        fresh = [held for accused in self._held for held in self._standing(accused) if not held.passed]
        for held in fresh:
            held.passed = True
        return [(held.message, held.knowers) for held in fresh]

    def against(self, accused: NodeId) -> list[Accuse]:
        """The accusations of a node that count, oldest first."""
        return [held.message for held in self._standing(accused)]

    def suspects(self, since: float = -math.inf) -> list[NodeId]:
        """Every node that is accused, for the first time after `since`, and has not denied it."""
        standing = ((accused, self._standing(accused)) for accused in self._held)
        return [accused for accused, held in standing if held and held[0].at > since]

    def concern(self, node: NodeId) -> bool:
        """Whether there are any about a node, denied ones too until `forget_denied`."""
        return node in self._held

    def settled(self, accused: NodeId) -> bool:
        """Whether so many agree that one more would be no news."""
        return len(self._standing(accused)) >= ACCUSATIONS_PASSED

    def is_dead(self, accused: NodeId, now: float, rtt_s: float, own_fault: float = 0.0) -> bool:
        """Whether enough watchers accuse it, and it had the time to deny it.

        `rtt_s` is a usual round trip here, which that time follows; `own_fault` from 0 to 1 how likely it is
        that denials come late because this node hears everything late.
        """
        standing = self._standing(accused)
        word = self._word_of(accused)
        needed = min(ACCUSERS_NEEDED, len(word.watchers)) if word is not None else 0
        if word is None or not standing or len(standing) < needed:
            return False
        window = window_s(len(standing) - needed, min(2, len(word.watchers) - needed))
        return now >= standing[needed - 1].at + (window + ROUND_TRIPS * min(rtt_s, RTT_MOST_S)) * (
            1 + OWN_FAULT * own_fault
        )

    def forget_denied(self) -> None:
        """Drop what newer vitals have ended, and what is about nodes that are not known any more."""
        for accused, by_accuser in list(self._held.items()):
            word = self._word_of(accused)
            for accuser, held in list(by_accuser.items()):
                if word is None or held.message.seq < word.seq:
                    del by_accuser[accuser]
            if not by_accuser:
                del self._held[accused]
                self._found.pop(accused, None)

    def _standing(self, accused: NodeId) -> list[_Held]:
        if accused not in self._held or (word := self._word_of(accused)) is None:
            return []
        known = self._found.get(accused)
        if known is not None and known[0] is word:
            return known[1]
        found = [
            held
            for accuser, held in self._held[accused].items()
            if held.message.seq == word.seq and accuser in word.watchers
        ]
        found.sort(key=lambda held: held.at)
        self._found[accused] = (word, found)
        return found

    def _has_room(self, accuser: NodeId) -> bool:
        same = sum(accuser in by_accuser for by_accuser in self._held.values())
        return same < ACCUSATIONS_PER_ACCUSER and sum(map(len, self._held.values())) < ACCUSATIONS_TOTAL


def window_s(more: int, most: int) -> float:
    """How long the accused has to deny it: less, the `more` accusers there are beyond those it takes.

    `most` is how many more could count. Lifeguard's formula; without any more to hope for, the shortest.
    """
    share = 1.0 if most < 1 else min(1.0, math.log(more + 1) / math.log(most + 1))
    return WINDOW_LONGEST_S - share * (WINDOW_LONGEST_S - WINDOW_SHORTEST_S)
