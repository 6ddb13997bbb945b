"""The thread count follows what other programs leave free."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from meshnode.engine import threads
from meshnode.engine.threads import Governor, Others, choose, cores, most, quota


@pytest.mark.parametrize(
    ("core_count", "others", "current", "expected"),
    [
        (2, 0.0, 2, 2),
        (2, 0.2, 2, 2),  # beside a fifth of a core two threads are still the faster
        (2, 1.0, 2, 1),  # beside a whole core one is
        (2, 0.1, 1, 2),
        (2, 0.5, 2, 2),  # between the two nothing changes
        (2, 0.5, 1, 1),
        (2, 2.0, 1, 1),
        (8, 0.0, 7, 7),
        (8, 3.0, 7, 5),
        (8, 9.0, 7, 1),
        (1, 1.0, 1, 1),
    ],
)
def test_the_count_follows_the_load_with_hysteresis(core_count, others, current, expected):
    assert choose(core_count, others, current) == expected


def test_one_core_stays_with_the_owner_when_there_are_more_than_two():
    assert [most(count) for count in (1, 2, 3, 8)] == [1, 2, 2, 7]
    assert cores() >= 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0.0),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 0.0),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "garbage"}, 0.0),
        ({"sys/fs/cgroup/cpu.max": "50000 0"}, 0.0),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            0.0,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            4.0,
        ),
    ],
)
def test_a_containers_quota_counts_like_cores(tmp_path, files, expected):
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    assert quota(tmp_path) == expected
    assert cores(tmp_path) == max(1, min(cores(), int(expected or cores())))


def test_half_a_core_is_still_one_thread(tmp_path):
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("50000 100000")
    assert cores(tmp_path) == 1


class Looks:
    """Stands in for the machine: each look gives the next of these."""

    def __init__(self, *taken: float) -> None:
        self.taken = list(taken)

    def look(self, _elapsed_s: float) -> tuple[float, float]:
        return self.taken.pop(0), 1.0


def test_a_core_that_is_taken_shows_within_two_looks_and_a_blip_does_not(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    governor = Governor(os.getpid(), 2)
    governor._others = Looks(0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert [governor.look(0.25) for _ in range(10)] == [2, 2, 2, 2, 2, 1, 1, 1, 2, 2]


def test_what_a_workers_children_compute_is_its_own():
    """As under bubblewrap, where the process that was started only waits for the one that computes."""
    spin = "import time; end = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    computed_s, deadline = 0.0, time.monotonic() + 15  # a machine that does other things gives it little
    with subprocess.Popen([sys.executable, "-c", outer], start_new_session=True) as process:
        while len(threads._family(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        others = Others(process.pid)
        while computed_s < 0.2 and time.monotonic() < deadline:
            time.sleep(0.1)
            computed_s += others.look(1.0)[1]
        os.killpg(process.pid, 9)
    assert computed_s >= 0.2


def test_looking_at_the_machine_never_fails():
    for process in (os.getpid(), 2**22 + 1):
        taken, own = Others(process).look(1.0)
        assert taken >= 0.0
        assert own >= 0.0


@pytest.mark.parametrize(
    ("busy_s", "computed_s", "waited_s", "others"),
    [
        (0.5, 0.25, 0.0, 1.0),  # nobody waits: the others take what they take
        (0.5, 0.33, 0.17, 1.03),  # three threads on two cores: what two thirds of a core wants is a whole one
        (0.5, 0.01, 0.40, 1.96),  # who hardly ran tells nothing by having waited
        (0.5, 0.1, 5.0, 4.8),  # nor is a wait believed beyond bounds
    ],
)
def test_what_others_want_shows_in_how_long_the_worker_waits(
    monkeypatch, busy_s, computed_s, waited_s, others
):
    spent = iter([threads._Spent(0.0, 0.0), threads._Spent(computed_s, waited_s)])
    busy = iter([0.0, busy_s])
    monkeypatch.setattr(threads, "_spent", lambda _process: next(spent))
    monkeypatch.setattr(threads, "_busy_s", lambda: next(busy))
    monkeypatch.setattr(threads, "_family", lambda process_id: [psutil.Process()])
    taken, own = Others(os.getpid()).look(0.25)
    assert taken == pytest.approx(others, abs=0.01)
    assert own == pytest.approx(computed_s / 0.25)
