"""Somebody types at the machine that is answering: within a second it computes for nobody else, and no token is lost.

Real processes, the real model and a real terminal. The asker is a node in this process, so that every piece is seen.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshnode import open_node
from meshnode.node import Node
from meshnode.terms import End, Piece
from meshnode.testing.processes import NodeProcess, node_process
from tests.e2e.world import HANG_S, MODEL, command, surroundings

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="pseudo-terminals are elsewhere on other systems"),
]

TOKENS = 400
WITHIN_S = 1.0
QUIET_S = 3  # B works for others when nobody has typed for so long


@asynccontextmanager
async def three(root: Path) -> AsyncIterator[tuple[Node, NodeProcess, NodeProcess]]:
    """A asks; B and C have the model, and B minds its keyboard."""
    rules = surroundings(MESHNODE_SPARE_IDLE_S=str(QUIET_S), MESHNODE_SPARE_CALM_S="1")
    options = ("--engine", "llama", "--model", MODEL, "--threads", "1", "--slots", "2")
    async with (
        open_node(
            home=root / "A", name="A", engine="none", api_port=0, mesh_port=0, mesh_host="127.0.0.1", env={}
        ) as a,
        node_process(root / "B", ("--name", "B", *options), env=rules) as b,
        node_process(root / "C", ("--name", "C", *options), env=surroundings()) as c,
    ):
        presence = await a.present()
        for node in (b, c):
            await node.mesh_address()
            via = presence.addresses[0]
            await node.call("join", target=await a.invite(), leave=False, via=via)
        while sum(len(model.nodes) for model in a.models()) < 2:
            await trio.sleep(0.1)
        yield a, b, c


async def peers_accept(a: Node, **wanted: bool) -> None:
    """Wait until A has heard who takes its work."""
    while {peer.name: peer.accepting for peer in a.snapshot().peers} != wanted:
        await trio.sleep(0.05)


async def test_typing_moves_a_running_answer_to_another_machine(model_file: Path, tmp_path: Path):
    master, slave = os.openpty()
    try:
        with trio.fail_after(3 * HANG_S):
            async with three(tmp_path) as (a, b, c):
                # B alone takes work at first, so that it is the one to begin.
                paused = await command("pause", "--home", str(c.home), "--json")
                assert paused.code == 0, paused.err
                await peers_accept(a, B=True, C=False)
                pieces: list[Piece] = []
                ends, moved, by_c = 0, False, False
                async with a.ask(
                    "Write down the numbers from one to one thousand in words.",
                    max_tokens=TOKENS,
                    temperature=0.0,
                ) as running:
                    assert running.answer.served_by.startswith("B")
                    async for item in running.pieces:
                        ends += isinstance(item, End)
                        pieces += [item] if isinstance(item, Piece) else []
                        if not moved and sum(len(piece.ids) for piece in pieces) >= 10:
                            await c.call("resume")
                            await peers_accept(a, B=True, C=True)
                            os.write(master, b"x\n")
                            os.read(slave, 8)
                            with trio.fail_after(WITHIN_S):
                                seen = await b.until(lambda seen: seen.sharing.state != "accepting")
                                await b.until(lambda seen: seen.engine.in_flight == 0)
                            assert seen.sharing.why == ("somebody is at the keyboard",)
                            moved = True
                        elif moved and not by_c:  # a few pieces may still have been on their way from B
                            by_c = (await c.snapshot()).engine.in_flight == 1
                indexes = [
                    index
                    for piece in pieces
                    for index in range(piece.first_index, piece.first_index + len(piece.ids))
                ]
                assert indexes == [*range(TOKENS)]
                assert ends == 1
                assert by_c
                # B takes work again once its keyboard is left alone.
                told = await command("status", "--home", str(b.home))
                assert "others' work" in told.out
                await b.until(lambda seen: seen.sharing.state == "accepting")
    finally:
        os.close(master)
        os.close(slave)
