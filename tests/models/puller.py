"""A pull in a process of its own, to be killed: `python -m tests.models.puller HOME CACHE SOURCE [ENTRY.json]`.

ENTRY.json is a catalog entry that only this process knows.
"""

import sys
from pathlib import Path

import msgspec
import trio

from meshnode.models import catalog
from meshnode.models.pull import pull
from meshnode.models.store import ModelStore
from meshnode.seams import in_thread


async def main(home, cache, source, *entries):
    for path in entries:
        entry = msgspec.json.decode(Path(path).read_bytes(), type=catalog.Entry)
        catalog.CATALOG[entry.name] = entry
    model = await pull(source, ModelStore(Path(home), Path(cache)), blocking=in_thread)
    print(model.digest.hex())


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
