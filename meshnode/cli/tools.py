"""What well-known tools must be told to use this node's API, each in the way that its own documentation gives.

It knows no node and starts nothing. What it sets holds for the tool that is started alone; no file is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

PROVIDER = "meshnode"
Variables = Mapping[str, str]


class Target(msgspec.Struct, frozen=True):
    """The API: its address without `/v1`, a key (any, where the node asks for none) and the model to use."""

    api_url: str
    key: str
    model: str

    @property
    def base_url(self) -> str:
        """What most programs call the base URL."""
        return f"{self.api_url}/v1"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, what it is told by variables and by arguments before the user's own, and the page that says so."""

    program: str
    about: str
    page: str
    variables: Callable[[Target], Variables]
    arguments: Callable[[Target], tuple[str, ...]] = lambda _target: ()


def for_any(target: Target) -> Variables:
    """What OpenAI's own libraries read, and most programs made with them; some read the older name."""
    return {
        "OPENAI_BASE_URL": target.base_url,
        "OPENAI_API_BASE": target.base_url,
        "OPENAI_API_KEY": target.key,
    }


def _aider(target: Target) -> Variables:
    return {"OPENAI_API_BASE": target.base_url, "OPENAI_API_KEY": target.key}


def _codex(target: Target) -> tuple[str, ...]:
    """Values are TOML, whose strings JSON's are too."""
    values = {
        "model": target.model,
        "model_provider": PROVIDER,
        f"model_providers.{PROVIDER}.name": PROVIDER,
        f"model_providers.{PROVIDER}.base_url": target.base_url,
        f"model_providers.{PROVIDER}.env_key": "OPENAI_API_KEY",
        f"model_providers.{PROVIDER}.wire_api": "responses",
    }
    pairs = [("-c", f"{name}={msgspec.json.encode(value).decode()}") for name, value in values.items()]
    return tuple(word for pair in pairs for word in pair)


def _opencode(target: Target) -> Variables:
    options = {"baseURL": target.base_url, "apiKey": target.key}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": PROVIDER,
        "options": options,
        "models": {target.model: {}},
    }
    content = {"provider": {PROVIDER: provider}, "model": f"{PROVIDER}/{target.model}"}
    return {"OPENCODE_CONFIG_CONTENT": msgspec.json.encode(content).decode()}


def _goose(target: Target) -> Variables:
    return {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": target.model,
        "OPENAI_HOST": target.api_url,
        "OPENAI_BASE_PATH": "v1/chat/completions",
        "OPENAI_API_KEY": target.key,
    }


def _open_webui(target: Target) -> Variables:
    return {
        "OPENAI_API_BASE_URL": target.base_url,
        "OPENAI_API_KEY": target.key,
        "ENABLE_OLLAMA_API": "false",
    }


TOOLS: Mapping[str, Tool] = {
    "aider": Tool(
        "aider",
        "pair programming in the terminal",
        "https://aider.chat/docs/llms/openai-compat.html",
        _aider,
        lambda target: ("--model", f"openai/{target.model}"),
    ),
    "codex": Tool(
        "codex",
        "OpenAI's coding agent",
        "https://developers.openai.com/codex/config-advanced",
        lambda target: {"OPENAI_API_KEY": target.key},
        _codex,
    ),
    "goose": Tool(
        "goose", "an agent", "https://block.github.io/goose/docs/guides/environment-variables", _goose
    ),
    "open-webui": Tool(
        "open-webui",
        "a chat in the browser",
        "https://docs.openwebui.com/getting-started/env-configuration",
        _open_webui,
        lambda _target: ("serve",),
    ),
    "opencode": Tool("opencode", "a coding agent", "https://opencode.ai/docs/config/", _opencode),
}
