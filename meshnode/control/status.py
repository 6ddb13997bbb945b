"""What the node looks like now, for `status`, `peers` and `models` alike; it knows no terminal."""

from collections.abc import Callable

from meshnode.control.verbs import Arguments, Emit, NoArguments, Verb, read_arguments
from meshnode.observe.snapshot import Snapshot


def status_verb(snapshot: Callable[[], Snapshot]) -> Verb:
    """The verb `status`, over a function that takes the picture."""

    async def status(given: Arguments, _emit: Emit) -> Snapshot:
        read_arguments(NoArguments, given)
        return snapshot()

    return status
