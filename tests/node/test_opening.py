"""Opening a node: what stops it comes out as the one error that it is, and leaves nothing behind."""

import socket
from pathlib import Path

import pytest
import trio

from meshnode import open_node
from meshnode.config import Config
from meshnode.errors import BadRequest, ConfigInvalid, HomeInUse, HomeUnusable, PortInUse
from tests.node.small_mesh import World


async def test_a_home_is_for_one_node_at_a_time(world: World) -> None:
    async with world.node("a"):
        with pytest.raises(HomeInUse, match="process"):
            async with world.node("a"):
                pytest.fail("two nodes in one home")
    async with world.node("a"):
        pass


@pytest.mark.parametrize("home", ["file", "file/below"])
async def test_a_home_that_cannot_be_made_is_unusable(tmp_path: Path, home: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable):
        async with open_node(home=str(tmp_path / home), engine="none"):
            pytest.fail("a node without a home")


async def test_a_damaged_memory_is_told_of(world: World) -> None:
    async with world.node("a"):
        pass
    (world.homes / "a" / "state.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(HomeUnusable):
        async with world.node("a"):
            pytest.fail("a node without a memory")


async def test_a_place_that_is_taken(world: World) -> None:
    async with world.node("a"):
        taken = Config(home=world.homes / "other", engine="none")
        with pytest.raises(PortInUse):
            async with open_node(
                taken, seams=world.seams(), network=world.network.place("a"), listen="mem://a"
            ):
                pytest.fail("two nodes at one place")


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)):
            async with open_node(home=tmp_path, engine="none", mesh_host="127.0.0.1", mesh_port=port):
                pytest.fail("two programs at one port")


@pytest.mark.parametrize("flags", [{"prot": 1}, {"mesh_port": -1}, {"engine": "steam"}])
async def test_settings_that_make_no_sense(tmp_path: Path, flags: dict[str, object]) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        async with open_node(home=tmp_path, **flags):
            pytest.fail("a node with impossible settings")
    assert caught.value.param == next(iter(flags))


async def test_settings_are_given_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="slots"):
        async with open_node(Config(home=tmp_path), slots=2):
            pytest.fail("which slots?")


async def test_the_callers_own_error_comes_out_as_it_is(world: World) -> None:
    group = ExceptionGroup("mine", [ValueError("one")])
    with pytest.raises(ExceptionGroup) as caught:
        async with world.node("a"):
            raise group
    assert caught.value is group


async def test_what_ends_a_running_node_comes_out_as_it_is(world: World) -> None:
    async def live() -> None:
        async with world.node("a") as a:
            await a._store.aclose()
            await trio.sleep_forever()

    with pytest.raises(HomeUnusable), trio.fail_after(3600):
        await live()


@pytest.mark.parametrize(
    "wishes",
    [{"sort": 1}, {"temperature": 3.0}, {"max_tokens": -1}, {"deadline_s": -1}, {"deadline_s": float("nan")}],
)
async def test_wishes_that_make_no_sense(world: World, wishes: dict[str, object]) -> None:
    async with world.node("a") as a:
        with pytest.raises(BadRequest) as caught:
            async with a.ask("hello", **wishes):
                pytest.fail("it cannot begin")
        assert caught.value.param == next(iter(wishes))
