"""Over random policies, wishes and meshes no request reaches what its class forbids; without a filter some do."""

import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from meshnode.cache import exact
from meshnode.cache.key import Keys
from meshnode.routing import policy
from meshnode.terms import Candidate, Job, Place, Privacy, Trust, Wish
from tests.serve.privacy_cases import Case, cases, violations

CASES = int(os.environ.get("MESHNODE_PRIVACY_CASES", "5000"))
HOW: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
Change = Callable[[Candidate, Wish], tuple[Candidate, Wish]]
_reject, _digest = policy.reject, Keys._digest


@settings(max_examples=CASES, **HOW)
@given(case=cases())
def test_no_request_reaches_what_its_class_forbids(case: Case) -> None:
    assert violations(case) == []


def blind(change: Change) -> Callable[..., Any]:
    """The hard filters, to which some fact looks other than it is."""

    def reject(candidate: Candidate, wish: Wish, *args: Any, **how: Any) -> Any:
        return _reject(*change(candidate, wish), *args, **how)

    return reject


def set_to(**facts: Any) -> Change:
    """Some fact of each node."""
    return lambda candidate, wish: (
        candidate if candidate.cloud is not None else msgspec.structs.replace(candidate, **facts),
        wish,
    )


def wished(**facts: Any) -> Change:
    """Some part of each wish."""
    return lambda candidate, wish: (candidate, msgspec.structs.replace(wish, **facts))


def consenting(candidate: Candidate, wish: Wish) -> tuple[Candidate, Wish]:
    """Every API, as if its owner let every class go there."""
    cloud = candidate.cloud and msgspec.structs.replace(candidate.cloud, privacy=tuple(Privacy))
    return msgspec.structs.replace(candidate, cloud=cloud), wish


def digest_without(field: str) -> Callable[..., bytes]:
    """Keys of the cache that do not tell apart by this."""

    def digest(self: Keys, job: Job, turns: Any) -> bytes:
        wish = msgspec.structs.replace(job.wish, privacy=Privacy.PUBLIC) if field == "class" else job.wish
        tag = b"" if field == "tenant" else job.tenant_tag
        return _digest(self, msgspec.structs.replace(job, wish=wish, tenant_tag=tag), turns)

    return digest


REMOVED: dict[str, tuple[Any, str, Any]] = {
    "trust": (policy, "reject", blind(set_to(trust=Trust.HARDWARE))),
    "place": (policy, "reject", blind(wished(place=Place.PREFER_LOCAL))),
    "relays": (policy, "reject", blind(set_to(path=()))),
    "residency": (policy, "reject", blind(wished(residency=()))),
    "consent": (policy, "reject", blind(consenting)),
    "classes that never go to an API": (policy, "CLOUD_CLASSES", tuple(Privacy)),
    "classes that are never kept": (exact, "NEVER_KEPT", frozenset()),
    "tenant in the key": (Keys, "_digest", digest_without("tenant")),
    "class in the key": (Keys, "_digest", digest_without("class")),
}


@pytest.mark.parametrize("name", REMOVED)
def test_without_any_one_filter_some_request_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*REMOVED[name])
    tried = settings(max_examples=CASES, phases=[Phase.generate], **HOW)
    assert violations(find(cases(), lambda case: bool(violations(case)), settings=tried))
