"""A Job as the bytes that an Ask carries, and errors that crossed the wire. It knows no frames."""

from typing import Any

import msgpack

from meshnode.errors import BadRequest, Busy, MeshError, from_code
from meshnode.terms import Job
from meshnode.terms.job import BIASES_MAX, RESUME_MAX_TOKENS, TOOLS_MAX
from meshwire import inner
from meshwire.errors import RemoteWireError
from meshwire.fields import pack_fields, unpack_fields
from meshwire.limits import PROMPT_MAX

TURNS_MAX = 4096
CALLS_MAX = 4096  # in all turns together
MAPS_MAX = TURNS_MAX + CALLS_MAX + TOOLS_MAX + BIASES_MAX + 8


def pack_job(job: Job) -> bytes:
    """The job in msgpack; raises BadRequest when it is larger than the wire carries."""
    packed: bytes = msgpack.packb(pack_fields(job))
    if len(packed) > PROMPT_MAX:
        raise BadRequest(
            f"The request takes {len(packed)} bytes, and at most {PROMPT_MAX} can be sent.",
            hint="Shorten it.",
            param="input" if job.inputs else "messages",
        )
    if len(job.turns) > TURNS_MAX:
        raise BadRequest(f"At most {TURNS_MAX} messages can be sent.", param="messages")
    if sum(len(turn.tool_calls) for turn in job.turns) > CALLS_MAX:
        raise BadRequest(f"At most {CALLS_MAX} tool calls can be sent.", param="messages")
    return packed


def unpack_job(packed: bytes) -> Job:
    """The job that `pack_job` packed; raises RemoteWireError for anything else."""
    try:
        fields: Any = msgpack.unpackb(
            packed,
            use_list=False,
            object_pairs_hook=_Maps(),
            max_array_len=RESUME_MAX_TOKENS,
            max_map_len=64,
            max_str_len=PROMPT_MAX,
            max_bin_len=64,
            max_ext_len=0,
            strict_map_key=False,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RemoteWireError(f"an Ask holds no job: {error}") from error
    return unpack_fields(Job, fields)


class _Maps:
    """Makes the maps of one job, and refuses more than a job has: an empty one is 1 byte, and 64 in memory."""

    def __init__(self) -> None:
        self._left = MAPS_MAX

    def __call__(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        """One map."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many maps")
        return dict(pairs)


def error_from(fail: inner.Fail) -> MeshError:
    """The error that another node sent, of its own type again."""
    error = from_code(
        fail.code, fail.message, hint=fail.hint, param=fail.param, retry_after_s=fail.retry_after_s
    )
    if isinstance(error, Busy):
        error.estimate_s = fail.estimate_s
    return error
