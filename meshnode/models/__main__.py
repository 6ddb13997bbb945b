"""`python -m meshnode.models NAME`: bring a model into this machine's shared cache, and say where it is.

For scripts that set a machine up before there is a node; people use `meshnode pull`.
"""

import sys
from collections.abc import Sequence

import trio

from meshnode.errors import MeshError
from meshnode.models.catalog import DEFAULT_MODEL
from meshnode.models.pull import PullProgress, warm
from meshnode.models.store import ModelStore, shared_cache
from meshnode.seams import in_thread


def main(arguments: Sequence[str]) -> int:
    """Fetch, showing progress on standard error; the path goes to standard output."""
    name = arguments[0] if arguments else DEFAULT_MODEL
    cache = shared_cache()
    bar = _Bar(name)

    async def fetch() -> str:
        store = ModelStore(cache / "none", cache)
        return str(await warm(name, store, blocking=in_thread, on_progress=bar.show))

    try:
        path = trio.run(fetch)
    except MeshError as error:
        bar.end()
        sys.stderr.write(f"error: {error.message}\n")
        sys.stderr.write(f"hint: {error.hint}\n" if error.hint else "")
        return 1
    except KeyboardInterrupt:
        bar.end()
        sys.stderr.write("interrupted; run it again to go on\n")
        return 130
    bar.end("here")
    sys.stdout.write(f"{path}\n")
    return 0


class _Bar:
    """One line that is rewritten on a terminal; without one, a line for each step."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._live = sys.stderr.isatty()
        self._step = ""

    def show(self, progress: PullProgress) -> None:
        if self._live:
            done = f"{progress.done / 1e6:.0f} of " if progress.done else ""
            sys.stderr.write(f"\r· {self._name}: {progress.step} {done}{progress.total / 1e6:.0f} MB …\033[K")
        elif progress.step != self._step:
            sys.stderr.write(f"· {self._name}: {progress.step} ({progress.total / 1e6:.0f} MB)\n")
        self._step = progress.step
        sys.stderr.flush()

    def end(self, word: str = "") -> None:
        """Leave what was said last, or the word in its place."""
        if self._live and self._step:
            sys.stderr.write(f"\r· {self._name}: {word}\033[K\n" if word else "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
