"""Who is dead, whatever is accused, denied and forgotten in any order, against a plain model of who may say so."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshnode.mesh.liveness import WINDOW_SHORTEST_S, Accusations, Word
from meshwire.accusing import accuse
from meshwire.ids import NodeId, node_id
from meshwire.limits import ACCUSATIONS_PASSED, ACCUSATIONS_PER_ACCUSER, ACCUSERS_NEEDED
from meshwire.messages import Accuse
from meshwire.signing import Signer
from tests.machines import PLAYED

MESH = bytes(16)
SIGNERS = tuple(Signer(number.to_bytes(32, "big")) for number in range(1, 5))
NODES = tuple(node_id(signer.public) for signer in SIGNERS)
Slot = tuple[bytes, bytes, int]  # accused, accuser, seq
LONG_S = 60.0  # by then every accused had the time to deny it
RTT_S = 0.1
numbers = st.integers(0, len(NODES) - 1)
watchers = st.one_of(st.just(set(range(len(NODES)))), st.sets(numbers, max_size=len(NODES)))
aheads = st.one_of(st.just(0), st.integers(-1, 2))


class LivenessMachine(RuleBasedStateMachine):
    """Four nodes, each with a last word of its own; what one of them has heard about all."""

    def __init__(self) -> None:
        super().__init__()
        self.words: dict[NodeId, Word] = {}
        self.spoken: dict[NodeId, int] = {}  # also of those that have left: no seq comes twice
        self.accusations = Accusations(self.words.get)
        self.now = 0.0
        self.said: dict[tuple[NodeId, NodeId], dict[int, float]] = {}  # accused and accuser: seqs, and when
        self.tellers: dict[Slot, set[NodeId]] = {}
        self.passed: set[Slot] = set()

    @initialize()
    def all_watch_all(self) -> None:
        for who in range(len(NODES)):
            self.speak(who, set(range(len(NODES))), 1)

    @rule(who=numbers, watching=watchers, step=st.integers(1, 3))
    def speak(self, who: int, watching: set[int], step: int) -> None:
        """A node's newer vitals: whatever was said about the older ones is denied."""
        node = NODES[who]
        seq = self.spoken[node] = self.spoken.get(node, 0) + step
        self.words[node] = Word(seq, frozenset(NODES[one] for one in watching if one != who))
        assert not self.accusations.is_dead(node, self.now, RTT_S) or self.early(node)

    def early(self, node: NodeId) -> bool:
        """Whether accusations of the word that has only just come were heard before it."""
        return any(
            self.words[node].seq in seqs for (accused, _), seqs in self.said.items() if accused == node
        )

    @rule(accuser=numbers, accused=numbers, ahead=aheads, sender=numbers)
    def hear(self, accuser: int, accused: int, ahead: int, sender: int) -> None:
        """An accusation of the accused's last word, of an older or of a later one."""
        word = self.words.get(NODES[accused])
        message = accuse(SIGNERS[accuser], MESH, NODES[accused], max(0, (word.seq if word else 1) + ahead))
        slot = (message.accused, message.accuser, message.seq)
        if not self.accusations.is_news(message):
            self.told(slot, message, sender)
            return
        assert word is not None, "about somebody unknown"
        assert accuser != accused, "of itself"
        assert message.seq >= word.seq, "of what is denied"
        assert message.seq > word.seq or NODES[accuser] in word.watchers, "by somebody who does not watch"
        self.accusations.take(message, self.now)
        assert not self.accusations.is_news(message), "twice"
        self.said.setdefault((NODES[accused], NODES[accuser]), {})[message.seq] = self.now
        self.tellers[slot] = set()
        self.told(slot, message, sender)

    def told(self, slot: Slot, message: Accuse, sender: int) -> None:
        """A copy came from there, whether or not it was the first."""
        self.accusations.told_by(message, NODES[sender])
        if slot in self.tellers:
            self.tellers[slot].add(NODES[sender])

    @rule(seconds=st.sampled_from((0.1, WINDOW_SHORTEST_S, LONG_S)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def tidy(self) -> None:
        self.accusations.forget_denied()

    @rule(who=numbers)
    def leave(self, who: int) -> None:
        """Its vitals are over."""
        self.words.pop(NODES[who], None)
        assert not self.accusations.is_dead(NODES[who], self.now, RTT_S)

    @rule()
    def hand_on(self) -> None:
        for message, knowers in self.accusations.to_pass():
            self.check_counts(message)
            slot = (message.accused, message.accuser, message.seq)
            assert slot not in self.passed, "handed on twice"
            assert knowers == self.tellers[slot]
            self.passed.add(slot)

    def check_counts(self, message: Accuse) -> None:
        word = self.words[NodeId(message.accused)]
        assert message.seq == word.seq
        assert node_id(message.accuser) in word.watchers

    def accused_at(self, node: NodeId) -> list[float]:
        """When each watcher of its last word was heard to accuse it of that."""
        word = self.words[node]
        heard = [self.said.get((node, watcher), {}).get(word.seq) for watcher in word.watchers]
        return sorted(at for at in heard if at is not None)

    @invariant()
    def nobody_dies_without_watchers_that_say_so_and_time_to_deny_it(self) -> None:
        for node, word in self.words.items():
            if not self.accusations.is_dead(node, self.now, RTT_S):
                continue
            at = self.accused_at(node)
            needed = min(ACCUSERS_NEEDED, len(word.watchers))
            assert len(at) >= max(1, needed)
            assert self.now - at[needed - 1] >= WINDOW_SHORTEST_S

    @invariant()
    def who_is_accused_by_enough_for_long_is_dead(self) -> None:
        for node in self.words:
            standing = self.accusations.against(node)
            if len(standing) >= min(ACCUSERS_NEEDED, len(self.words[node].watchers)) and standing:
                assert self.accusations.is_dead(node, self.now + LONG_S, RTT_S, own_fault=1.0)

    @invariant()
    def what_counts_is_about_last_words_and_bounded(self) -> None:
        for node in self.accusations.suspects():
            for message in self.accusations.against(node):
                self.check_counts(message)
        held = self.accusations._held
        for node in NODES:
            assert sum(node in by_accuser for by_accuser in held.values()) <= ACCUSATIONS_PER_ACCUSER
            assert len(held.get(node, {})) <= max(len(NODES) - 1, ACCUSATIONS_PASSED)


TestLiveness = LivenessMachine.TestCase
TestLiveness.settings = PLAYED
