"""The hard filters: each rules out for its own reason, and only then."""

from typing import Any

import msgspec
import pytest

from meshnode.routing.policy import Reason, parse_model, reject
from meshnode.terms import Candidate, Place, Privacy, Trust, Wish
from tests.routing.offers import at_home, card, offer


def verdict(candidate: Candidate, model: str = "smollm2:135m", **rest: Any) -> Reason | None:
    options = {name: rest.pop(name) for name in ("tried", "counted_tokens") if name in rest}
    return reject(candidate, Wish(model=model, **rest), parse_model(model), **options)


def test_a_fitting_candidate_is_not_rejected() -> None:
    assert verdict(offer(1)) is None
    assert verdict(at_home()) is None


def test_what_only_embeds_may_embed() -> None:
    one = offer(1, model=card(features=("embeddings",)))
    assert verdict(one, features=("embeddings",)) is None


def relayed(links: int) -> tuple[bytes, ...]:
    return (*tuple(bytes([90 + n]) * 20 for n in range(links - 1)), bytes([1]) * 20)


@pytest.mark.parametrize(
    ("reason", "facts", "wish"),
    [
        (Reason.MODEL, {"model": card("qwen3:8b")}, {}),
        (Reason.TIER, {}, {"min_tier": 3}),
        (Reason.TIER, {}, {"model": "smollm2:135m@q5"}),
        (Reason.CONTEXT, {}, {"counted_tokens": 4097}),
        (Reason.FEATURES, {}, {"features": ("tools",)}),
        (Reason.FEATURES, {"model": card(features=("embeddings",))}, {}),
        (Reason.SIGNER, {}, {"signed_by": ("61" * 32,)}),
        (Reason.PRIVACY, {"trust": Trust.MEMBER}, {}),
        (Reason.PRIVACY, {"trust": Trust.TRUSTED}, {"privacy": Privacy.SENSITIVE}),
        (Reason.PRIVACY, {"trust": Trust.HARDWARE}, {"privacy": Privacy.LOCAL}),
        (Reason.RELAY, {"trust": Trust.ENDORSED, "path": relayed(2)}, {"privacy": Privacy.SENSITIVE}),
        (Reason.RESIDENCY, {"labels": ("eu",)}, {"residency": ("eu", "hospital")}),
        (Reason.PLACE, {}, {"place": Place.LOCAL}),
        (Reason.EXPIRED, {"ad_expired": True}, {}),
        (Reason.UNREACHABLE, {"reachable": False}, {}),
        (Reason.HOPS, {"path": relayed(4)}, {}),
        (Reason.BUSY, {"accepting": False}, {}),
        (Reason.TRIED, {}, {"tried": [(bytes([1]) * 20, card().digest)]}),
    ],
)
def test_each_filter_names_its_reason(reason: Reason, facts: dict[str, Any], wish: dict[str, Any]) -> None:
    assert verdict(offer(1, **facts), **wish) is reason


@pytest.mark.parametrize(
    ("privacy", "trust", "allowed"),
    [
        (Privacy.PUBLIC, Trust.NONE, False),
        (Privacy.PUBLIC, Trust.MEMBER, True),
        (Privacy.PRIVATE, Trust.MEMBER, False),
        (Privacy.PRIVATE, Trust.TRUSTED, True),
        (Privacy.SENSITIVE, Trust.TRUSTED, False),
        (Privacy.SENSITIVE, Trust.ENDORSED, True),
        (Privacy.LOCAL, Trust.HARDWARE, False),
        (Privacy.LOCAL, Trust.SELF, True),
    ],
)
def test_the_privacy_class_decides_who_may_run_it(privacy: Privacy, trust: Trust, allowed: bool) -> None:
    assert (verdict(offer(1, trust=trust), privacy=privacy) is None) is allowed


def test_one_of_the_keys_asked_for_must_have_signed_the_weights() -> None:
    by_ann = msgspec.structs.replace(card(), signer=b"a" * 32)
    assert verdict(offer(1, model=by_ann), signed_by=("62" * 32, "61" * 32)) is None
    assert verdict(offer(1, model=by_ann), signed_by=("62" * 32,)) is Reason.SIGNER
    assert verdict(offer(1, model=by_ann)) is None
    assert verdict(offer(1), signed_by=("",)) is Reason.SIGNER


def test_place_mesh_leaves_this_node_out() -> None:
    assert verdict(at_home(), place=Place.MESH) is Reason.PLACE
    assert verdict(offer(1), place=Place.MESH) is None
    assert verdict(at_home(), place=Place.LOCAL) is None


def test_an_estimate_of_the_prompt_rules_nobody_out() -> None:
    assert verdict(offer(1), prompt_tokens=10**6) is None


def test_three_links_are_not_too_many() -> None:
    assert verdict(offer(1, path=relayed(3))) is None


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("smollm2:135m", True),
        ("SmolLM2:135M", True),
        ("smollm2", True),
        ("", True),
        ("auto", True),
        ("auto@q4", True),
        ("auto:code", True),
        ("Auto:Reason@q4", True),
        ("auto:code@q8", False),
        ("auto:cooking", False),
        ("auto:", False),
        ("smollm2:135m@q4", True),
        ("smollm2:135m@2", True),
        ("smollm2:135m@q5", False),
        ("smollm2:135m@nonsense", False),
        ("smollm2:360m", False),
        ("smollm", False),
        ("sha256:" + card().digest.hex(), True),
        ("sha256:" + "00" * 32, False),
    ],
)
def test_model_names(wanted: str, fits: bool) -> None:
    assert (verdict(offer(1), wanted) is None) is fits
