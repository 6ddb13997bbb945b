"""The mesh under hypothesis's hands, the machine's ability to fail, and a user's own extension of it."""

from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from meshnode.testing.machine import NAMES, MeshMachine, ask
from meshnode.testing.simulation import Simulation
from meshnode.testing.stepwise import Stepwise

PLAYED = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_whatever_happens_the_mesh_comes_together_again() -> None:
    run_state_machine_as_test(MeshMachine, settings=PLAYED)


class Unhealed(MeshMachine):
    """A mesh in which one partition stays."""

    async def _end_faults(self, simulation: Simulation) -> None:
        await super()._end_faults(simulation)
        simulation.partition("n0", NAMES)
        for name in NAMES[1:]:
            await simulation.crash(name)
            simulation.set_disk(name, None)
            await simulation.restart(name)


def run_once(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(PLAYED, max_examples=1, stateful_step_count=2))


def test_a_mesh_that_does_not_come_together_fails_with_its_timeline() -> None:
    with pytest.raises(trio.TooSlowError) as caught:
        run_once(Unhealed)
    notes = "\n".join(getattr(caught.value, "__notes__", ()))
    assert "Seed" in notes
    assert "partition: n0 | n0,n1,n2,n3" in notes


class Counting(MeshMachine):
    """A user's own rule and check."""

    asked = 0

    @rule()
    def ask_everybody(self) -> None:
        async def step(simulation: Simulation) -> None:
            for name in sorted(self.up):
                await ask(simulation.host(name).node)
                type(self).asked += 1

        self.do(step)


def test_a_users_own_rules_run_beside_the_machines() -> None:
    run_state_machine_as_test(Counting, settings=settings(PLAYED, max_examples=5))
    assert Counting.asked


def test_steps_outlive_a_failed_one_and_end_with_the_simulation() -> None:
    stepwise = Stepwise(1)

    async def start(simulation: Simulation) -> str:
        return (await simulation.start("a")).config.name

    async def fail(_: Simulation) -> Any:
        raise LookupError("mine")

    assert stepwise.do(start) == "a"
    with pytest.raises(LookupError, match="mine") as caught:
        stepwise.do(fail)
    assert "start a" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="runs already"):
        stepwise.do(start)
    stepwise.close()
    with pytest.raises(RuntimeError, match="is over"):
        stepwise.do(start)


def test_a_nodes_own_failure_is_what_the_step_raises_with_the_timeline() -> None:
    stepwise = Stepwise(1)

    async def break_a_node(simulation: Simulation) -> None:
        node = await simulation.start("a")
        assert node.presence is not None

        def fail() -> None:
            raise LookupError("the node's own")

        node.presence.publisher.current_cards = fail  # type: ignore[assignment, method-assign]
        await trio.sleep(30)

    with pytest.raises(Exception) as caught:
        stepwise.do(break_a_node)
    assert "start a" in "".join(getattr(caught.value, "__notes__", ()))
    assert "the node's own" in str(caught.value) + repr(caught.value)
