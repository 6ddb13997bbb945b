"""`meshnode logs`: a running node's lines, those that come, and those left in a file; and a real process's."""

import json
import os
import subprocess
import sys
import threading

import msgspec
import pytest
import trio

from meshnode.cli import exits, logs
from meshnode.cli.render import Screen
from meshnode.control.logs import before, is_grave, logs_verbs
from meshnode.errors import BadRequest
from meshnode.observe.log import FILE_NAME
from meshnode.observe.tail import LINES_MAX, Tail
from meshnode.testing.processes import node_process
from tests.cli.fake_node import lines_of


def fields(n, level="info", **more):
    return {
        "room": "net",
        "event": f"event {n}",
        "level": level,
        "time": f"2026-11-28T05:00:00.{n:03}+00:00",
        **more,
    }


def write_file(home, count, name=FILE_NAME, first=1):
    lines = [json.dumps(fields(n)) for n in range(first, first + count)]
    (home / name).write_text("\n".join(lines) + "\n")


def events_of(result):
    return [line["event"] for line in lines_of(result)]


def test_the_last_lines_of_a_running_node(node, meshnode):
    node.tail.keep(fields(1))
    node.tail.keep(fields(2, peer="a b", tries=3))
    node.tail.keep(fields(3, level="error", exception="Traceback\n  in\x1b it"))
    assert meshnode("logs", "-n", "2").stdout.splitlines() == [
        '2026-11-28 05:00:00  info     net: event 2  peer="a b" tries=3',
        "2026-11-28 05:00:00  error    net: event 3",
        "    Traceback",
        "      in� it",
    ]
    (line,) = lines_of(meshnode("logs", "-n", "1", "--json"))
    assert (line["level"], line["room"], line["event"]) == ("error", "net", "event 3")
    assert line["fields"]["exception"].startswith("Traceback")
    assert meshnode("logs", "-n", "0", "--json").stdout == ""


def test_a_level_is_the_least_that_is_shown_and_counts_before_the_number(node, meshnode):
    for n, level in enumerate(("debug", "warning", "error", "critical", "info"), start=1):
        node.tail.keep(fields(n, level))
    assert events_of(meshnode("logs", "--json")) == ["event 2", "event 3", "event 4", "event 5"]
    assert events_of(meshnode("logs", "--level", "warning", "-n", "2", "--json")) == ["event 3", "event 4"]
    assert len(events_of(meshnode("logs", "--level", "debug", "--json"))) == 5
    meshnode("logs", "--level", "loud", code=exits.USAGE)


def test_a_node_that_has_logged_nothing_says_so(node, meshnode):
    assert meshnode("logs").stdout == "Nothing of that level has been logged.\n"


def test_more_than_the_node_keeps_comes_from_its_file_and_nothing_twice(node, meshnode, tmp_path):
    count = LINES_MAX + 50
    for n in range(1, count + 1):
        node.tail.keep(fields(n))
    assert events_of(meshnode("logs", "-n", str(count), "--json"))[0] == "event 51"  # there is no file
    write_file(tmp_path, 30, f"{FILE_NAME}.1")
    write_file(tmp_path, count - 30, first=31)
    shown = events_of(meshnode("logs", "-n", str(count - 10), "--json"))
    assert shown == [f"event {n}" for n in range(11, count + 1)]


def test_lines_of_one_moment_are_neither_lost_nor_shown_twice():
    older = [fields(1), fields(2), fields(2) | {"event": "the same moment"}, fields(3)]
    newer = [fields(2), fields(3)]
    assert [one["event"] for one in before(older, newer)] == ["event 1", "the same moment"]


def test_what_a_node_left_is_shown_when_none_runs(meshnode, tmp_path):
    write_file(tmp_path, 3)
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"event": "cut off by a cra')
    assert events_of(meshnode("logs", "-n", "2", "--json")) == ["event 2", "event 3"]
    assert meshnode("logs").stdout.startswith(f"No node runs from {tmp_path}; the last lines in ")
    meshnode("logs", "--follow", code=exits.TABLE["not_running"])


