"""Real networks: requests lost, pauses and agreement when real nodes are cut off, relays killed, cables pulled.

Each node is a process in a network namespace of its own, on the kernel's bridges (root and iproute2). A mesh is
cut in half for a while under a steady load, and healed; the relay of a stream is killed; the cable of the node that
serves is pulled. Each figure stands against its bound.
"""

import sys
import tempfile
from pathlib import Path

import shape
import trio

from meshnode.testing import cable_plays, namespaces
from meshnode.testing.cable_plays import DEADLINE_S, Halves, Struck
from meshnode.testing.cabled import Outcome

AGREED_WITHIN_S = 10.0
PAUSE_MAX_S = 15.0  # ten seconds until silence is a loss, and the way to another node


def rows_of_halves(cut: Halves, parted_s: float) -> list[shape.Row]:
    """What became of the requests of a mesh that was cut."""
    load, label = cut.load, f"cut for {parted_s:g} s"
    sent = float(load.sent)
    rows = [
        shape.Row(f"{label}: requests {end}", float(len(load.ends(end))), "requests", sent, "sent")
        for end in ("finished", "failed")
    ]
    lost = float(len(load.ends("lost")) + load.sent - len(load.outcomes) + (not cut.apart))
    pause_ms = 1000 * max(outcome.longest_pause_s for outcome in load.outcomes)
    return [
        *rows,
        shape.bounded(f"{label}: requests lost", lost, "requests", 0),
        shape.bounded(f"{label}: longest pause", pause_ms, "ms", 1000 * DEADLINE_S),
        shape.bounded(f"{label}: until all agree again", 1000 * cut.agreed_s, "ms", 1000 * AGREED_WITHIN_S),
    ]


def rows_of_struck(label: str, struck: Struck, *, same_run: bool) -> list[shape.Row]:
    """How an answer fared in whose middle something happened; the same run, over another way, has the same words."""
    stands = struck.after.text.startswith(struck.said) and len(struck.after.text) > len(struck.said)
    same = struck.after.text == struck.before.text or not same_run
    whole = stands and same and _finished(struck.before, struck.after)
    pause_ms, usual_ms = (1000 * outcome.longest_pause_s for outcome in (struck.after, struck.before))
    return [
        shape.bounded(f"{label}: answers lost or begun anew", float(not whole), "answers", 0),
        shape.bounded(f"{label}: pause (undisturbed {usual_ms:.0f} ms)", pause_ms, "ms", 1000 * PAUSE_MAX_S),
    ]


def _finished(*outcomes: Outcome) -> bool:
    return all(outcome.end == "finished" for outcome in outcomes)


async def measure(count: int, parted_s: float, tokens: int) -> list[shape.Row]:
    """All three, one after the other."""
    with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as directory:
        root = Path(directory)
        cut = await cable_plays.halves(root / "halves", count=count, parted_s=parted_s)
        relayed = await cable_plays.relay_killed(root / "relay", tokens=tokens)
        unplugged = await cable_plays.unplugged(root / "cable", tokens=tokens)
    return [
        *rows_of_halves(cut, parted_s),
        *rows_of_struck("relay killed", relayed, same_run=True),
        *rows_of_struck("cable pulled", unplugged, same_run=False),
    ]


def main() -> int:
    """Run the benchmark."""
    parser = shape.arguments(__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=8, help="how many nodes are cut in half")
    parser.add_argument("--parted", type=float, default=30.0, help="seconds that they are apart")
    parser.add_argument(
        "--tokens", type=int, default=100, help="the length of the answers that are disturbed"
    )
    options = parser.parse_args()
    if why := namespaces.refusal():
        print(f"error: {why}", file=sys.stderr)
        return 2
    rows = trio.run(measure, options.nodes, options.parted, options.tokens)
    return shape.report("namespaces", rows, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
