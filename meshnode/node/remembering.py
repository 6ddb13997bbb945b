"""What a node remembers of answers, built from its settings; and its own model as the embedder for likeness."""

from collections.abc import Callable

import msgspec

from meshnode import __version__
from meshnode.cache.key import Keys
from meshnode.cache.vocabulary import LazyVocabulary
from meshnode.config import Config
from meshnode.errors import MeshError
from meshnode.seams import Seams
from meshnode.serve.local import Bench
from meshnode.serve.recall import Embed, Recall, Vectors
from meshnode.serve.vectors import floats
from meshnode.state.answers import AnswerStore
from meshnode.terms import CacheMode, Job, Privacy, Vector, Wish

MIB = 1 << 20
EMBED_DEADLINE_MS = 1000


def recall_of(config: Config, seams: Seams, bench: Bench, node: bytes, label: Callable[[], str]) -> Recall:
    """The memory of a node with these settings."""
    store = AnswerStore(
        config.home, seams.blocking, bytes_max=config.cache_mb * MIB, kept_ms=config.cache_ttl_s * 1000
    )
    embed = embedder_on(bench, node, seams)
    keys = Keys(__version__.encode() + msgspec.msgpack.encode(config.prompts))
    return Recall(CacheMode(config.cache), store, LazyVocabulary(), seams, label, embed, keys)


def embedder_on(bench: Bench, node: bytes, seams: Seams) -> Embed:
    """Vectors by a model of this very node that is made for nothing else; what is compared never leaves the node.

    The averaged states of a chat model are no measure of likeness, so without such a model there is no embedder.
    """

    async def embed(texts: tuple[str, ...]) -> Vectors | None:
        digest = next(
            (card.digest for engine in bench.engines for card in engine.cards if card.only_embeds), None
        )
        if digest is None:
            return None
        wish = Wish(model=f"sha256:{digest.hex()}", privacy=Privacy.LOCAL, output_tokens=0)
        identifier = "likeness-" + seams.entropy(8).hex()
        job = Job(id=identifier, wish=wish, turns=(), inputs=texts, deadline_ms=EMBED_DEADLINE_MS)
        try:
            async with bench.run(digest, job, node) as items:
                vectors = [floats(item.values) async for item in items if isinstance(item, Vector)]
        except MeshError:
            return None
        return vectors if len(vectors) == len(texts) else None

    return embed
