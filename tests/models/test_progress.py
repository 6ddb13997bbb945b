"""Progress is told with a speed, not too often, and to the end."""

from meshnode.models.progress import Meter, PullProgress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_speed_is_that_of_the_last_seconds_and_without_what_was_there_before():
    told, clock = [], Clock()
    meter = Meter(told.append, clock)
    meter.begin("fetching", 500, 10_000)
    for second in range(1, 10):
        clock.now = float(second)
        meter.at(500 + second * (100 if second < 4 else 1000), 10_000)
    assert told[0] == PullProgress("fetching", 500, 10_000)
    assert told[1] == PullProgress("fetching", 600, 10_000, 100.0, 94.0)
    assert told[-1].bytes_per_s == 1000.0
    assert told[-1].left_s == 0.5


def test_many_steps_are_told_now_and_then_and_the_last_always():
    told, clock = [], Clock()
    meter = Meter(told.append, clock)
    meter.begin("copying", 0, 1000)
    for done in range(1, 1001):
        clock.now = done / 1000
        meter.at(done, 1000)
    assert 5 <= len(told) <= 12
    assert (told[-1].done, told[-1].total, told[-1].left_s) == (1000, 1000, 0.0)
    meter.at(1000, 1000)
    assert told.count(told[-1]) == 1
