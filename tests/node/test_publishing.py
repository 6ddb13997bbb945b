"""What a node says of its models while they restart, stand by, and change their speeds."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from meshnode.engine.base import EngineState
from meshnode.engine.scripted import scripted_card
from meshnode.node.publisher import Publisher
from meshnode.terms import ModelCard


class Engine:
    """As much of an engine as an ad needs."""

    def __init__(self, name: str) -> None:
        self.state = EngineState.READY
        self.cards: tuple[ModelCard, ...] = (scripted_card(name),)


@pytest.fixture
def stage() -> Any:
    engines = (Engine("a:1"), Engine("b:1"))
    bench = SimpleNamespace(engines=engines, open_to_others=lambda _engine: True)
    publisher = Publisher(
        book=None,  # type: ignore[arg-type]  # nothing is signed here
        signer=None,  # type: ignore[arg-type]
        seams=None,  # type: ignore[arg-type]
        bench=bench,  # type: ignore[arg-type]
        node_ad=None,  # type: ignore[arg-type]
        rtts_ms=dict,
        keep_seq=None,  # type: ignore[arg-type]
        on_ads=lambda: None,
        on_signed=lambda: None,
        incarnation=1,
    )
    return SimpleNamespace(publisher=publisher, engines=engines)


def names(stage: Any) -> list[str]:
    return sorted(stage.publisher.current_cards())


def test_each_restarting_engine_keeps_its_own_models(stage: Any) -> None:
    assert names(stage) == ["a:1", "b:1"]
    stage.engines[0].state, stage.engines[0].cards = EngineState.LOADING, ()
    assert names(stage) == ["a:1", "b:1"]
    stage.engines[0].state = EngineState.FAILED
    assert names(stage) == ["b:1"]


def test_one_on_standby_is_advertised(stage: Any) -> None:
    stage.engines[0].state = EngineState.STANDBY
    assert names(stage) == ["a:1", "b:1"]


def test_new_speeds_are_told(stage: Any) -> None:
    faster = msgspec.structs.replace(stage.engines[0].cards[0], generate_tps=500.0)
    stage.engines[0].cards = (faster,)
    assert stage.publisher.current_cards()["a:1"] == faster
