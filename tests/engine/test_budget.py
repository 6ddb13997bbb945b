"""Models share memory: who waits, who is asked to leave, and who never is."""

import pytest
import trio
import trio.testing

from meshnode.engine.budget import MemoryBudget
from meshnode.errors import EngineFailed


class Tenant:
    """An occupant that stays until it is told to leave, and then takes a moment."""

    def __init__(self, budget: MemoryBudget, *, need: int, used_at: float = 0.0) -> None:
        self.budget, self.need = budget, need
        self.used_at = used_at
        self.idle = True
        self.inside = trio.Event()
        self.asked = False
        self.stay = trio.CancelScope()

    def vacate(self) -> None:
        self.asked = True
        self.stay.cancel()

    async def live(self) -> None:
        with self.stay:
            async with self.budget.room(self, self.need):
                self.inside.set()
                await trio.sleep_forever()


async def enter(nursery: trio.Nursery, *tenants: Tenant) -> None:
    """Let them in, in this order."""
    for tenant in tenants:
        nursery.start_soon(tenant.live)
        await trio.testing.wait_all_tasks_blocked()


async def test_what_fits_enters_at_once_and_what_never_can_is_refused():
    budget = MemoryBudget(100)
    async with trio.open_nursery() as nursery:
        await enter(nursery, Tenant(budget, need=60), Tenant(budget, need=40))
        assert budget.free_bytes == 0
        nursery.cancel_scope.cancel()
    assert budget.free_bytes == 100
    with pytest.raises(EngineFailed, match="memory_mb"):
        async with budget.room(Tenant(budget, need=101), 101):
            pass


async def test_the_longest_unused_leaves_and_no_more_than_needed():
    budget = MemoryBudget(100)
    young, old = Tenant(budget, need=50, used_at=9.0), Tenant(budget, need=50, used_at=1.0)
    new = Tenant(budget, need=50)
    async with trio.open_nursery() as nursery:
        await enter(nursery, young, old, new)
        assert (young.asked, old.asked) == (False, True)
        assert new.inside.is_set()
        nursery.cancel_scope.cancel()


async def test_one_that_works_is_never_asked_and_its_end_makes_room():
    budget = MemoryBudget(100)
    working, new = Tenant(budget, need=80), Tenant(budget, need=80)
    working.idle = False
    async with trio.open_nursery() as nursery:
        await enter(nursery, working, new)
        assert not working.asked
        assert not new.inside.is_set()
        working.idle = True
        budget.changed()
        await trio.testing.wait_all_tasks_blocked()
        assert working.asked
        assert new.inside.is_set()
        nursery.cancel_scope.cancel()


async def test_nobody_leaves_in_vain():
    budget = MemoryBudget(100)
    idle, working, new = Tenant(budget, need=30), Tenant(budget, need=70), Tenant(budget, need=60)
    working.idle = False
    async with trio.open_nursery() as nursery:
        await enter(nursery, idle, working, new)
        assert not idle.asked
        nursery.cancel_scope.cancel()


async def test_a_small_one_passes_a_large_one_only_while_that_has_no_prospect():
    budget = MemoryBudget(100)
    working, large, small = Tenant(budget, need=80), Tenant(budget, need=90), Tenant(budget, need=20)
    working.idle = False
    async with trio.open_nursery() as nursery:
        await enter(nursery, working, large, small)
        assert small.inside.is_set()
        small.idle = working.idle = True
        budget.changed()
        await trio.testing.wait_all_tasks_blocked()
        assert large.inside.is_set()
        nursery.cancel_scope.cancel()


async def test_who_gives_up_waiting_holds_nobody_up():
    budget = MemoryBudget(100)
    working, large, small = Tenant(budget, need=60), Tenant(budget, need=90), Tenant(budget, need=30)
    working.idle = False
    async with trio.open_nursery() as nursery:
        await enter(nursery, working, large)
        large.stay.cancel()
        await enter(nursery, small)
        assert small.inside.is_set()
        assert budget.free_bytes == 10
        nursery.cancel_scope.cancel()
