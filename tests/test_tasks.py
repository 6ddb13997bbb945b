"""The tasks of a part live as long as it runs."""

import pytest
import trio

from meshnode.tasks import Tasks


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def test_there_is_a_place_for_tasks_only_while_a_part_runs() -> None:
    part, ended = Tasks(), list[bool]()
    assert part._nursery is None

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async with trio.open_nursery() as nursery:
        await nursery.start(part.run)
        assert part._nursery is not None
        part._nursery.start_soon(task)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ended
    assert part._nursery is None  # whether it was so for the task already is a matter of who was woken first
