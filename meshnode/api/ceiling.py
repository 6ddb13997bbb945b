"""What an API key's profiles make of a request: it may ask for less; what asks for more is refused by name. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from meshnode.api.options import LABELS_MAX, MeshOptions
from meshnode.errors import BadRequest, NotAllowed
from meshnode.terms import Job, Place, Privacy
from meshnode.terms.profile import Grant, Profile


def allowed(grant: Grant | None, model: str, mesh: MeshOptions | None) -> MeshOptions:
    """The options of a request for this model, with the privacy class it is of; raises NotAllowed."""
    mesh = mesh or MeshOptions()
    if grant is None:
        return mesh
    if not may_name(grant, model):
        raise NotAllowed(
            f"This API key may not ask for the model {model[:80]}.",
            hint=_models(grant.profiles),
            param="model",
        )
    if mesh.route is Place.CLOUD and not may_use_cloud(grant.profiles):
        raise NotAllowed("This API key may use no commercial API.", param="mesh.route")
    return _stricter(
        msgspec.structs.replace(mesh, privacy=_class(grant.profiles, mesh.privacy)), grant.profiles
    )


def may_name(grant: Grant, model: str) -> bool:
    """Whether a request may name this model; `auto` is a name like any other."""
    name = model.strip().lower().partition("@")[0]
    return all(
        not profile.models or any(fnmatchcase(name, pattern.lower()) for pattern in profile.models)
        for profile in grant.profiles
    )


def may_use_cloud(profiles: Sequence[Profile]) -> bool:
    """Whether a commercial API may serve."""
    return all(profile.cloud for profile in profiles)


def least(values: Sequence[int]) -> int:
    """The strictest of several bounds, of which 0 is none."""
    return min((value for value in values if value), default=0)


def most_tokens(profiles: Sequence[Profile]) -> int:
    """How many tokens all choices of an answer may have together; 0 for any number."""
    return least([profile.max_tokens for profile in profiles])


def limited(jobs: Sequence[Job], profiles: Sequence[Profile], most: int, param: str) -> tuple[Job, ...]:
    """The jobs of one request, with the cloud shut and their length bounded; raises NotAllowed."""
    if not may_use_cloud(profiles):
        jobs = [_with_wish(job, cloud=False) for job in jobs]
    if not most or any(job.inputs for job in jobs):
        return tuple(jobs)
    if len(jobs) > most or sum(map(_named_length, jobs)) > most:
        raise NotAllowed(
            f"This API key may ask for {most} tokens an answer, all choices together.", param=param
        )
    share = most // len(jobs)
    return tuple(job if _named_length(job) else _with_length(job, share) for job in jobs)


def _stricter(mesh: MeshOptions, profiles: Sequence[Profile]) -> MeshOptions:
    """The options with what the profiles wish for besides."""
    labels = dict.fromkeys(
        [*(mesh.residency or ()), *(label for each in profiles for label in each.residency)]
    )
    if len(labels) > LABELS_MAX:
        raise BadRequest(
            f"At most {LABELS_MAX} labels can be asked for, the API key's among them.", param="mesh.residency"
        )
    prices = [
        price for price in (mesh.max_price, *(each.max_price_usd for each in profiles)) if price is not None
    ]
    return msgspec.structs.replace(
        mesh,
        min_tier=max(mesh.min_tier or 0, *(each.min_tier for each in profiles)),
        residency=tuple(labels),
        max_price=min(prices, default=None),
    )


def _class(profiles: Sequence[Profile], wanted: Privacy | None) -> Privacy:
    """The class that a request is of: the one it names, if that is allowed, else the usual one or the first."""
    classes = _classes(profiles)
    if wanted is None and classes:
        return Privacy.PRIVATE if Privacy.PRIVATE in classes else classes[0]
    if wanted in classes:
        return wanted
    raise NotAllowed(
        f"This API key may not send {wanted or 'any'} requests.",
        hint=f"It allows: {', '.join(classes) or 'none'}.",
        param="mesh.privacy",
    )


def _classes(profiles: Sequence[Profile]) -> list[Privacy]:
    """Those that every profile allows, in the order of the first one that names any."""
    named = [profile.privacy for profile in profiles if profile.privacy]
    first = named[0] if named else tuple(Privacy)
    return [privacy for privacy in first if all(privacy in classes for classes in named)]


def _models(profiles: Sequence[Profile]) -> str:
    patterns = [pattern for profile in profiles for pattern in profile.models]
    return f"It allows: {', '.join(patterns[:8])}."


def _named_length(job: Job) -> int:
    """How long an answer is asked for; 0 where it is left to us, perhaps up to a length."""
    return 0 if job.sampling.shorten else job.sampling.max_tokens


def _with_length(job: Job, most: int) -> Job:
    """The job with a length that it did not name, and so may fall short of."""
    tokens = min(job.sampling.max_tokens or most, most)
    sampling = msgspec.structs.replace(job.sampling, max_tokens=tokens, shorten=True)
    job = msgspec.structs.replace(job, sampling=sampling)
    return _with_wish(job, output_tokens=min(tokens, job.wish.output_tokens))


def _with_wish(job: Job, **facts: object) -> Job:
    return msgspec.structs.replace(job, wish=msgspec.structs.replace(job.wish, **facts))
