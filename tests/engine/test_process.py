"""Supervision: whatever a worker does, its node goes on and every run ends. Workers here are stand-ins."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from meshnode.engine import life as life_module
from meshnode.engine import process as process_module
from meshnode.engine import runs as runs_module
from meshnode.engine.base import EngineState
from meshnode.engine.child import WORKER_COMMAND
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.engine.sandbox import Sandbox, _own_environment
from meshnode.engine.worker.frames import Open, pack
from meshnode.errors import Busy, ContextExceeded, EngineCrashed, EngineFailed, ModelNotFound
from meshnode.terms import End, Piece, Recheck, Redrawn
from tests.engine.conftest import make_job

MODEL = ModelFile(path="/nowhere/model.gguf", digest=b"d" * 32, name="stand:in")

ANSWERS = """
if isinstance(command, Open):
    say(READY)
if isinstance(command, Run):
    say(Started(command.number, 3), Prefilled(command.number, 3, 3), Written(command.number, 0, (1,), "hi"))
    say(Ended(command.number, FinishReason.STOP, 3, 1))
"""
HANGS_ON_RUN = """
if isinstance(command, Open):
    say(msgspec.structs.replace(READY, generate_tps=1.0))
if isinstance(command, Run):
    say(Written(command.number, 0, (1,), "hi"))
    if life == 1:
        time.sleep(60)
    say(Ended(command.number, FinishReason.STOP, 3, 1))
"""
STUMBLES_OVER_INSTRUCTIONS = """
if isinstance(command, Open) and not command.plain:
    say(Loading(0.5))
    os.kill(os.getpid(), 4)
if isinstance(command, Open):
    say(READY)
if isinstance(command, Run):
    if life == 2:
        os.kill(os.getpid(), 9)
    say(Ended(command.number, FinishReason.STOP, 3, 1))
"""
NEVER_ENDS_RUNS = """
if isinstance(command, Open):
    say(READY)
if isinstance(command, Run):
    say(Written(command.number, 0, (1,), "hi"))
if isinstance(command, Cancel):
    say(Written(command.number + 1, 0, (1,), "cancelled " + str(command.number)))
