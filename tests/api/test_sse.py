"""Signs of life in a stream of events: when they come, and that waiting for a slow client costs nothing."""

import trio
import trio.testing

from meshnode.api.sse import KEEP_ALIVE, KEEP_ALIVE_S, UNSENT_BYTES_MAX, EventStream

TURNS = 100


class Steps(trio.abc.Instrument):
    """How often the task that shows life has run."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith("keep_alive")


class Client:
    """What reaches a client that reads nothing between `stop` and `go_on`."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._reads = trio.Event()
        self.go_on()

    def stop(self) -> None:
        self._reads = trio.Event()

    def go_on(self) -> None:
        self._reads.set()

    async def send(self, message) -> None:
        await self._reads.wait()
        self.heard.append(message["body"])


def test_a_write_that_lasts_is_waited_for_and_not_looked_at_again_and_again() -> None:
    clock, steps, client = trio.testing.MockClock(), Steps(), Client()

    async def play() -> None:
        events = EventStream(client.send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.keep_alive)
            nursery.start_soon(events.deliver)
            await events.write(b"one")
            await trio.testing.wait_all_tasks_blocked()
            client.stop()
            nursery.start_soon(events.write, b"two")
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(3 * KEEP_ALIVE_S)
            steps.count = 0
            for _ in range(TURNS):
                await trio.lowlevel.checkpoint()
            assert steps.count <= 3
            client.go_on()
            await trio.testing.wait_all_tasks_blocked()
            assert client.heard == [b"one", b"two"]  # it has heard something just now
            clock.jump(KEEP_ALIVE_S)
            await trio.testing.wait_all_tasks_blocked()
            assert client.heard[2:] == [KEEP_ALIVE]
            nursery.cancel_scope.cancel()

    trio.run(play, clock=clock, instruments=[steps])


def test_events_that_are_there_at_once_leave_in_one_write_and_the_others_at_once() -> None:
    client = Client()

    async def play() -> None:
        events = EventStream(client.send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.deliver)
            for each in (b"one", b"two", b"three"):
                await events.write(each)
            await trio.testing.wait_all_tasks_blocked()
            await events.write(b"four")
            await trio.testing.wait_all_tasks_blocked()
            assert client.heard == [b"onetwothree", b"four"]
            await events.write(b"five")
            await events.finish(b"six")
            assert client.heard[2:] == [b"fivesix"]
            nursery.cancel_scope.cancel()

    trio.run(play)


def test_no_more_waits_for_its_turn_than_it_may() -> None:
    client = Client()

    async def play() -> None:
        events = EventStream(client.send)  # and nobody who delivers
        await events.write(b"x" * (UNSENT_BYTES_MAX - 1))
        assert client.heard == []
        await events.write(b"y")
        assert [len(data) for data in client.heard] == [UNSENT_BYTES_MAX]

    trio.run(play)
