"""A node that cannot be dialled names its relays in its record, and drops one that is gone."""

from meshnode.testing.simulation import Simulation, simulate


def test_a_node_that_cannot_be_dialled_names_its_relays_as_they_come_and_go() -> None:
    async def play(simulation: Simulation) -> None:
        first = await simulation.start("first", engine="none")
        second = await simulation.start("second", engine="none")
        await second.join(await first.invite())
        hidden = await simulation.start("hidden", reachable=False)
        await hidden.join(await first.invite())

        def named() -> set[str]:
            assert second.presence is not None
            view = second.presence.view()
            names = {node: peer.name for node, peer in view.items()} | {second.presence.book.own: "second"}
            ads = [peer.ad for peer in view.values() if peer.name == "hidden" and peer.ad is not None]
            return {names.get(relay, "?") for ad in ads for relay in ad.relays}  # type: ignore[arg-type]

        await simulation.until(lambda: named() == {"first", "second"})
        await simulation.crash("first")
        await simulation.until(lambda: named() == {"second"})

    simulate(1, play)
