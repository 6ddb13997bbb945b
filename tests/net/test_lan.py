"""Neighbours on the local network: who is noted, who is not, and real multicast on the loopback interface."""

import random
import sys

import pytest
import structlog
import trio

from meshnode.net.lan import (
    MESH_KEY,
    NEIGHBOURS_MAX,
    NODE_KEY,
    SERVICE,
    Lan,
    _heard,
    fingerprint,
    numeric_hosts,
)
from meshwire.ids import NodeId, to_text

RNG = random.Random(3)
MESH, OTHER_MESH = RNG.randbytes(16), RNG.randbytes(16)
HERE, THERE = NodeId(RNG.randbytes(20)), NodeId(RNG.randbytes(20))
HEARD_WITHIN_S = 20.0


def said(node: NodeId = THERE, mesh: bytes = MESH) -> dict[bytes, bytes | None]:
    return {MESH_KEY: fingerprint(mesh), NODE_KEY: to_text(node).encode()}


def test_a_neighbour_is_noted_where_it_was_heard_and_forgotten_when_it_goes() -> None:
    lan = Lan(HERE, MESH)
    lan.note("a", said(), ["192.0.2.7", "192.0.2.8"], 8421)
    assert lan.neighbours == {THERE: "ws://192.0.2.7:8421"}
    lan.note("a", said(), ["2001:db8::1"], 8422)
    assert lan.neighbours == {THERE: "ws://[2001:db8::1]:8422"}
    lan.forget("b")
    lan.forget("a")
    assert lan.neighbours == {}


@pytest.mark.parametrize(
    ("properties", "hosts", "port"),
    [
        (said(mesh=OTHER_MESH), ["192.0.2.7"], 8421),
        (said(HERE), ["192.0.2.7"], 8421),
        (said(), [], 8421),
        (said(), ["192.0.2.7"], 0),
        ({MESH_KEY: fingerprint(MESH)}, ["192.0.2.7"], 8421),
        ({**said(), NODE_KEY: None}, ["192.0.2.7"], 8421),
        ({**said(), NODE_KEY: b"\xff" * 32}, ["192.0.2.7"], 8421),
        ({**said(), NODE_KEY: b"nobody"}, ["192.0.2.7"], 8421),
    ],
)
def test_nothing_is_noted_of_other_meshes_of_oneself_or_of_nonsense(properties, hosts, port) -> None:
    lan = Lan(HERE, MESH)
    lan.note("a", properties, hosts, port)
    assert lan.neighbours == {}


def test_what_is_noted_is_bounded() -> None:
    lan = Lan(HERE, MESH)
    for number in range(NEIGHBOURS_MAX + 9):
        lan.note(str(number), said(NodeId(number.to_bytes(20))), ["192.0.2.7"], 8421)
    assert len(lan.neighbours) == NEIGHBOURS_MAX
    for number in range(NEIGHBOURS_MAX + 9):
        lan.note(f"again {number}", said(), ["192.0.2.7"], 8421)
        lan.note("0", said(NodeId((1000 + number).to_bytes(20))), ["192.0.2.7"], 8421)
    assert len(lan.neighbours) <= len(lan._names) == NEIGHBOURS_MAX


def test_a_fingerprint_is_not_the_mesh() -> None:
    assert MESH not in fingerprint(MESH)
    assert MESH.hex().encode()[:8] not in fingerprint(MESH)
    assert fingerprint(MESH) != fingerprint(OTHER_MESH)


def test_only_addresses_in_numbers_are_interfaces() -> None:
    assert numeric_hosts(["ws://192.0.2.7:1", "ws://[::1]:2", "wss://node.example:443"]) == [
        "192.0.2.7",
        "::1",
    ]


async def until(holds) -> None:
    with trio.fail_after(HEARD_WITHIN_S):
        while not holds():
            await trio.sleep(0.05)


async def test_two_nodes_hear_each_other_and_that_one_has_gone() -> None:
    here, there, foreign = Lan(HERE, MESH), Lan(THERE, MESH), Lan(NodeId(RNG.randbytes(20)), OTHER_MESH)
    async with trio.open_nursery() as nursery:
        leaving = trio.CancelScope()

        async def be_there() -> None:
            with leaving:
                await there.run(["ws://127.0.0.1:9002"], announce=True)

        async def run(lan: Lan, port: int, announce: bool) -> None:
            await lan.run([f"ws://127.0.0.1:{port}"], announce=announce)

        nursery.start_soon(be_there)
        nursery.start_soon(run, here, 9001, False)
        nursery.start_soon(run, foreign, 9003, True)
        await until(lambda: here.neighbours == {THERE: "ws://127.0.0.1:9002"})
        leaving.cancel()
        await until(lambda: not here.neighbours)
        assert there.neighbours == {}, "who is not announced is not heard"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("addresses", [["ws://127.0.0.1:9001"], ["ws://node.example:9001"], []])
async def test_where_it_cannot_be_the_log_says_why(addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with structlog.testing.capture_logs() as logged:
        await Lan(HERE, MESH).run(addresses, announce=True)
    (line,) = logged
    assert line["event"] == "lan.unavailable"
    assert line["why"]
    assert line["hint"]


async def test_what_is_asked_while_all_ends_comes_to_nothing() -> None:
    from zeroconf import Error, ServiceStateChange

    class Closing:
        """A Zeroconf that is closed while its answer is waited for."""

        def get_service_info(self, *_args: object) -> None:
            raise Error

    lan = Lan(HERE, MESH)
    event = {"name": "a", "service_type": SERVICE, "state_change": ServiceStateChange.Added}
    _heard(lan, trio.lowlevel.current_trio_token(), zeroconf=Closing(), **event)
    assert lan.neighbours == {}
