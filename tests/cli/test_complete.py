"""Completion: what a real bash is offered, and what no shell may be."""

import os
import shutil
import subprocess
import sys
import time

import click
import msgspec
import pytest

from meshnode.cli import client, complete
from meshnode.cli.complete import SHELLS, models_here, models_offered, nodes_known
from meshnode.errors import NotRunning
from meshnode.models.store import ModelStore
from meshnode.observe.snapshot import ModelView, PeerView
from tests.cli.fake_node import SNAPSHOT, lines_of


def offered(complete, home, begun=""):
    context = click.Context(click.Command("any"))
    context.params["home"] = home
    return [item.value for item in complete(context, None, begun)]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_script(meshnode, shell):
    script = meshnode("completion", shell).stdout
    assert f"_MESHNODE_COMPLETE={shell}_complete" in script
    (told,) = lines_of(meshnode("completion", shell, "--json"))
    assert (told["shell"], told["script"].strip()) == (shell, script.strip())
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_an_unknown_shell_is_a_usage_error(meshnode):
    meshnode("completion", "tcsh", code=2)


def in_bash(meshnode, tmp_path, *words):
    """What bash would offer for the last of the words."""
    binary = tmp_path / "bin" / "meshnode"
    binary.parent.mkdir(exist_ok=True)
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m meshnode.cli.main "$@"\n')
    binary.chmod(0o755)
    script = meshnode("completion", "bash").stdout
    line = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _meshnode_completion {binary}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{asked}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MESHNODE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_verbs_and_the_running_nodes_models(node, meshnode, tmp_path):
    assert in_bash(meshnode, tmp_path, "meshnode", "doc") == ["doctor"]
    assert in_bash(meshnode, tmp_path, "meshnode", "run", "smol") == ["smollm2:135m"]
    assert in_bash(meshnode, tmp_path, "meshnode", "launch", "op") == ["open-webui", "opencode"]
    assert in_bash(meshnode, tmp_path, "meshnode", "ping", "pp") == ["p" * 32]
    assert in_bash(meshnode, tmp_path, "meshnode", "config", "get", "slots") == ["slots"]


def test_models_and_nodes_of_the_running_node(node, tmp_path):
    twice = ModelView(name="smollm2:135m"), ModelView(name="qwen3:8b")
    shed = PeerView(node="q" * 32, name="shed")
    node.snapshot = msgspec.structs.replace(node.snapshot, models=(*SNAPSHOT.models, *twice), peers=(shed,))
    assert offered(models_offered, tmp_path) == ["smollm2:135m", "qwen3:8b"]
    assert offered(models_offered, tmp_path, "q") == ["qwen3:8b"]
    assert offered(nodes_known, tmp_path) == ["shed", "q" * 32]


@pytest.mark.parametrize("evil", ["x;reboot", "$(id)", "*", "a b", "-rf", "a\nb", "`id`", "x" * 300])
def test_what_means_something_to_a_shell_is_not_offered(node, tmp_path, evil):
    node.snapshot = msgspec.structs.replace(
        node.snapshot, models=(ModelView(name=evil),), peers=(PeerView(node="q" * 32, name=evil),)
    )
    assert offered(models_offered, tmp_path) == []
    assert offered(nodes_known, tmp_path) == ["q" * 32]


def test_models_on_this_device_need_no_node(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert offered(models_here, tmp_path) == []
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x")
    ModelStore(tmp_path / "models").add("tiny:1m", b"\1" * 32, "here", file=file)
    assert offered(models_here, tmp_path, "t") == ["tiny:1m"]


def test_without_a_node_or_with_one_that_hangs_nothing_is_offered(tmp_path, monkeypatch):
    assert offered(models_offered, tmp_path) == []

    async def hang(home):
        await complete.trio.sleep_forever()

    monkeypatch.setattr(complete, "ANSWER_S", 0.01)
    monkeypatch.setattr(client, "status", hang)
    begun = time.monotonic()
    assert offered(nodes_known, tmp_path) == []
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("raised", [NotRunning("no"), OSError("no"), msgspec.DecodeError("no")])
def test_nothing_is_raised_at_a_prompt(tmp_path, monkeypatch, raised):
    async def fail(home):
        raise raised

    monkeypatch.setattr(client, "status", fail)
    assert offered(models_offered, tmp_path) == []
