"""LiteLLM's own routing strategies in the fleet, run in an environment that has LiteLLM and not meshnode.

Each entry has handlers of its own, as each proxy of LiteLLM has, with the fleet's time for a clock. They are told of
a request's start, first token and end through the callbacks that LiteLLM itself calls. Reads a list of cells as JSON
from standard input, writes each one's times to the first token, one JSON line a cell.
"""

import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from litellm.caching.caching import DualCache
from litellm.caching.in_memory_cache import InMemoryCache
from litellm.router_strategy.least_busy import LeastBusyLoggingHandler
from litellm.router_strategy.lowest_latency import LowestLatencyLoggingHandler
from litellm.types.utils import ModelResponse, Usage

from fleets.cells import Cell, played
from fleets.fleet import Fleet, Request

GROUP = "fleet"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
CACHE_ITEMS = 100_000


class Strategy:
    """One of LiteLLM's strategies at every entry."""

    def __init__(self, kind: str, seed: int) -> None:
        random.seed(seed)  # its strategies draw from the module's own
        self._kind = kind
        self._now = 0.0
        self._handlers: dict[int, Any] = {}
        self._deployments: list[dict[str, Any]] = []

    def _handler(self, entry: int) -> Any:
        if entry not in self._handlers:
            memory = InMemoryCache(max_size_in_memory=CACHE_ITEMS, clock=lambda: self._now)
            cache = DualCache(in_memory_cache=memory)
            self._handlers[entry] = (
                LeastBusyLoggingHandler(cache, clock=lambda: self._now)
                if self._kind == "least-busy"
                else LowestLatencyLoggingHandler(cache)
            )
        return self._handlers[entry]

    def arrived(self, fleet: Fleet, request: Request) -> None:
        """A request came in."""
        self._now = fleet.now
        self._deployments = self._deployments or [
            {"model_name": GROUP, "litellm_params": {"model": "openai/fleet"}, "model_info": {"id": str(n)}}
            for n in range(len(fleet.machines))
        ]
        handler = self._handler(request.entry)
        more = {} if self._kind == "least-busy" else {"request_kwargs": {"stream": True, "metadata": {}}}
        chosen = handler.get_available_deployments(GROUP, list(self._deployments), **more)
        worker = int(chosen["model_info"]["id"])
        if self._kind == "least-busy":
            handler.log_pre_api_call("fleet", [], self._kwargs(request, worker))
        fleet.send(request, worker)

    def began(self, fleet: Fleet, request: Request) -> None:
        """Its first token came; LiteLLM notes that with the end."""

    def ended(self, fleet: Fleet, request: Request) -> None:
        """Its last token came."""
        self._now = fleet.now
        usage = Usage(
            prompt_tokens=request.prompt,
            completion_tokens=request.output,
            total_tokens=request.prompt + request.output,
        )
        self._handler(request.entry).log_success_event(
            self._kwargs(request, request.worker), ModelResponse(usage=usage), _at(request.at), _at(fleet.now)
        )

    @staticmethod
    def _kwargs(request: Request, worker: int) -> dict[str, Any]:
        """What LiteLLM hands to its callbacks."""
        return {
            "litellm_call_id": str(request.number),
            "stream": True,
            "completion_start_time": _at(request.first_at) if request.first_at == request.first_at else None,
            "litellm_params": {"metadata": {"model_group": GROUP}, "model_info": {"id": str(worker)}},
        }


def _at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


if __name__ == "__main__":
    for given in json.load(sys.stdin):
        cell = Cell(**given)
        print(json.dumps(played(cell, Strategy(cell.policy.partition(" ")[2], cell.seed))), flush=True)
