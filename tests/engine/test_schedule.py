"""Who computes what in a step, of runs that share the cells and of runs with their own."""

from dataclasses import dataclass

import pytest

pytest.importorskip("llama_cpp", reason="how much is read in a step is said where llama.cpp is")

from hypothesis import given
from hypothesis import strategies as st

from meshnode.engine.worker.llama import CHUNK_TOKENS
from meshnode.engine.worker.schedule import OneByOne, Together

CHUNK = 300  # while more wait than answer


@dataclass(eq=False)
class Run:
    name: str
    left: int
    waited: int = 0  # tokens of prompts, since its answer went on


class Play:
    """Runs that answer for ever once their prompts are read."""

    def __init__(self, schedule, *lefts):
        self.schedule = schedule
        self.runs = [Run(f"r{number}", left) for number, left in enumerate(lefts)]
        self.longest_wait = 0

    def step(self):
        """One step: who computes how much."""
        reading = [run for run in self.runs if run.left > 1]
        answering = [run for run in self.runs if run.left == 1]
        takes = self.schedule.takes(reading, answering, CHUNK)
        read = sum(take for run, take in takes if run in reading)
        for run in answering:
            run.waited += read
            self.longest_wait = max(self.longest_wait, run.waited)
        for run, take in takes:
            run.left, run.waited = max(1, run.left - take), 0
        return [(run.name, take) for run, take in takes]


def test_prompts_that_share_the_cells_are_read_at_once_while_few_answer():
    assert Play(Together(), 58, 60, 59).step() == [("r0", 58), ("r1", 60), ("r2", 59)]


def test_prompts_with_cells_of_their_own_are_read_one_by_one_and_then_all_go_on():
    play = Play(OneByOne(), 58, 60, 59, 57)
    assert [play.step() for _ in range(4)] == [
        [("r0", 58)],
        [("r3", 57)],
        [("r0", 1), ("r3", 1), ("r1", 60), ("r2", 59)],
        [("r0", 1), ("r1", 1), ("r2", 1), ("r3", 1)],
    ]


def test_answers_go_on_once_a_chunk_has_been_read_before_the_next_prompt():
    play = Play(OneByOne(), *[110] * 9, 1)
    assert [play.step() for _ in range(4)] == [
        [("r0", 110)],
        [("r1", 110)],
        [("r0", 1), ("r1", 1), ("r9", 1)],
        [("r2", 110)],
    ]


def test_without_answers_a_long_prompt_is_read_in_whole_chunks():
    play = Play(OneByOne(), 700)
    assert [play.step() for _ in range(3)] == [[("r0", 300)], [("r0", 300)], [("r0", 100)]]


def test_a_long_prompt_that_came_first_has_half_whoever_comes():
    play = Play(OneByOne(), 600, *[60] * 40)
    read = 0
    while play.runs[0].left > 1:
        read += sum(take for name, take in play.step() if name != "r0")
    assert 360 <= read <= 600


lengths = st.lists(st.integers(1, 1500), min_size=1, max_size=16)


@given(lengths, st.sampled_from([Together, OneByOne]))
def test_every_prompt_is_read_no_step_is_empty_and_no_answer_waits_long(lefts, schedule):
    play = Play(schedule(), *lefts)
    for _ in range(sum(lefts)):
        takes = play.step()
        assert takes
        assert all(take > 0 for _, take in takes)
        if all(run.left == 1 for run in play.runs):
            break
    assert all(run.left == 1 for run in play.runs)
    assert play.longest_wait <= CHUNK + CHUNK_TOKENS  # the last of them is read beside its next token


@given(lengths)
def test_one_by_one_reads_one_prompt_at_a_time_while_more_wait_than_answer(lefts):
    play = Play(OneByOne(), *lefts)
    for _ in range(40):
        reading = [run.name for run in play.runs if run.left > 1]
        takes = play.step()
        if 2 * len(reading) > len(lefts):
            assert len([name for name, _ in takes if name in reading]) <= 1
        else:
            assert sum(take for name, take in takes if name in reading) <= CHUNK_TOKENS
