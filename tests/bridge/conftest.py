"""Nodes for plain code: quick scripted ones on loopback, and an engine that goes on for long."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshnode.engine.scripted import ScriptedEngine
from meshnode.node import Node

Settings = Callable[..., dict[str, Any]]
LONG = 100_000  # tokens of an answer that no test waits for


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of a node by its name."""

    def of(name: str = "a", **more: Any) -> dict[str, Any]:
        fixed = {"mesh_host": "127.0.0.1", "mesh_port": 0, "engine": "scripted", "discover": False, "env": {}}
        return {"home": tmp_path / name, "name": name, **fixed, **more}

    return of


def engine_of(node: Node) -> ScriptedEngine:
    engine = node.engines.all[0]
    assert isinstance(engine, ScriptedEngine)
    return engine


def make_long(node: Node) -> ScriptedEngine:
    engine = engine_of(node)
    engine.answer_tokens = LONG
    return engine