"""


@pytest.fixture
async def serving(until):
    """Starts an engine over a command; everything is stopped at the end."""
    async with trio.open_nursery() as nursery:

        async def start(command, *, state=EngineState.READY, **settings):
            engine = LlamaEngine(MODEL, sandbox=Sandbox("none"), command=command, slots=2, **settings)
            await nursery.start(engine.serve)
            await until(engine, state)
            return engine

        yield start
        nursery.cancel_scope.cancel()


async def collect(engine, job):
    async with engine.run(job) as emitted:
        return [item async for item in emitted]


async def test_an_instruction_that_the_processor_does_not_have_is_done_without(serving, stand_in, job, until):
    engine = await serving(stand_in(STUMBLES_OVER_INSTRUCTIONS))
    with pytest.raises(EngineCrashed):
        await collect(engine, job())
    await until(engine, EngineState.READY)  # and the next worker does not try them again
    (end,) = await collect(engine, job())
    assert isinstance(end, End)


async def test_a_run_goes_through_and_the_card_is_there(serving, stand_in, job):
    engine = await serving(stand_in(ANSWERS))
    *_, piece, end = await collect(engine, job())
    assert (piece, end.usage.prompt_tokens) == (Piece(0, (1,), "hi"), 3)
    assert (engine.cards[0].name, engine.cards[0].digest) == ("stand:in", MODEL.digest)
    assert engine.load.in_flight == 0


async def test_a_killed_worker_ends_its_runs_at_once_and_comes_back(serving, stand_in, job, until):
    engine = await serving(stand_in(NEVER_ENDS_RUNS))
    states, first = [], engine.pid
    assert engine.restarts == 0
    engine.watch(lambda: states.append(engine.state))
    async with engine.run(job()) as emitted:
        assert await anext(emitted) == Piece(0, (1,), "hi")
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineFailed, match=r"crashed.*being restarted"), trio.fail_after(0.5):
            await anext(emitted)
    assert engine.cards == ()
    with pytest.raises(Busy):
        await collect(engine, job())
    await until(engine, EngineState.READY)
    assert engine.pid != first
    assert engine.restarts == 1
    assert states[0] is EngineState.LOADING


async def test_a_worker_that_hangs_over_its_work_is_killed(serving, stand_in, job, until):
    engine = await serving(stand_in(HANGS_ON_RUN), stall_s=0.3)
    with pytest.raises(EngineFailed), trio.fail_after(5):
        await collect(engine, job())
    await until(engine, EngineState.READY)
    assert isinstance((await collect(engine, job()))[-1], End)


async def test_whoever_hears_of_a_crash_finds_the_engine_restarting(serving, stand_in, job):
    """Asked again in the same instant, an engine that did not know yet would hand the run to a dead worker."""
    engine = await serving(stand_in(NEVER_ENDS_RUNS))
    found = []

    async def ask():
        async with engine.run(job()) as emitted:
            with pytest.raises(EngineCrashed):
                while True:
                    await anext(emitted)
            found.append(engine.state)

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(ask)
        await trio.sleep(0.1)
        os.kill(engine.pid, signal.SIGKILL)
    assert found == [EngineState.LOADING] * 16


async def test_an_idle_worker_may_be_silent(serving, stand_in, monkeypatch):
    monkeypatch.setattr(life_module, "STALL_LOOK_S", 0.02)
    engine = await serving(stand_in(ANSWERS), stall_s=0.1)
    pid = engine.pid
    await trio.sleep(0.4)
    assert engine.pid == pid
    assert engine.state is EngineState.READY


async def test_a_worker_that_talks_nonsense_is_replaced(serving, stand_in, job, until):
    body = ANSWERS.replace("    say(Ended", "    os.write(1, b'\\xff' * 64) if life == 1 else say(Ended")
    engine = await serving(stand_in(body))
    with pytest.raises(EngineFailed), trio.fail_after(5):
        await collect(engine, job())
    await until(engine, EngineState.READY)
    assert isinstance((await collect(engine, job()))[-1], End)


async def test_leaving_a_run_cancels_it_in_the_worker(serving, stand_in, job):
    engine = await serving(stand_in(NEVER_ENDS_RUNS))
    async with engine.run(job()) as first:
        await anext(first)
        watching = engine.run(job())
        second = await watching.__aenter__()
        await anext(second)
    with trio.fail_after(5):
        assert (await anext(second)).text == "cancelled 1"
    await watching.__aexit__(None, None, None)
    assert engine.load.in_flight == 0


async def test_a_model_that_cannot_be_run_is_a_failure_for_good(serving, stand_in, job):
    body = "say(Broken('this file is no model', 'Fetch it again.')); sys.exit(3)"
    engine = await serving(stand_in(body), state=EngineState.FAILED)
    assert engine.detail == "this file is no model. Fetch it again."
    with pytest.raises(EngineFailed, match="no model"):
        await collect(engine, job())


async def test_another_model_is_the_way_out_of_a_failure(serving, stand_in, job, until):
    body = "say(READY) if command.path == '/good' else say(Broken('bad'))"
    engine = await serving(stand_in(body), state=EngineState.FAILED)
    engine.use(ModelFile(path="/good", digest=b"g" * 32, name="good:one"))
    await until(engine, EngineState.READY)
    assert [card.name for card in engine.cards] == ["good:one"]


async def test_a_worker_that_always_crashes_while_loading_is_given_up(serving, stand_in, monkeypatch):
    monkeypatch.setattr(process_module, "PAUSE_FIRST_S", 0.01)
    body = "sys.stderr.write('out of memory\\n'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
    engine = await serving(stand_in(body), state=EngineState.FAILED)
    assert "SIGKILL" in engine.detail
    assert "out of memory" in engine.detail
    assert engine.pid is None


async def test_the_workers_errors_keep_their_type(serving, stand_in, job):
    body = ANSWERS.replace(
        "say(Started(command.number, 3),",
        "say(Refused(command.number, 'context_length_exceeded', 'too long', '', 'messages'),",
    )
    engine = await serving(stand_in(body))
    with pytest.raises(ContextExceeded, match="too long") as refusal:
        await collect(engine, job())
    assert refusal.value.param == "messages"


async def test_a_full_queue_says_busy_with_a_time(serving, stand_in, job, monkeypatch):
    monkeypatch.setattr(process_module, "QUEUE_RUNS", 1)
    engine = await serving(stand_in(NEVER_ENDS_RUNS))
    async with engine.run(job()), engine.run(job()), engine.run(job()):
        assert engine.load.in_flight == 3
        with pytest.raises(Busy) as busy:
            await collect(engine, job())
    assert busy.value.retry_after_s >= 1.0
    assert engine.load.queued_decode == 0


async def test_without_a_model_there_is_nothing_to_run(job):
    engine = LlamaEngine()
    assert engine.state is EngineState.ABSENT
    with pytest.raises(ModelNotFound, match="meshnode pull"):
        await collect(engine, job())


async def test_the_worker_ends_with_the_engine(stand_in, until):
    async with trio.open_nursery() as nursery:
        engine = LlamaEngine(MODEL, sandbox=Sandbox("none"), command=stand_in(ANSWERS))
        await nursery.start(engine.serve)
        await until(engine, EngineState.READY)
        pid = engine.pid
        nursery.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def worker(data, *arguments):
    return subprocess.run(
        [*WORKER_COMMAND, *arguments],
        input=data,
        capture_output=True,
        timeout=20,
        env=_own_environment(),
        check=False,
    )


def test_a_malformed_frame_ends_the_real_worker_with_its_own_code():
    ended = worker(b"\xff\xff\xff\xff")
    assert ended.returncode == 65
    assert b"malformed frame" in ended.stderr


def test_the_end_of_its_input_ends_the_real_worker():
    assert worker(b"").returncode == 0


def test_a_person_who_starts_the_worker_is_told_what_it_is():
    told = worker(b"", "--help")
    assert told.returncode == 0
    assert b"meshnode up" in told.stderr


def test_without_llama_cpp_the_worker_says_what_to_install(tmp_path: Path):
    # A finder that hides the package, as on a machine that never had it.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'llama_cpp': raise ModuleNotFoundError(name)\n"
        "import importlib.util as u\n"
        "old = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'llama_cpp' else old(name, *a)\n"
    )
    environment = _own_environment()
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    with subprocess.Popen(
        [sys.executable, "-m", "meshnode.engine.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as opening:
        opening.stdin.write(pack([Open("/nowhere", 1)]))
        opening.stdin.flush()
        assert b"pip install 'meshnode[worker]'" in opening.stdout.read()
        assert opening.wait() == 3


def test_the_worker_does_not_import_a_node():
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import meshnode.engine.worker.__main__"],
        capture_output=True,
        text=True,
        env=_own_environment(),
        check=True,
    )
    names = {line.rsplit("|", 1)[-1].strip() for line in found.stderr.splitlines()}
    assert "meshnode.engine.worker.frames" in names
    assert not names & {
        "trio",
        "meshnode.node",
        "meshnode.net",
        "meshnode.engine.process",
        "psutil",
        "structlog",
    }


ALIVE_WITHOUT_END = """
if isinstance(command, Open):
    say(READY)
