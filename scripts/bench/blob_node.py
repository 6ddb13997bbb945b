"""A node that offers a model file without running it: `meshnode up` whose scripted engine advertises its digest.

Its environment says which (BLOB_DIGEST, hex) and after how many chunks it gives a wrong one (BLOB_WRONG_AFTER).
"""

import os

import msgspec

from meshnode.cli.main import main
from meshnode.engine.scripted import scripted_card
from meshnode.models.share import OpenFile
from meshnode.node import engines

READ = OpenFile.read
begun: list[int] = []


async def read_wrong(file: OpenFile, begin: int, count: int) -> bytes:
    """As truly read, but for one chunk."""
    found = await READ(file, begin, count)
    begun.append(begin)
    return found if len(begun) != int(os.environ["BLOB_WRONG_AFTER"]) else bytes(count)


def card(name, **facts):
    """The card of a scripted engine that has the real file's digest."""
    digest = bytes.fromhex(os.environ["BLOB_DIGEST"])
    return msgspec.structs.replace(scripted_card(name, **facts), digest=digest)


if __name__ == "__main__":
    engines.scripted_card = card
    if "BLOB_WRONG_AFTER" in os.environ:
        OpenFile.read = read_wrong
    main()
