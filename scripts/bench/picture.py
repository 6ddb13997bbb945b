"""Draws a mesh through a partition: who reaches whom, whether lookups find a provider, what gossip costs.

`python scripts/bench/picture.py docs/partition.svg [--nodes 16] [--seed 1] [--matrix FILE]`. A simulated mesh is cut
into halves after half a minute and healed after another; each half has providers of the one model. Every second
of virtual time is a point. The drawing is matplotlib's, in an environment of its own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

import trio  # noqa: E402 - the paths come first
from reliability.common import gather, names  # noqa: E402
from reliability.crashes import sees_way  # noqa: E402
from shape import rival_python  # noqa: E402

from meshnode.errors import MeshError  # noqa: E402
from meshnode.node import Node  # noqa: E402
from meshnode.testing.roundtrips import read_matrix  # noqa: E402
from meshnode.testing.simulation import Simulation, simulate  # noqa: E402

SETTLE_S = 20
CUT_AT_S, HEAL_AT_S, END_S = 30, 90, 150
LOOKUPS_EACH_S = 3
FAMILY = "smollm2"  # what the scripted engine claims to be
Point = dict[str, float | None]


async def film(simulation: Simulation, count: int, lookups: int) -> list[Point]:
    """One point for each second, with so many lookups begun in each."""
    nodes = await gather(simulation, count)
    await trio.sleep(SETTLE_S)
    half, rest = names(count)[: count // 2], names(count)[count // 2 :]
    points: list[Point] = []
    tried: list[tuple[float, bool]] = []
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for second in range(END_S):
            if second == CUT_AT_S:
                simulation.partition(half, rest)
            if second == HEAL_AT_S:
                simulation.heal()
            for turn in range(lookups):
                asker = nodes[(second * lookups + turn) % count]
                nursery.start_soon(look_up, asker, second, tried)
            sent = simulation.sent_bytes.total()
            await trio.sleep_until(began + second + 1)
            spent = (simulation.sent_bytes.total() - sent) / count / 1000
            points.append({"at_s": second, "reached": reached(nodes), "kb_per_s": spent})
    for point in points:
        found = [ok for second, ok in tried if second == point["at_s"]]
        point["found"] = sum(found) / len(found) if found else None
    return points


async def look_up(asker: Node, second: int, tried: list[tuple[float, bool]]) -> None:
    """Search the DHT for who has the model; found means: somebody that the asker can reach, or is."""
    assert asker.presence is not None
    try:
        records = await asker.presence.dht.find_providers(FAMILY)
    except MeshError:
        records = []
    own = asker.identity.node
    tried.append((second, any(record.owner == own or sees_way(asker, record.owner) for record in records)))


def reached(nodes: Sequence[Node]) -> float:
    """The share of all pairs of nodes in which one sees a way to the other."""
    seen = sum(sees_way(a, b.identity.node) for a in nodes for b in nodes if a is not b)
    return seen / (len(nodes) * (len(nodes) - 1))


def main() -> int:
    """Play, and have it drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="where to put the SVG")
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--matrix", type=Path, help="measured round trips in seconds, a square table")
    given = parser.parse_args()
    python = rival_python("picture")
    matrix = read_matrix(given.matrix) if given.matrix else None
    found, idle = (
        simulate(given.seed, lambda simulation, each=each: film(simulation, given.nodes, each), matrix=matrix)
        for each in (LOOKUPS_EACH_S, 0)  # lookups are not gossip: the second time the bytes are counted
    )
    points = [{**point, "kb_per_s": quiet["kb_per_s"]} for point, quiet in zip(found, idle, strict=True)]
    scene = {"points": points, "cut_at_s": CUT_AT_S, "heal_at_s": HEAL_AT_S, "nodes": given.nodes}
    drawn = subprocess.run(
        [python, HERE / "draw.py", given.picture], input=json.dumps(scene), text=True, check=False
    )
    return drawn.returncode


if __name__ == "__main__":
    sys.exit(main())
