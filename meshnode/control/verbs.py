"""The shape that every operator's action has, whoever asks for it: arguments in, events on the way, a result.

Arguments are plain data, read into one struct a verb. It knows no socket and no terminal.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from meshnode.errors import BadRequest

Arguments = Mapping[str, object]
Emit = Callable[[dict[str, object]], Awaitable[None]]
Verb = Callable[[Arguments, Emit], Awaitable[object]]
A = TypeVar("A", bound=msgspec.Struct)

Text = Annotated[str, Meta(max_length=4096)]


class JoinArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`target` is a ticket or an address; `leave` gives up the mesh that the node is in.

    `via` is an address to use instead of those in the ticket.
    """

    target: Text
    leave: bool = False
    via: Text = ""


class InviteArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the ticket is good for, in seconds."""

    expires_s: Annotated[int, Meta(ge=1)]


class PullArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`source` as in docs/models.md, paths absolute; `sha256` is what the file must be, in hex.

    `name` is what to call the model; empty leaves that to its own header. `manifest` is the path of a manifest
    of signed weights, of which the model must be one.
    """

    source: Text
    sha256: Annotated[str, Meta(pattern=r"^(sha256:)?([0-9a-fA-F]{64})?$")] = ""
    name: Annotated[str, Meta(max_length=64)] = ""
    manifest: Text = ""


class RemoveArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`force` ends the answers that the model is giving."""

    name: Text
    force: bool = False


class NoArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For verbs that need none."""


def read_arguments(kind: type[A], given: Arguments) -> A:
    """The arguments, typed. Raises BadRequest that names the one at fault."""
    try:
        return msgspec.convert(dict(given), kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        raise BadRequest(f"The arguments are wrong: {message}.", param=path.rstrip("`")) from error
