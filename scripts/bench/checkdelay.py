"""What a request waits for when it comes while a worker draws somebody else's answer again."""

import statistics
from pathlib import Path

import trio

from meshnode.engine.base import EngineState
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.routing.spotchecks import PLACES
from meshnode.terms import Job, Piece, Recheck, Sampling, Turn, Wish

ROUNDS = 20
PROMPT_WORDS = 600  # of the answer that is checked: long enough to be under way when the request comes
AHEAD_S = 0.1


def job(name: str, text: str) -> Job:
    """A request for four tokens."""
    return Job(
        id=name,
        wish=Wish(),
        turns=(Turn(role="user", content=text),),
        sampling=Sampling(temperature=0.0, max_tokens=4),
    )


async def first_token_ms(engine: LlamaEngine, name: str) -> float:
    """How long a request takes to its first token."""
    began = trio.current_time()
    async with engine.run(job(name, f"{name}: tell me about rivers.")) as emitted:
        async for item in emitted:
            if isinstance(item, Piece):
                return 1000 * (trio.current_time() - began)
    raise RuntimeError("no token came")


async def rounds(engine: LlamaEngine, count: int) -> tuple[float, float]:
    """Medians in milliseconds, beside a check and without, in turn."""
    beside, alone = [], []
    for number in range(count):
        alone.append(await first_token_ms(engine, f"alone {number}"))
        words = " ".join(f"word{number}x{place}" for place in range(PROMPT_WORDS // 4))
        check = Recheck(job("check", words), tuple(range(100, 100 + PLACES)), 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.recheck, check)
            await trio.sleep(AHEAD_S)
            beside.append(await first_token_ms(engine, f"beside {number}"))
        await trio.sleep(AHEAD_S)
    return statistics.median(beside), statistics.median(alone)


async def measure(path: Path, count: int) -> tuple[float, float]:
    """The same for a worker of its own."""
    model = ModelFile(path=str(path), digest=bytes.fromhex(path.name.removeprefix("sha256-")), name="bench")
    async with trio.open_nursery() as nursery:
        engine = LlamaEngine(model, context=2048, thread_count=1)
        ready = trio.Event()
        engine.watch(lambda: ready.set() if engine.state is EngineState.READY else None)
        await nursery.start(engine.serve)
        await ready.wait()
        figures = await rounds(engine, count)
        nursery.cancel_scope.cancel()
    return figures