def test_without_a_node_and_a_file_it_says_what_to_do(meshnode):
    result = meshnode("logs", code=exits.TABLE["not_running"])
    assert "meshnode up" in result.stderr
    assert "meshnode service status" in result.stderr


def test_following_shows_what_comes_and_ends_with_the_node(node, meshnode, monkeypatch):
    """The node ends once the second of the new lines has been shown."""
    node.tail.keep(fields(1))
    write, shown = Screen.line, []

    def seen(screen, text=""):
        write(screen, text)
        shown.append(text)
        if "event 1" in text:
            threading.Timer(0.3, lambda: [node.tail.keep(fields(n)) for n in (2, 3)]).start()
        if "event 3" in text:
            node.stop()

    monkeypatch.setattr(Screen, "line", seen)
    meshnode("logs", "-f", code=exits.TABLE["not_running"])
    assert [text.split()[-1] for text in shown] == ["1", "2", "3"]


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def followed(tail, args, add):
    """What following emits within ten seconds, in which `add` is called."""
    emitted = []

    async def emit(line):
        emitted.append(line)

    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(logs_verbs(tail)["logs_follow"], args, emit)
            await trio.sleep(1)
            add()
    return emitted


async def test_lines_that_passed_too_fast_are_counted():
    tail = Tail()
    tail.keep(fields(1))
    more = LINES_MAX + 7
    emitted = await followed(tail, {"after": 1}, lambda: [tail.keep(fields(n)) for n in range(more)])
    assert emitted[0] == {"event": "missed", "lines": 7}
    assert len(emitted) == 1 + LINES_MAX


async def test_after_a_restart_the_count_begins_anew():
    tail = Tail()
    tail.keep(fields(1))
    emitted = await followed(tail, {"after": 900}, lambda: tail.keep(fields(2)))
    assert [line["n"] for line in emitted] == [1, 2]


async def test_following_shows_only_what_is_grave_enough_and_misses_nothing_by_that():
    tail = Tail()
    emitted = await followed(
        tail,
        {"after": 0, "level": "warning"},
        lambda: [tail.keep(fields(n, level)) for n, level in enumerate(("info", "error", "info"))],
    )
    assert [line["fields"]["level"] for line in emitted] == ["error"]


@pytest.mark.parametrize("wrong", [{"lines": LINES_MAX + 1}, {"lines": -1}, {"level": "loud"}, {"more": 1}])
async def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(BadRequest):
        await logs_verbs(Tail())["logs"](wrong, lambda line: None)


def test_a_level_that_nobody_knows_is_shown():
    assert is_grave({"level": "fatal"}, "error")
    assert is_grave({}, "error")


def test_a_gap_is_told_to_people_and_programs(meshnode, monkeypatch):
    async def call(home, name, args, kind, on_event):
        if name == "logs":
            return logs.Shown(1)
        return on_event({"event": "missed", "lines": 7})

    monkeypatch.setattr(logs.client, "call", call)
    assert "lines were logged faster than they were read  lines=7" in meshnode("logs", "-f").stdout
    (line,) = lines_of(meshnode("logs", "-f", "--json"))
    assert (line["level"], line["fields"]) == ("warning", {"lines": 7})


def test_a_real_node_tells_its_log(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MESHNODE_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))

    async def ask():
        with trio.fail_after(60):
            async with (
                node_process(tmp_path / "a", ("--engine", "none"), env=env) as a,
                node_process(tmp_path / "b", ("--engine", "none"), env=env) as b,
            ):
                await a.mesh_address()
                await b.event("mesh")
                await b.call("join", target=await a.invite(), leave=False, via="")
                command = (sys.executable, "-m", "meshnode.cli.main", "logs", "--home", str(a.home), "--json")
                return await trio.run_process(
                    command, env=env, capture_stdout=True, stderr=subprocess.DEVNULL
                )

    records = [msgspec.json.decode(line) for line in trio.run(ask).stdout.splitlines()]
    assert "link up" in [record["event"] for record in records]
