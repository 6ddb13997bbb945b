"""A node in plain code: answers, streams, chats, two nodes at once, Ctrl-C, use after the end, errors as they are."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trio

from meshnode import SyncNode, open_node_sync
from meshnode.errors import BadRequest, Busy, ConfigInvalid, HomeInUse, Interrupted, ModelNotFound, NotRunning
from meshnode.node import Node
from meshnode.terms import End, Piece
from tests.bridge.conftest import Settings, engine_of, make_long

WITHIN_S = 5.0


def soon(holds: Callable[[], object]) -> bool:
    """Whether it holds within a few seconds; another thread brings it about."""
    until = time.monotonic() + WITHIN_S
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(holds())


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "meshnode"]


def test_ask_stream_and_embed(settings: Settings) -> None:
    with open_node_sync(**settings()) as node:
        reply = node.ask("Why is the sky blue?", max_tokens=5)
        assert (reply.answer.rung, reply.usage.completion_tokens, reply.reason) == ("local", 5, "length")
        stream = node.stream("Why is the sky blue?", max_tokens=5)
        *pieces, end = stream
        assert stream.answer.model == "smollm2:135m"
        assert isinstance(end, End)
        assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == reply.text
        assert "".join(node.stream("Why is the sky blue?", max_tokens=5).texts()) == reply.text
        assert len(node.embed(("sea", "sand"))) == 2
        assert node.look(node.trio_node.snapshot).state == "ready"
        assert list(stream) == []
    assert threads() == []


def test_two_nodes_in_one_process(settings: Settings) -> None:
    with open_node_sync(**settings("a", engine="none")) as a, open_node_sync(**settings("b")) as b:
        b.call(b.trio_node.join, a.call(a.trio_node.invite))
        assert soon(lambda: a.look(a.trio_node.models))
        reply = a.ask("hello", max_tokens=3)
        assert reply.answer.rung == "peer"
        assert reply.answer.served_by.startswith("b")
        assert b.ask("hello", max_tokens=3).answer.rung == "local"
        assert a.trio_node.metrics.registry is not b.trio_node.metrics.registry
    assert threads() == []


def test_a_chat_remembers_whole_answers_only(settings: Settings) -> None:
    with open_node_sync(**settings()) as node:
        chat = node.chat("Be brief.", max_tokens=4)
        first = chat.say("Hello!")
        turns = [(turn.role, turn.content) for turn in chat.conversation.turns]
        assert turns == [("system", "Be brief."), ("user", "Hello!"), ("assistant", first.text)]
        next(chat.stream("And now?"))
        assert len(chat.conversation.turns) == 3
        assert "".join(chat.stream("And now?")) == chat.conversation.turns[-1].content
        assert len(chat.conversation.turns) == 5
        engine_of(node.trio_node).refuse_next(BadRequest("no"))
        with pytest.raises(BadRequest):
            chat.say("One more")
        assert len(chat.conversation.turns) == 5


def test_whoever_stops_taking_cancels(settings: Settings) -> None:
    with open_node_sync(**settings()) as node:
        engine = make_long(node.trio_node)
        for count, leave in enumerate((closed, left, forgotten), start=1):
            leave(node)
            assert soon(lambda: len(engine.cancelled_jobs) == count), leave  # noqa: B023 - waited for at once
        assert engine.load.in_flight == 0


def closed(node: SyncNode) -> None:
    stream = node.stream("Count.", max_tokens=1000)
    next(stream)
    stream.close()
    assert node.look(lambda: engine_of(node.trio_node).load.in_flight) == 0
    assert list(stream) == []
    stream.close()


def left(node: SyncNode) -> None:
    with node.stream("Count.", max_tokens=1000) as stream:
        next(stream)


def forgotten(node: SyncNode) -> None:
    for _ in node.stream("Count.", max_tokens=1000):
        break
    gc.collect()


def test_errors_cross_as_they_are(settings: Settings) -> None:
    with pytest.raises(ConfigInvalid):
        open_node_sync(**settings(mesh_port=99_999)).__enter__()
    with open_node_sync(**settings()) as node:
        with pytest.raises(HomeInUse), open_node_sync(**settings()):
            pass
        with pytest.raises(BadRequest, match="no wish 'colour'"):
            node.ask("hello", colour="red")
        with pytest.raises(ModelNotFound) as failure:
            node.stream("hello", model="qwen3:8b")
        assert failure.value.hint
        refused = Busy("full", retry_after_s=3.0)
        engine_of(node.trio_node).refuse_next(refused)
        with pytest.raises(Busy) as busy:
            node.ask("hello", place="local")
        assert busy.value is refused
        with pytest.raises(ValueError, match="the caller's own"), node.stream("hello") as stream:
            next(stream)
            raise ValueError("the caller's own")
        assert node.ask("hello", max_tokens=1).text
    assert threads() == []


def test_an_answer_that_breaks_off_is_one_error_after_what_came(settings: Settings) -> None:
    with open_node_sync(**settings()) as node:
        engine = make_long(node.trio_node)
        stream = node.stream("Count.", max_tokens=1000)
        came = [next(stream) for _ in range(3)]
        node.look(engine.fail, "out of order")
        with pytest.raises(Interrupted, match="could not go on"):
            came.extend(stream)
        assert all(isinstance(item, Piece) for item in came)
        assert list(stream) == []


@pytest.fixture
def ctrl_c_heard() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt also where a shell has had it ignored, as of what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_heard")
def test_ctrl_c_cancels_the_call_that_it_interrupts(settings: Settings) -> None:
    left = threading.Event()

    async def lasts() -> None:
        interrupt.start()
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    with open_node_sync(**settings()) as node:
        interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            node.call(lasts)
        assert left.wait(WITHIN_S)
        assert node.ask("hello", max_tokens=1).text


def test_nothing_can_be_used_after_the_end(settings: Settings) -> None:
    with open_node_sync(**settings()) as node:
        make_long(node.trio_node)
        stream = node.stream("Count.", max_tokens=1000)
        next(stream)
    with pytest.raises(NotRunning, match="closed"):
        node.ask("hello")
    with pytest.raises(NotRunning, match="closed"):
        while True:
            next(stream)
    stream.close()


def test_a_thread_that_waits_is_told_of_the_end(settings: Settings) -> None:
    told: list[BaseException] = []

    def wait() -> None:
        try:
            node.ask("Count.", max_tokens=1000)
        except NotRunning as error:
            told.append(error)

    with open_node_sync(**settings()) as node:
        engine = make_long(node.trio_node)
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert soon(lambda: engine.load.in_flight)
    waiting.join(WITHIN_S)
    assert len(told) == 1


def test_a_node_that_ends_by_itself_says_why(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Node) -> None:
        await gone.wait()
        raise KeyError("a fault of the node's own")

    gone = trio.Event()
    monkeypatch.setattr("meshnode.node.sharing.Sharing.run", broken)
    with pytest.raises(KeyError, match="a fault of the node's own"), open_node_sync(**settings()) as node:
        make_long(node.trio_node)
        stream = node.stream("Count.", max_tokens=1000)
        next(stream)
        node.look(gone.set)
        with pytest.raises(NotRunning, match="by itself") as failure:
            while True:
                next(stream)
        assert isinstance(failure.value.__cause__, KeyError)
        with pytest.raises(NotRunning):
            node.ask("hello")
    assert threads() == []


def test_the_nodes_own_thread_cannot_wait_for_itself(settings: Settings) -> None:
    with open_node_sync(**settings()) as node, pytest.raises(RuntimeError, match="wait for itself"):
        node.look(lambda: node.ask("hello"))


INTERRUPTED = """
import signal
import sys
from meshnode import open_node_sync

signal.signal(signal.SIGINT, signal.default_int_handler)
with open_node_sync(home=sys.argv[1], engine="scripted", mesh_host="127.0.0.1", mesh_port=0, env={}) as node:
    engine = node.trio_node.engines.all[0]
    engine.answer_tokens = 100_000
    try:
        for item in node.stream("Count.", max_tokens=1000):
            print("item", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    engine.answer_tokens = 3
    print(node.ask("And now?").reason, len(engine.cancelled_jobs), flush=True)
"""


def test_ctrl_c_ends_the_request_and_leaves_the_node(settings: Settings) -> None:
    home = str(settings()["home"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", INTERRUPTED, home]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "item\n"
        process.send_signal(signal.SIGINT)
        rest = [line for line in process.stdout.read().splitlines() if line != "item"]
        assert process.wait(WITHIN_S * 4) == 0
    assert rest == ["interrupted", "stop 1"]
