"""Spot checks between two nodes with real weights: one is cleared, takes a worse copy of them, and is found."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from meshnode.config import Config
from meshnode.engine.process import LlamaEngine
from meshnode.errors import NoCandidate
from meshnode.node import Node
from meshnode.node.opening import open_node
from meshnode.routing.policy import Reason
from meshnode.routing.spotchecks import Verdict

pytestmark = pytest.mark.model
ANSWERS = 20
QUANTISE = """
import sys
from llama_cpp import llama_cpp as c
params = c.llama_model_quantize_default_params()
params.ftype, params.allow_requantize = c.LLAMA_FTYPE_MOSTLY_Q4_0, True
sys.exit(c.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
"""
numbers = itertools.count()
SETTINGS: dict[str, Any] = {
    "mesh_host": "127.0.0.1",
    "mesh_port": 0,
    "threads": 1,
    "slots": 2,
    "context": 1024,
    "sandbox": "none",
    "allow_unsandboxed": True,
    "spot_checks": 1.0,
}


@pytest.fixture(scope="module")
def worse(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the embedded model in fewer bits, made in a process of its own."""
    target = tmp_path_factory.mktemp("worse") / "worse.gguf"
    subprocess.run([sys.executable, "-c", QUANTISE, model_file, target], check=True, capture_output=True)
    return target


async def with_cards(node: Node) -> LlamaEngine:
    """The node's engine, once it has its model."""
    (engine,) = node.engines.all
    assert isinstance(engine, LlamaEngine)
    await node.bench.until(lambda: bool(engine.cards))
    return engine


async def asked_until(node: Node, holds: Any) -> int:
    """How many answers it takes until something holds; at most ANSWERS."""
    for number in range(ANSWERS):
        if holds():
            return number
        question = f"{next(numbers)}: tell me about {('tea', 'bees', 'iron')[number % 3]}."
        async with node.ask(question, place="mesh", max_tokens=40) as running:
            async for _ in running.pieces:
                pass
        await trio.sleep(1.0)
    raise AssertionError("it does not come to that")


async def test_a_node_that_exchanges_its_weights_for_a_worse_copy_is_found(
    tmp_path: Path, worse: Path
) -> None:
    with trio.fail_after(120):
        async with (
            open_node(Config(home=tmp_path / "a", name="a", **SETTINGS)) as a,
            open_node(Config(home=tmp_path / "b", name="b", **SETTINGS)) as b,
        ):
            await b.join(await a.invite())
            await with_cards(a)
            engine = await with_cards(b)
            while a.presence is None or not a.presence.candidates():
                await trio.sleep(0.1)
            key = (b.identity.node, engine.cards[0].digest)
            checks = a.spotting._checker._checks
            await asked_until(a, lambda: checks.verdict(key) is Verdict.CLEARED)
            assert a.spotting.distrusted(b.identity.node) == ()
            assert engine._model is not None
            engine._verify = None
            engine.use(msgspec.structs.replace(engine._model, path=str(worse)))
            await with_cards(b)
            assert engine.cards[0].digest == key[1]
            await asked_until(a, lambda: a.spotting.distrusted(b.identity.node))
            with pytest.raises(NoCandidate, match=Reason.FOREIGN):
                await asked_until(a, lambda: False)
