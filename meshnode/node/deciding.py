"""The parts of a node that decide where a request goes, put together from its settings."""

from meshnode.config import Config
from meshnode.node.far import Far
from meshnode.observe.metrics import Metrics
from meshnode.routing.quality import Qualities
from meshnode.routing.score import Worth
from meshnode.seams import Seams
from meshnode.serve.choose import Chooser
from meshnode.serve.cloud import CloudRung
from meshnode.serve.hedge import Hedger
from meshnode.serve.local import Bench


def chooser_of(
    config: Config, node: bytes, bench: Bench, seams: Seams, far: Far, cloud: CloudRung
) -> Chooser:
    """The step that decides."""
    return Chooser(
        node,
        bench,
        seams.rng,
        far.candidates,
        far.vitals_seqs,
        far.look_up,
        cloud.candidates,
        reach=far.reach,
        worth=Worth(config.usd_s, config.joule_s, Qualities(config.ratings)),
        hedges=config.hedge,
    )


def hedger_of(chooser: Chooser, metrics: Metrics) -> Hedger:
    """What sends some requests to a second node too, and counts them."""
    return Hedger(chooser.router.hedging, metrics.note_hedge)