if isinstance(command, Run):
    while life == 1:
        say(Alive())
        time.sleep(0.02)
    say(Ended(command.number, FinishReason.STOP, 3, 1))
"""


async def test_a_worker_that_lives_and_shows_nothing_for_ages_is_killed(
    serving, stand_in, job, until, monkeypatch
):
    monkeypatch.setattr(life_module, "STALL_LOOK_S", 0.02)
    engine = await serving(stand_in(ALIVE_WITHOUT_END), stall_s=0.2)
    with pytest.raises(EngineCrashed), trio.fail_after(5):
        await collect(engine, job())
    await until(engine, EngineState.READY)
    assert isinstance((await collect(engine, job()))[-1], End)


MEASURES = """
if isinstance(command, Open):
    say(READY)
if isinstance(command, Run):
    say(Measured(1e6 * command.job.sampling.max_tokens, 0.0, 0.0), Ended(command.number, FinishReason.STOP, 3, 1))
"""


async def test_the_card_follows_the_speeds_but_not_every_wobble(serving, stand_in, job, monkeypatch):
    monkeypatch.setattr(process_module, "CARD_EVERY_S", 0.0)
    engine = await serving(stand_in(MEASURES))
    (card,), changes = engine.cards, []
    engine.watch(lambda: changes.append(engine.cards[0].prompt_tps))
    await collect(engine, job(max_tokens=1))
    assert engine.cards == (card,)
    await collect(engine, job(max_tokens=2))
    assert (engine.cards[0].prompt_tps, engine.cards[0].generate_tps) == (2e6, card.generate_tps)
    monkeypatch.setattr(process_module, "CARD_EVERY_S", 60.0)
    await collect(engine, job(max_tokens=9))
    assert changes == [2e6]


class _Busy:
    """A machine whose other programs take a whole core."""

    def __init__(self, _process: int) -> None:
        pass

    def look(self, _elapsed_s: float) -> tuple[float, float]:
        return 1.0, 0.0


async def test_a_model_is_loaded_and_measured_with_the_threads_that_are_free(serving, stand_in, monkeypatch):
    monkeypatch.setattr(life_module.threads, "Others", _Busy)
    monkeypatch.setattr(life_module.threads, "cores", lambda: 2)
    engine = await serving(stand_in('say(Broken(f"{command.threads} threads"))'), state=EngineState.FAILED)
    assert engine.detail == "1 threads"


RECHECKS = """
if isinstance(command, Open):
    say(READY)
