"""What is known of a request before its body is read: its ids, whose it is, and what it may do.

It travels in the ASGI state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
from starlette.types import Scope as AsgiScope

from meshnode.api.ceiling import limited, most_tokens
from meshnode.terms import Job
from meshnode.terms.profile import Grant

VISIT = "visit"  # its key in the ASGI state


@dataclass(slots=True)
class Visit:
    """`request_id` is the client's own where it named a good one, `job_id` what the mesh calls its work.

    `grant` is what the request's API key allows; None for the owner of this machine.
    """

    request_id: str
    job_id: str
    deadline_ms: int
    grant: Grant | None = None

    def tag(self, tag_of: Callable[[str], bytes], named: str) -> bytes:
        """What stands for whose work it is: the key's, and behind that, of whom the request names.

        So a key's tenants share nothing but its turn in line.
        """
        if self.grant is None:
            return tag_of(named)
        key = f"key {self.grant.key}"
        return tag_of(key) + (tag_of(f"{key}\n{named}") if named else b"")

    def bounded(self, jobs: Sequence[Job], param: str = "max_tokens") -> tuple[Job, ...]:
        """The jobs of a request, within its ceilings. Raises NotAllowed that names `param` for too long an answer."""
        profiles = self.grant.profiles if self.grant else ()
        within = limited(jobs, profiles, most_tokens(profiles), param)
        return tuple(
            msgspec.structs.replace(job, deadline_ms=min(job.deadline_ms, self.deadline_ms)) for job in within
        )


def visit_of(scope: AsgiScope) -> Visit:
    """The visit that this request is."""
    return cast("Visit", scope["state"][VISIT])
