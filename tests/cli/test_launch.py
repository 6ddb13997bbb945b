"""`meshnode launch`: tools get what their own documentation says, and nothing of it is obeyed by a shell."""

import json
import os
import shlex
import subprocess
import sys
import tomllib

import msgspec
import pytest

from meshnode.cli import exits
from meshnode.cli.tools import TOOLS, Target
from meshnode.observe.snapshot import ModelView
from tests.cli.fake_node import lines_of

EVIL = "a\"; touch x $(id) `id`' :1b"
TARGET = Target("http://127.0.0.1:8420", "key", EVIL)


def test_without_a_tool_or_with_an_unknown_one_the_known_ones_are_listed(node, meshnode):
    for args in ([], ["emacs"]):
        said = meshnode("launch", *args, code=exits.USAGE).stderr
        assert all(name in said for name in TOOLS)
        assert "meshnode launch --env" in said


def test_exports_for_any_tool(node, meshnode, monkeypatch):
    shown = meshnode("launch", "--env").stdout
    assert f"export OPENAI_BASE_URL={node.snapshot.api_url}/v1\n" in shown
    assert "export OPENAI_API_KEY=unused\n" in shown
    monkeypatch.setenv("MESHNODE_API_KEY", "mk-secret")
    assert "export OPENAI_API_KEY=mk-secret\n" in meshnode("launch", "--env").stdout
    node.snapshot = msgspec.structs.replace(node.snapshot, models=())
    meshnode("launch", "--env")


def test_print_shows_what_would_be_run(node, meshnode):
    shown = meshnode("launch", "aider", "--print", "--", "--yes", "a file").stdout
    assert shown.endswith("aider --model openai/smollm2:135m --yes 'a file'\n")
    (setup,) = lines_of(meshnode("launch", "goose", "--print", "--model", "x:1b", "--json"))
    assert setup["environment"]["GOOSE_MODEL"] == "x:1b"
    assert setup["environment"]["OPENAI_HOST"] == node.snapshot.api_url


def test_paid_models_are_no_choice(node, meshnode):
    node.snapshot = msgspec.structs.replace(node.snapshot, models=(ModelView(name="paid", cloud="openai"),))
    meshnode("launch", "aider", "--print", code=exits.TABLE["model_not_found"])
    meshnode("launch", "aider", "--print", "--model", "paid")


def test_a_shell_takes_every_export_as_it_is(node, meshnode):
    node.snapshot = msgspec.structs.replace(node.snapshot, models=(ModelView(name=EVIL),))
    for name in TOOLS:
        shown = meshnode("launch", name, "--print").stdout
        (setup,) = lines_of(meshnode("launch", name, "--print", "--json"))
        *exports, command = shown.splitlines()
        assert tuple(shlex.split(command)) == tuple(setup["command"])
        given = "\n".join([*exports, "env -0"])
        printed = subprocess.run(["sh", "-c", given], capture_output=True, text=True, check=True).stdout
        assert (
            setup["environment"].items()
            <= dict(row.split("=", 1) for row in printed.split("\0") if row).items()
        )


def test_configurations_are_whole_whatever_the_model_is_called():
    words = TOOLS["codex"].arguments(TARGET)
    assert set(words[::2]) == {"-c"}
    settings = tomllib.loads("\n".join(words[1::2]))
    provider = settings["model_providers"]["meshnode"]
    assert (settings["model"], settings["model_provider"]) == (EVIL, "meshnode")
    assert (provider["base_url"], provider["wire_api"]) == ("http://127.0.0.1:8420/v1", "responses")
    assert provider["env_key"] in TOOLS["codex"].variables(TARGET)
    content = json.loads(TOOLS["opencode"].variables(TARGET)["OPENCODE_CONFIG_CONTENT"])
    assert content["model"] == f"meshnode/{EVIL}"
    assert content["provider"]["meshnode"]["models"] == {EVIL: {}}
    assert content["provider"]["meshnode"]["options"] == {
        "baseURL": "http://127.0.0.1:8420/v1",
        "apiKey": "key",
    }


@pytest.mark.usefixtures("meshnode")
def test_the_tool_takes_the_place_of_the_command(node, tmp_path):
    tool = tmp_path / "aider"
    tool.write_text('#!/bin/sh\necho "$OPENAI_API_BASE" "$@"\nexit 7\n')
    tool.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [
        sys.executable,
        "-m",
        "meshnode.cli.main",
        "launch",
        "--home",
        tmp_path,
        "aider",
        "--",
        "--yes",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == f"{node.snapshot.api_url}/v1 --model openai/smollm2:135m --yes\n"


def test_a_tool_that_is_not_installed(node, meshnode, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "aider.chat" in meshnode("launch", "aider", code=exits.USAGE).stderr


def test_without_a_node_it_says_how_to_start_one(meshnode):
    meshnode("launch", "aider", code=exits.TABLE["not_running"])