if isinstance(command, Check):
    DO
"""
CHECK = Recheck(make_job("?"), (1, 2), 0)


async def test_a_check_gets_what_the_worker_finds(serving, stand_in):
    say = "say(Checked(command.number + 1), Checked(command.number, (Redrawn(5, -1.0, -2.0, 0.25),)))"
    engine = await serving(stand_in(RECHECKS.replace("DO", say)))
    assert await engine.recheck(CHECK) == (Redrawn(5, -1.0, -2.0, 0.25),)


async def test_a_check_is_not_sent_to_a_worker_that_has_work_or_none_at_all(serving, stand_in, job):
    engine = await serving(stand_in(RECHECKS.replace("DO", "os.abort()")))
    async with engine.run(job()):
        assert await engine.recheck(CHECK) == ()
    assert await LlamaEngine().recheck(CHECK) == ()
    assert engine.state is EngineState.READY


async def test_a_check_ends_when_the_worker_dies(serving, stand_in):
    engine = await serving(stand_in(RECHECKS.replace("DO", "os.abort()")))
    with trio.fail_after(10):
        assert await engine.recheck(CHECK) == ()


async def test_a_check_is_not_waited_for_for_ever_and_the_worker_hears_of_it(
    serving, stand_in, monkeypatch, tmp_path
):
    monkeypatch.setattr(runs_module, "RECHECK_S", 0.05)
    body = RECHECKS.replace("DO", "pass") + "if isinstance(command, Cancel):\n    os.abort()\n"
    engine = await serving(stand_in(body))
    assert await engine.recheck(CHECK) == ()
    with trio.fail_after(10):
        while engine.state is EngineState.READY:
            await trio.sleep(0.02)
