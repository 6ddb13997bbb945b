"""Accusations: who may accuse, what it takes, what ends it. Pure; time is an argument."""

from meshnode.mesh.liveness import (
    WINDOW_LONGEST_S,
    WINDOW_SHORTEST_S,
    Accusations,
    Word,
    window_s,
)
from meshwire.accusing import accuse
from meshwire.ids import NodeId, node_id
from meshwire.limits import ACCUSATIONS_PASSED, ACCUSATIONS_PER_ACCUSER
from meshwire.messages import Accuse
from meshwire.signing import Signer

MESH = bytes(16)
SIGNERS = [Signer(number.to_bytes(32, "big")) for number in range(1, 10)]
NODES = [node_id(signer.public) for signer in SIGNERS]
VICTIM = NodeId(bytes(20))
LONG_S = 60.0


class Play:
    """One node's accusations of VICTIM, whose last vitals are of `seq` and name the first `watchers`."""

    def __init__(self, watchers: int = 4, seq: int = 10) -> None:
        self.words = {VICTIM: Word(seq, frozenset(NODES[:watchers]))}
        self.accusations = Accusations(self.words.get)

    def hear(self, number: int, seq: int = 10, at: float = 0.0) -> bool:
        message = saying(number, seq)
        news = self.accusations.is_news(message)
        if news:
            self.accusations.take(message, at)
        return news

    def dead(self, now: float = LONG_S, own_fault: float = 0.0) -> bool:
        return self.accusations.is_dead(VICTIM, now, 0.1, own_fault)

    def speak(self, seq: int, watchers: int = 4) -> None:
        self.words[VICTIM] = Word(seq, frozenset(NODES[:watchers]))


def saying(number: int, seq: int, about: NodeId = VICTIM) -> Accuse:
    return accuse(SIGNERS[number], MESH, about, seq)


def test_two_watchers_it_takes_and_time_to_deny() -> None:
    play = Play()
    assert play.hear(0)
    assert not play.dead()
    assert play.hear(1, at=1.0)
    assert not play.dead(1.0 + WINDOW_SHORTEST_S)
    assert play.dead(1.5 + WINDOW_LONGEST_S)


def test_one_is_enough_where_there_is_only_one_watcher() -> None:
    play = Play(watchers=1)
    assert play.hear(0)
    assert play.dead()


def test_whoever_is_not_named_as_a_watcher_accuses_in_vain() -> None:
    play = Play(watchers=2)
    assert not play.hear(2)
    assert not play.hear(3)
    assert not play.dead()
    # Not even by speaking of vitals to come, which will not name it either.
    assert play.hear(2, seq=11)
    assert play.hear(3, seq=11)
    play.speak(11, watchers=2)
    assert not play.dead()
    assert not play.accusations.to_pass()


def test_one_who_accuses_twice_is_still_one() -> None:
    play = Play()
    assert play.hear(0)
    assert not play.hear(0)
    assert not play.dead()


def test_nobody_accuses_himself_and_nobody_is_accused_unknown() -> None:
    play = Play()
    play.words[NODES[0]] = Word(3, frozenset((NODES[0], NODES[1])))
    assert not play.accusations.is_news(saying(0, 3, about=NODES[0]))
    assert not play.accusations.is_news(saying(0, 3, about=NODES[5]))


def test_newer_vitals_end_it_at_once_and_old_accusations_stay_ended() -> None:
    play = Play()
    assert play.hear(0)
    assert play.hear(1)
    assert play.dead()
    play.speak(11)
    assert not play.dead()
    assert not play.hear(2, seq=10)
    play.accusations.forget_denied()
    assert not play.accusations.concern(VICTIM)


def test_an_accusation_of_vitals_not_known_yet_waits_for_them() -> None:
    play = Play()
    assert play.hear(0, seq=11)
    assert play.hear(1, seq=11)
    assert not play.dead()
    assert not play.accusations.to_pass()
    play.speak(11)
    assert play.dead()
    assert len(play.accusations.to_pass()) == 2
    assert not play.accusations.to_pass()


def test_enough_is_enough() -> None:
    play = Play(watchers=8)
    assert sum(play.hear(number) for number in range(8)) == ACCUSATIONS_PASSED
    assert play.accusations.settled(VICTIM)


def test_the_accusations_of_one_are_bounded() -> None:
    play = Play()
    victims = [NodeId(number.to_bytes(20, "big")) for number in range(1, ACCUSATIONS_PER_ACCUSER + 2)]
    play.words.update({victim: Word(1, frozenset(NODES[:2])) for victim in victims})
    for victim in victims[:-1]:
        message = saying(0, 1, about=victim)
        assert play.accusations.is_news(message)
        play.accusations.take(message, 0.0)
    assert not play.accusations.is_news(saying(0, 1, about=victims[-1]))
    assert play.accusations.is_news(saying(1, 1, about=victims[-1]))


def test_who_hears_all_late_waits_longer() -> None:
    play = Play(watchers=2)
    assert play.hear(0)
    assert play.hear(1)
    assert play.dead(3.0)
    assert not play.dead(3.0, own_fault=1.0)


def test_the_window_shrinks_as_more_agree() -> None:
    assert window_s(0, 2) == WINDOW_LONGEST_S
    assert WINDOW_SHORTEST_S < window_s(1, 2) < WINDOW_LONGEST_S
    assert window_s(2, 2) == window_s(5, 2) == window_s(0, 0) == WINDOW_SHORTEST_S
