"""Jobs, a stand-in worker, and the real model for those tests that are marked `model`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from meshnode.terms import Job, Sampling, Turn, Wish


def make_job(text: str = "Tell me a story.", *, name: str = "job", **sampling: object) -> Job:
    settings = {"temperature": 0.0, "max_tokens": 16} | sampling
    return Job(
        id=name,
        wish=Wish(),
        turns=(Turn(role="user", content=text),),
        sampling=Sampling(**settings),  # type: ignore[arg-type]
    )


@pytest.fixture
def job():
    """Makes a one-turn job; keywords are sampling settings."""
    return make_job


def missing(what: str) -> None:
    """Skip, except where everything is promised to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI must run this")
    pytest.skip(what)


def _fetch(*name: str) -> Path:
    """A model's file, in the machine's shared cache."""
    if importlib.util.find_spec("llama_cpp") is None:
        missing("llama-cpp-python is not installed")
    fetched = subprocess.run(
        [sys.executable, "-m", "meshnode.models", *name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    if fetched.returncode:
        missing(f"the model cannot be fetched: {fetched.stderr}")
    return Path(fetched.stdout.strip())


@pytest.fixture(scope="session")
def model_file() -> Path:
    """The embedded model's file."""
    return _fetch()


@pytest.fixture(scope="session")
def second_model_file() -> Path:
    """A model of another family, whose layers see sliding windows."""
    return _fetch("gemma3:270m")


@pytest.fixture
def until():
    """Waits until an engine is in a state."""

    async def wait(engine, state):
        reached = trio.Event()
        engine.watch(lambda: engine.state is state and reached.set())
        if engine.state is not state:
            with trio.fail_after(60):
                await reached.wait()

    return wait


@pytest.fixture
def stand_in(tmp_path: Path):
    """Writes a worker that speaks frames but has no llama.cpp; `body` is what it does with each command."""

    def write(body: str) -> tuple[str, ...]:
        script = tmp_path / "worker.py"
        lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
        script.write_text(STAND_IN.replace("        BODY", lines))
        return (sys.executable, str(script))

    return write


STAND_IN = """
import os, sys, time
import msgspec
from pathlib import Path
from meshnode.engine.worker.frames import *
from meshnode.terms import Redrawn

started = Path(__file__).with_suffix(".started")
with started.open("a") as file:
    file.write("x")
life = len(started.read_text())
READY = Ready(metadata={}, file_type=3, parameters=1, weights_bytes=1, context=512, slots=2, threads=1,
              prompt_tps=1e6, generate_tps=1e6, batch_gain=1.0)

def say(*events):
    os.write(1, pack(events))

frames = FrameReader()
while received := os.read(0, 65536):
    for body in frames.feed(received):
        command = read_command(body)
        BODY
"""
