"""The model, and the lines of nodes that tests share."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import OBSERVED, Line, in_background, raised_line, surroundings


def _missing(what: str) -> None:
    """Skip, except where everything is promised to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI must run this")
    pytest.skip(what)


@pytest.fixture(scope="session")
def model_file() -> Path:
    """The embedded model's file, fetched into the machine's shared cache."""
    if importlib.util.find_spec("llama_cpp") is None:
        _missing("llama-cpp-python is not installed")
    command = [sys.executable, "-m", "meshnode.models"]
    fetched = subprocess.run(command, capture_output=True, text=True, env=surroundings(), check=False)
    if fetched.returncode:
        _missing(f"the model cannot be fetched: {fetched.stderr}")
    return Path(fetched.stdout.strip())


@pytest.fixture(scope="session")
def line(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line of three nodes with the real model at its end; tests leave it as they found it."""
    root = tmp_path_factory.mktemp("line")
    with in_background(lambda: raised_line(root)) as up:
        yield up


@pytest.fixture(scope="session")
def observed_line(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The same line of nodes that tell what passes inside them."""
    root = tmp_path_factory.mktemp("observed")
    with in_background(lambda: raised_line(root, program=OBSERVED)) as up:
        yield up
