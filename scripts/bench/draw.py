"""Draws what `picture.py` hands it as JSON; runs in an environment that has matplotlib, and knows no mesh."""

import json
import sys

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.rcParams["svg.hashsalt"] = "meshnode"  # the same points make the same file
PANELS = (
    ("reached", "others seen\nas reachable", "#1f6f8b", (0, 1.15)),
    ("found", "lookups that find\na provider in reach", "#4c956c", (0, 1.15)),
    ("kb_per_s", "gossip and pings,\nkB/s a node", "#c8553d", None),
)


def main() -> None:
    """Read the scene, write the picture."""
    scene = json.load(sys.stdin)
    points, nodes = scene["points"], scene["nodes"]
    figure, axes = plt.subplots(len(PANELS), 1, sharex=True, figsize=(8, 5.4))
    for axis, (field, title, colour, limits) in zip(axes, PANELS, strict=True):
        axis.plot(
            [point["at_s"] for point in points], [point[field] for point in points], color=colour, lw=1.6
        )
        axis.axvspan(scene["cut_at_s"], scene["heal_at_s"], color="#000000", alpha=0.07, lw=0)
        axis.set_ylabel(title, fontsize=8.5)
        axis.set_ylim(*(limits or (0, None)))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    within = (nodes // 2 - 1) / (nodes - 1)
    axes[0].axhline(within, color="#555555", lw=0.8, ls=":")
    axes[0].annotate("one's own half", (1, within), fontsize=7.5, va="bottom", color="#555555")
    axes[0].annotate("cut in halves", (scene["cut_at_s"] + 1, 1.05), fontsize=8, color="#555555")
    axes[-1].set_xlabel("seconds")
    figure.align_ylabels(axes)
    figure.tight_layout()
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
