"""Candidates and jobs for the plays."""

from typing import Any

from meshnode.terms import Candidate, Job, ModelCard, Trust, Wish


def card(name: str = "smollm2:135m", **facts: Any) -> ModelCard:
    family, _, size = name.partition(":")
    base: dict[str, Any] = {
        "quant": "Q4_1",
        "tier": 2,
        "digest": name.encode().ljust(32, b"."),
        "context": 4096,
        "prompt_tps": 500.0,
        "generate_tps": 100.0,
        "slots": 4,
        "batch_gain": 2.0,
    }
    return ModelCard(name=name, family=family, size=size, **{**base, **facts})


def offer(
    number: int, *, trust: Trust = Trust.TRUSTED, model: ModelCard | None = None, **facts: Any
) -> Candidate:
    node = bytes([number]) * 20
    base: dict[str, Any] = {"path": (node,), "rtt_ms": 10.0}
    return Candidate(node=node, card=model or card(), trust=trust, **{**base, **facts})


def at_home(model: ModelCard | None = None, **facts: Any) -> Candidate:
    return offer(0, trust=Trust.SELF, model=model, path=(), rtt_ms=None, **facts)


def job(deadline_ms: int = 60_000, **wish: Any) -> Job:
    base: dict[str, Any] = {"model": "smollm2:135m", "prompt_tokens": 100, "output_tokens": 100}
    return Job(id="1", wish=Wish(**{**base, **wish}), turns=(), deadline_ms=deadline_ms)
