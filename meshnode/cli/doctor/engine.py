"""Checks of what computes: the worker's library, what would contain it, and the models on this device."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import trio

from meshnode.cli.doctor.finding import Found, Verdict
from meshnode.config import Config
from meshnode.engine.sandbox import Sandbox
from meshnode.engine.worker import landlock
from meshnode.models.store import ModelStore

MODELS_DIRECTORY = "models"
LOAD = "import llama_cpp; print(llama_cpp.__version__)"
OUTPUT_CHARACTERS_MAX = 200


async def library(settings: Config) -> Found:
    """Whether llama.cpp loads here, in a process of its own: what an instruction kills is not this one."""
    if settings.engine != "llama" or not settings.model:
        return Verdict.OK, f"Not needed with engine {settings.engine} and model {settings.model or 'none'}."
    if find_spec("llama_cpp") is None:
        hint = "Run: pip install 'meshnode[worker]'. Or use another server's models, with --upstream URL."
        return Verdict.FAILED, "llama-cpp-python is not installed.", hint
    done = await trio.run_process(
        [sys.executable, "-c", LOAD], capture_stdout=True, capture_stderr=True, check=False
    )
    if done.returncode:
        hint = "Build it for this processor: pip install --force-reinstall --no-binary :all: llama-cpp-python"
        return Verdict.FAILED, f"llama.cpp does not load: {_ending(done.returncode, done.stderr)}", hint
    return Verdict.OK, f"llama-cpp-python {done.stdout.decode(errors='replace').strip()} loads."


async def containment(settings: Config) -> Found:
    """What would contain a worker here. Bubblewrap is tried out, for many systems have it and forbid it."""
    wanted = Sandbox(settings.sandbox)
    why = ""
    if wanted.kind == "bubblewrap":
        why = await _refusal(wanted)
        if not why:
            return Verdict.OK, "bubblewrap works."
    if wanted.kind != "none" and landlock.version() >= landlock.VERSION_MIN:
        told = f"landlock {landlock.version()}, for bubblewrap does not work: {why or wanted.why}"
        return Verdict.WARNING, told, "It is weaker than bubblewrap; see docs/sandbox.md."
    told = f"Nothing contains the worker: {why or wanted.why or 'this kernel has no landlock'}."
    hint = "The node works for itself alone unless allow_unsandboxed is set; see docs/sandbox.md."
    return Verdict.WARNING, told, hint


async def _refusal(sandbox: Sandbox) -> str:
    """Why bubblewrap does not start a process here; nothing if it does."""
    launch = sandbox.launch([sys.executable, "-c", "pass"], __file__)
    done = await trio.run_process(
        launch.arguments, env=launch.environment, capture_stdout=True, capture_stderr=True, check=False
    )
    return _ending(done.returncode, done.stderr) if done.returncode else ""


def models(settings: Config, home: Path) -> Found:
    """Whether the models that the settings name are here and whole."""
    store = ModelStore(home / MODELS_DIRECTORY)
    wanted = [name for name in (settings.model, *settings.models) if name]
    if settings.engine != "llama" or not wanted:
        return Verdict.OK, "The settings name no model whose file is needed."
    missing = [name for name in wanted if store.find(name) is None]
    if missing:
        hint = f"The next start fetches what it can; at once: meshnode pull {missing[0]}"
        return Verdict.WARNING, f"Not on this device: {', '.join(missing)}.", hint
    return Verdict.OK, f"On this device: {', '.join(wanted)}."


def _ending(code: int, stderr: bytes) -> str:
    """How a process ended that did not end well: its last line, or the signal."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    said = lines[-1][:OUTPUT_CHARACTERS_MAX] if lines else ""
    return said or (f"signal {-code}" if code < 0 else f"exit code {code}")
