"""A Job as the bytes that an Ask carries, and errors that crossed the wire. It knows no frames."""

from typing import Any

import msgpack

from meshnode.errors import BadRequest, MeshError, from_code
from meshnode.terms import Job
from meshwire.errors import RemoteWireError
from meshwire.fields import pack_fields, unpack_fields
from meshwire.limits import PROMPT_MAX

TURNS_MAX = 4096


def pack_job(job: Job) -> bytes:
    """The job in msgpack; raises BadRequest when it is larger than the wire carries."""
    packed: bytes = msgpack.packb(pack_fields(job))
    if len(packed) > PROMPT_MAX:
        raise BadRequest(
            f"The conversation takes {len(packed)} bytes, and at most {PROMPT_MAX} can be sent.",
            hint="Shorten it.",
            param="messages",
        )
    if len(job.turns) > TURNS_MAX:
        raise BadRequest(f"At most {TURNS_MAX} messages can be sent.", param="messages")
    return packed


def unpack_job(packed: bytes) -> Job:
    """The job that `pack_job` packed; raises RemoteWireError for anything else."""
    try:
        fields: Any = msgpack.unpackb(
            packed,
            use_list=False,
            object_pairs_hook=_Maps(),
            max_array_len=TURNS_MAX,
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
        self._left = TURNS_MAX + 8

    def __call__(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        """One map."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many maps")
        return dict(pairs)


def error_from(code: str, message: str, hint: str, param: str, retry_after_s: float | None) -> MeshError:
    """The error that another node sent, of its own type again."""
    return from_code(code, message, hint=hint, param=param, retry_after_s=retry_after_s)
