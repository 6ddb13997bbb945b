"""Choosing with a commercial API at hand: the mesh is looked through first, and the API is tried in time."""

import random

import pytest
import trio

from meshnode.errors import NoCandidate, Unreachable
from meshnode.serve.choose import LOOK_AGAIN_S, NEWS_S, Chooser
from meshnode.serve.trial import ATTEMPTS, Trial
from meshnode.terms import Place
from tests.routing.offers import job, offer
from tests.routing.test_cloud import api
from tests.serve.test_choose import OWN, Stage


class Paying(Stage):
    """The stage, with an API that has every model."""

    def __init__(self, **how) -> None:
        super().__init__(**how)
        self.choose = Chooser(
            OWN,
            self.bench,
            random.Random(1),
            lambda: self.remote,
            lambda: self.vitals_seqs,
            self.look_up,
            lambda _job: [api()],
        )


async def chosen(stage: Stage, **wish) -> list[bool]:
    """Which of the choices cost money."""
    return [candidate.cloud is not None for candidate in await stage.choose(job(**wish))]


async def test_the_mesh_is_looked_through_before_money_is_spent() -> None:
    stage = Paying()
    stage.bench.remove(stage.engine)
    stage.found = [offer(1)]
    assert await chosen(stage) == [False, True]
    assert stage.looked_up == ["smollm2"]


async def test_what_the_mesh_did_not_have_is_not_looked_for_again_for_a_while() -> None:
    stage = Paying()
    stage.bench.remove(stage.engine)
    for _ in range(3):
        assert await chosen(stage) == [True]
    assert stage.looked_up == ["smollm2"]
    await trio.sleep(LOOK_AGAIN_S)
    assert await chosen(stage) == [True]
    assert stage.looked_up == ["smollm2"] * 2


async def test_a_peer_without_a_path_holds_up_one_request_only() -> None:
    stage = Paying()
    stage.bench.remove(stage.engine)
    stage.remote = [offer(1, reachable=False)]
    before = trio.current_time()
    assert await chosen(stage) == [True]
    assert trio.current_time() - before == pytest.approx(NEWS_S, abs=0.1)
    before = trio.current_time()
    assert await chosen(stage) == [True]
    assert trio.current_time() == before


async def test_a_model_that_is_loading_is_not_waited_for_while_an_api_has_it() -> None:
    stage = Paying(load_s=100.0)
    async with stage.running():
        assert await chosen(stage) == [True]
        assert trio.current_time() < 10


async def test_route_cloud_looks_at_nobody_else() -> None:
    stage = Paying()
    async with stage.running():
        assert await chosen(stage, place=Place.CLOUD) == [True]
    assert stage.looked_up == []


@pytest.mark.parametrize("place", [Place.LOCAL, Place.MESH])
async def test_other_routes_refuse_rather_than_pay(place: Place) -> None:
    stage = Paying()
    stage.bench.remove(stage.engine)
    with pytest.raises(NoCandidate, match="not a place the request allows"):
        await chosen(stage, place=place)


async def test_an_api_is_within_what_is_tried_at_all() -> None:
    stage = Paying()
    async with stage.running():
        await trio.sleep(0.1)
        stage.remote = [offer(n) for n in range(1, 7)]
        got = await chosen(stage)
    assert got.index(True) == ATTEMPTS - 1
    assert (len(got), sum(got)) == (8, 1)


def test_nobody_pays_because_a_way_is_silent() -> None:
    trial = Trial(job(), deadline=100.0)
    trial.node = offer(1).node
    assert trial.elsewhere([offer(1), api(), offer(2)]) == offer(2)
    assert trial.elsewhere([offer(1), api()]) is None
    trial.failure = Unreachable("gone")
    assert trial.goes_on
