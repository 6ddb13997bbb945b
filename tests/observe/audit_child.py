"""A process that writes an audit log until it is killed: it prints each line's number once it is acknowledged, or, of
every second one, written.

`torn` as the third argument has it kill itself in the middle of the write with the number given as the fourth.
"""

import os
import signal
import sys
from pathlib import Path

import trio

from meshnode.observe.audit import AuditLog, open_audit
from meshnode.observe.head import HeadFile
from meshnode.observe.segments import FOLDER, Segments
from meshnode.seams import Seams
from meshwire.signing import Signer
from tests.observe.audit_play import decision

LIFE_S = 30.0


async def main(home: Path, torn_at: int) -> None:
    seams = Seams()
    segments = Segments(home / FOLDER, 1 << 20)
    audit = await open_audit(segments, HeadFile(home), Signer(b"\x07" * 32), seams)
    first = audit.end.n
    print("open", first, flush=True)
    if torn_at:
        _tear(torn_at)
    number = 0
    with trio.move_on_after(LIFE_S):  # whoever was to kill it may have failed
        while True:
            number += 1
            await _write(audit, number, first + number)


async def _write(audit: AuditLog, number: int, line: int) -> None:
    if number % 2:
        await audit.note(decision(number))
        print(line, flush=True)
        await trio.lowlevel.checkpoint()
    else:
        begun = await audit.begin(decision(number))
        print(line, flush=True)
        await begun.lasts()


def _tear(at: int) -> None:
    """Let the write with this number be broken off half-way, by the end of this process."""
    real, writes = os.write, [0]

    def write(descriptor: int, data: bytes) -> int:
        writes[0] += 1
        if writes[0] == at:
            real(descriptor, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(descriptor, data)

    os.write = write  # type: ignore[assignment]


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
