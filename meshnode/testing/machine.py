"""A mesh for hypothesis to break: a stateful machine whose rules are what happens to devices and to networks.

Extend it with rules and checks of your own application. Needs `meshnode[testing]`.
"""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from meshnode.errors import MeshError
from meshnode.node import Node
from meshnode.terms import End
from meshnode.testing.simulation import Simulation
from meshnode.testing.stepwise import Stepwise

T = TypeVar("T")
NAMES = ("n0", "n1", "n2", "n3")
PLACE = st.sampled_from(NAMES)


class MeshMachine(RuleBasedStateMachine):
    """Four nodes of one mesh, all with the scripted engine; `n0` founds it.

    `settings` are fields of Config for every node. Whatever a rule has done, in the end everything is healed
    and started again, and `settled` is asked whether all is well: that all see each other and all answer.
    """

    settings: ClassVar[dict[str, Any]] = {}
    settles_within_s: ClassVar[float] = 30.0

    def __init__(self) -> None:
        super().__init__()
        self._stepwise: Stepwise | None = None
        self.up: set[str] = set()

    def do(self, step: Callable[[Simulation], Awaitable[T]]) -> T:
        """Run a step of your own in the simulation."""
        assert self._stepwise is not None
        return self._stepwise.do(step)

    @initialize(seed=st.integers(0, 2**32 - 1))
    def found(self, seed: int) -> None:
        """All join."""
        self._stepwise = Stepwise(seed)
        self.do(self._found)
        self.up = set(NAMES)

    @rule(a=PLACE, b=PLACE, one_way=st.booleans())
    def partition(self, a: str, b: str, one_way: bool) -> None:
        """Two of them do not hear each other any more."""
        self._now(lambda simulation: simulation.partition(a, b, one_way=one_way))

    @rule(a=PLACE, b=PLACE)
    def hold(self, a: str, b: str) -> None:
        """What two of them send each other does not arrive yet."""
        self._now(lambda simulation: simulation.hold(a, b))

    @rule(a=PLACE, b=PLACE, loss=st.sampled_from((0.0, 0.05, 0.3)))
    def lose(self, a: str, b: str, loss: float) -> None:
        """A part of what two of them send each other has to be sent again."""
        self._now(lambda simulation: simulation.shape(a, b, loss=loss))

    @rule()
    def heal(self) -> None:
        """Everybody hears everybody."""
        self._now(Simulation.heal)

    @rule(name=PLACE, silent=st.booleans())
    def crash(self, name: str, silent: bool) -> None:
        """A node is gone."""
        if name in self.up:
            self.up.discard(name)
            self.do(lambda simulation: simulation.crash(name, silent=silent))

    @rule(name=PLACE)
    def restart(self, name: str) -> None:
        """A node is back."""
        if name not in self.up:
            self.up.add(name)
            self.do(lambda simulation: simulation.restart(name))

    @rule(name=PLACE, ahead_s=st.integers(-300, 300))
    def set_clock(self, name: str, ahead_s: int) -> None:
        """A clock is wrong."""
        self._now(lambda simulation: simulation.set_clock(name, ahead_s))

    @rule(seconds=st.sampled_from((0.1, 1.0, 5.0, 20.0)))
    def wait(self, seconds: float) -> None:
        """Time passes."""

        async def sleep(_: Simulation) -> None:
            await trio.sleep(seconds)

        self.do(sleep)

    @precondition(lambda self: self.up)
    @rule(name=PLACE)
    def ask(self, name: str) -> None:
        """A node is asked, and answers or says why not, in time and once."""
        if name in self.up:
            self.do(lambda simulation: ask(simulation.host(name).node))

    async def settled(self, simulation: Simulation) -> None:
        """What holds again some time after all is healed; raises AssertionError or trio.TooSlowError."""
        nodes = [simulation.host(name).node for name in NAMES]
        everybody = {node.identity.node for node in nodes}
        await simulation.until(
            lambda: all(_known(node) == everybody for node in nodes), within_s=self.settles_within_s
        )
        for node in nodes:
            assert await ask(node), f"{node.config.name} has no answer"

    def teardown(self) -> None:
        """Heal everything, start everybody, and see whether all is well."""
        if self._stepwise is None:
            return
        try:
            for name in sorted(set(NAMES) - self.up):
                self.restart(name)
            for name in NAMES:
                self.set_clock(name, 0)
            self.do(self._end_faults)
            self.do(self.settled)
        finally:
            self._stepwise.close()

    def _now(self, act: Callable[[Simulation], None]) -> None:
        async def step(simulation: Simulation) -> None:
            act(simulation)

        self.do(step)

    async def _found(self, simulation: Simulation) -> None:
        first, *others = [await simulation.start(name, **self.settings) for name in NAMES]
        for node in others:
            await node.join(await first.invite())

    async def _end_faults(self, simulation: Simulation) -> None:
        simulation.heal()
        simulation.shape(NAMES, NAMES, loss=0.0)


async def ask(node: Node, deadline_s: float = 10.0) -> bool:
    """Ask a node for a few tokens: True if it answered, False if it said why not.

    Raises AssertionError if it did neither within its deadline, or if the answer has a gap, a repetition or no
    end.
    """
    index, ends = 0, 0
    with trio.fail_after(deadline_s + 1):
        try:
            async with node.ask("Are you there?", max_tokens=8, deadline_s=deadline_s) as running:
                async for item in running.pieces:
                    if isinstance(item, End):
                        ends += 1
                    elif (first := getattr(item, "first_index", None)) is not None:
                        assert first == index, f"index {first} after {index}"
                        index += len(item.ids)  # type: ignore[union-attr]  # only a Piece has an index
        except MeshError:
            return False
    assert ends == 1, f"{ends} ends"
    return True


def _known(node: Node) -> set[Any]:
    """Those that a node counts as members it can reach, itself included."""
    assert node.presence is not None
    return {*node.presence.view(), node.identity.node}
