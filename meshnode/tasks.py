"""Where the tasks of a part live that outlast whoever started them. It knows nothing of what they do."""

import trio


class Tasks:
    """A part of the node with tasks of its own: there is a `_nursery` for them while `run` runs, and None else."""

    _nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let tasks live, until cancelled; those under way end then."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None
