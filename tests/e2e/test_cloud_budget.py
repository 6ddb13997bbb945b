"""A commercial API's budget under load, with real processes: never exceeded, and right after the node is killed."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import trio

from meshnode.testing.processes import NodeProcess, node_process
from tests.e2e.world import HANG_S, surroundings

API = Path(__file__).with_name("paid_api.py")
ASKED, PAID = 200, 50
PROMPT_TOKENS, ANSWER_TOKENS = 1000, 100
CONTEXT = 1000  # so that the prompt costs just what is held for it
MODEL = "big-model"
COST_USD = (PROMPT_TOKENS * 2.0 + ANSWER_TOKENS * 10.0) / 1e6
BUDGET_USD = PAID * COST_USD


def config_of(port: int) -> str:
    return f"""
[[cloud]]
name = "paid"
url = "http://127.0.0.1:{port}"
monthly_usd = {BUDGET_USD!r}
slots = 256
[[cloud.models]]
id = "{MODEL}"
input_usd = 2.0
output_usd = 10.0
context = {CONTEXT}
output = {ANSWER_TOKENS}
"""


@asynccontextmanager
async def paid_api(root: Path, delay_s: float) -> AsyncIterator[tuple[int, Path]]:
    """The API, its port, and the file where it notes what it was asked."""
    notes = root / "notes.jsonl"
    notes.touch()
    command = [sys.executable, str(API), str(notes), str(PROMPT_TOKENS), str(ANSWER_TOKENS), str(delay_s)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(await process.stdout.receive_some()), notes
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def node_at(home: Path, port: int) -> AsyncIterator[NodeProcess]:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(config_of(port))
    arguments = ("--engine", "none", "--name", "payer")
    async with node_process(home, arguments, env=surroundings(MESHNODE_DISCOVER="false")) as node:
        with trio.fail_after(HANG_S):
            await node.event("mesh")
        yield node


async def statuses(url: str, count: int) -> list[int]:
    """Ask so many times at once; the status of each, 0 where the node was gone."""
    got: list[int] = []
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(timeout=HANG_S, trust_env=False, limits=limits) as client:

        async def one(number: int) -> None:
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"Question {number}"}],
                "mesh": {"privacy": "public"},
            }
            try:
                response = await client.post(f"{url}/v1/chat/completions", json=body)
                got.append(response.status_code)
                if response.status_code == 402:
                    assert response.json()["error"]["code"] == "budget_exceeded"
            except httpx2.TransportError:
                got.append(0)

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
    return got


def noted(notes: Path) -> int:
    return len(notes.read_text().splitlines())


async def test_two_hundred_at_once_against_a_budget_for_fifty(tmp_path):
    async with paid_api(tmp_path, 0.2) as (port, notes), node_at(tmp_path / "home", port) as node:
        with trio.fail_after(HANG_S):
            got = await statuses(await node.api_url(), ASKED)
            (cloud,) = (await node.snapshot()).cloud
    assert (got.count(200), got.count(402)) == (PAID, ASKED - PAID)
    assert noted(notes) == PAID
    assert (round(cloud.spent_usd, 9), cloud.left_usd, cloud.held_usd) == (round(BUDGET_USD, 9), 0.0, 0.0)


async def test_a_node_killed_in_the_middle_does_not_spend_the_same_money_again(tmp_path):
    home = tmp_path / "home"
    async with paid_api(tmp_path, 1.0) as (port, notes):
        async with node_at(home, port) as node:
            url = await node.api_url()
            with trio.fail_after(HANG_S):
                assert (await statuses(url, 10)).count(200) == 10  # these are settled
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(statuses, url, 25)
                    while noted(notes) < 20:
                        await trio.sleep(0.01)
                    node.kill()
            before = noted(notes)
        assert 20 <= before <= 35
        async with node_at(home, port) as node:
            with trio.fail_after(HANG_S):
                (cloud,) = (await node.snapshot()).cloud
                assert cloud.spent_usd + cloud.assumed_usd >= before * COST_USD - 1e-9
                assert round(cloud.spent_usd / COST_USD, 6) == 10
                got = await statuses(await node.api_url(), ASKED)
                (after,) = (await node.snapshot()).cloud
        assert noted(notes) <= PAID
        assert got.count(200) == int(cloud.left_usd / COST_USD + 1e-6)
        assert after.left_usd < COST_USD
        assert (home / "spending.sqlite").stat().st_mode & 0o077 == 0
