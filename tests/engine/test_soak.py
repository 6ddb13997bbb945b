"""A short soak on every run of the tests; `soak.py` plays thousands."""

import pytest
import trio

pytest.importorskip("llama_cpp", reason="it is llama.cpp that is soaked")

from meshnode.engine.worker.frames import Inspected, Refused, Written
from tests.engine.soak import Life, Soak

pytestmark = pytest.mark.model

RUNS = 300


def test_random_runs_end_once_each_and_leave_nothing(model_file):
    soak = Soak(RUNS)
    trio.run(soak.play, model_file)
    assert list(soak.faults()) == []
    outcomes = soak.outcomes()
    assert sum(outcomes.values()) == RUNS
    assert {"length", "stop", "invalid_request", "context_length_exceeded", "cancelled"} <= outcomes.keys()
    assert soak.cached > 0.05


END = Refused(1, "busy", "")
WRITTEN = Written(1, 0, (1, 2), "text")
CLEAN = Inspected(runs=0, cells=0, idle=0, occupied=0)


@pytest.mark.parametrize(
    ("events", "left", "fault"),
    [
        ([], CLEAN, "run 1 ended 0 times"),
        ([END, END], CLEAN, "run 1 ended 2 times"),
        ([END, WRITTEN], CLEAN, "run 1 went on after its end"),
        ([WRITTEN, END], Inspected(runs=0, cells=3, idle=0, occupied=1), "something is left"),
        ([WRITTEN, END], CLEAN, None),
    ],
)
def test_the_soak_itself_notices(events, left, fault):
    soak = Soak(1)
    soak.lives[1] = Life(soak.job(1), events=events)
    soak.inspected.append(left)
    faults = list(soak.faults())
    assert faults == [] if fault is None else faults[0].startswith(fault)
