"""`meshnode ping`: what it prints for each and at the end, how it ends, and two real nodes."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest
import trio

from meshnode import errors
from meshnode.cli import exits
from meshnode.control.ping import PingView
from meshnode.testing.processes import node_process
from tests.cli.fake_node import lines_of

ATTIC, DESK = "b" * 32, "c" * 32
DIRECT = PingView(node=ATTIC, name="at\x1btic", path=(ATTIC,), address="ws://10.0.0.2:8421", rtt_ms=2.0)
RELAYED = PingView(node=ATTIC, name="at\x1btic", path=(DESK, ATTIC), relays=("desk",), rtt_ms=40.0)
LOST = PingView(node=ATTIC, name="at\x1btic", why="No answer came within 5 s.")
QUICK = ("-i", "0.1")


def after(*views):
    """These views in turn, the last one for ever."""
    return lambda n: views[min(n, len(views)) - 1]


def test_each_says_its_way_and_the_end_sums_up(node, meshnode):
    node.pong = after(RELAYED, LOST, DIRECT, DIRECT)
    shown = meshnode("ping", "attic", "-c", "4", *QUICK).stdout.splitlines()
    assert shown == [
        "  1  at�tic (bbbbbbbb)  40 ms  via desk",
        "  2  at�tic (bbbbbbbb)  lost: No answer came within 5 s.",
        "  3  at�tic (bbbbbbbb)  2.0 ms  direct, ws://10.0.0.2:8421",
        "  4  at�tic (bbbbbbbb)  2.0 ms  direct, ws://10.0.0.2:8421",
        "4 sent, 3 answered (2 direct, 1 relayed), 25% lost",
        "min 2.0 ms, median 2.0 ms, max 40 ms",
    ]
    assert node.asked[:2] == [("ping", "attic", 5.0), ("ping", ATTIC, 5.0)]


def test_programs_get_a_line_each_and_one_at_the_end(node, meshnode):
    node.pong = after(RELAYED, DIRECT)
    *pings, end = lines_of(meshnode("ping", "attic", "-c", "2", *QUICK, "--timeout", "2", "--json"))
    assert [(one["event"], one["n"], one["path"], one["rtt_ms"]) for one in pings] == [
        ("ping", 1, [DESK, ATTIC], 40.0),
        ("ping", 2, [ATTIC], 2.0),
    ]
    assert (end["event"], end["sent"], end["loss"], end["median_ms"]) == ("end", 2, 0.0, 21.0)
    assert node.asked[0] == ("ping", "attic", 2.0)


def test_where_nobody_answers_the_account_comes_first_and_then_the_error(node, meshnode):
    node.pong = after(LOST)
    result = meshnode("ping", "attic", "-c", "2", *QUICK, code=exits.TABLE["unreachable"])
    assert "2 sent, 0 answered, 100% lost" in result.stdout
    assert result.stderr.startswith("error: attic did not answer.")
    *_, end, failed = lines_of(meshnode("ping", "attic", "-c", "1", "--json", code=20))
    assert (end["sent"], end["min_ms"]) == (1, None)
    assert failed["error"]["code"] == "unreachable"


def test_an_unknown_node_is_a_usage_error_without_an_account(node, meshnode):
    def refuse(_n):
        raise errors.BadRequest("No node of this mesh is called 'cellar'.", param="node")

    node.pong = refuse
    result = meshnode("ping", "cellar", code=exits.USAGE)
    assert result.stdout == ""


def test_a_node_that_stops_meanwhile_leaves_the_account_of_those_before(node, meshnode):
    def then_gone(n):
        if n > 1:
            raise errors.NotRunning("The node stops.")
        return DIRECT

    node.pong = then_gone
    result = meshnode("ping", "attic", *QUICK, code=exits.TABLE["not_running"])
    assert "1 sent, 1 answered (1 direct), 0% lost" in result.stdout


@pytest.mark.parametrize(("view", "code"), [(DIRECT, exits.OK), (LOST, exits.TABLE["unreachable"])])
def test_ctrl_c_ends_an_endless_series_with_its_account(node, meshnode, view, code):
    def third_is_interrupted(n):
        if n == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return view

    node.pong = third_is_interrupted
    shown = meshnode("ping", "attic", "-c", "0", *QUICK, code=code).stdout
    answered = 0 if view is LOST else shown.splitlines()[-2].count("answered")
    assert " sent, " in shown
    assert node.pings < 5
    assert ("min" in shown) is bool(answered)


def test_ctrl_c_before_the_first_answer_has_nothing_to_sum_up(node, meshnode):
    def interrupt(_n):
        os.kill(os.getpid(), signal.SIGINT)

    node.pong = interrupt
    assert meshnode("ping", "attic", code=exits.INTERRUPTED).output == ""


@pytest.mark.parametrize(
    "words",
    [
        ("-c", "-1"),
        ("-i", "0"),
        ("-i", "nan"),
        ("--timeout", "0"),
        ("--timeout", "1000"),
        ("--timeout", "nan"),
    ],
)
def test_what_is_no_number_of_anything_is_refused(node, meshnode, words):
    node.pong = after(DIRECT)
    meshnode("ping", "attic", *words, code=exits.USAGE)
    assert node.pings == 0


async def test_two_real_nodes_ping_each_other(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MESHNODE_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    desk, attic = tmp_path / "desk", tmp_path / "attic"
    with trio.fail_after(60):
        async with (
            node_process(desk, ("--name", "desk", "--engine", "none"), env=env) as founder,
            node_process(attic, ("--name", "attic", "--engine", "none"), env=env) as joiner,
        ):
            await founder.mesh_address()
            await joiner.event("mesh")
            await joiner.call("join", target=await founder.invite(), leave=False, via="")
            await founder.until(lambda seen: any(peer.name == "attic" for peer in seen.peers))
            command = [
                sys.executable,
                "-m",
                "meshnode.cli.main",
                "ping",
                "--home",
                str(desk),
                "attic",
                "--json",
            ]
            done = await trio.run_process(
                [*command, "-c", "3", "-i", "0.1"], env=env, capture_stdout=True, stderr=subprocess.DEVNULL
            )
    *pings, end = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert [len(one["path"]) for one in pings] == [1, 1, 1]
    assert all(0 < one["rtt_ms"] < 5000 for one in pings)
    assert (end["name"], end["answered"], end["direct"]) == ("attic", 3, 3)
