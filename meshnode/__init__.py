"""meshnode: a peer-to-peer mesh of your own devices that serves open-weight language models.

The embedding API is loaded on first use, so that the worker process does not import a node.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshnode.bridge.aio import AsyncioNode as AsyncioNode
    from meshnode.bridge.aio import open_node_asyncio as open_node_asyncio
    from meshnode.bridge.reply import Reply as Reply
    from meshnode.bridge.sync import SyncNode as SyncNode
    from meshnode.bridge.sync import open_node_sync as open_node_sync
    from meshnode.config import Config as Config
    from meshnode.errors import MeshError as MeshError
    from meshnode.node import Node as Node
    from meshnode.node import open_node as open_node
    from meshnode.node.attesting import Attestation as Attestation
    from meshnode.serve.running import Running as Running
    from meshnode.terms import End as End
    from meshnode.terms import Job as Job
    from meshnode.terms import Piece as Piece
    from meshnode.terms import Privacy as Privacy
    from meshnode.terms import Progress as Progress
    from meshnode.terms import Sampling as Sampling
    from meshnode.terms import Turn as Turn
    from meshnode.terms import Wish as Wish

__version__ = "0.1.0"

_HOME = {
    "AsyncioNode": "meshnode.bridge.aio",
    "Attestation": "meshnode.node.attesting",
    "Config": "meshnode.config",
    "End": "meshnode.terms",
    "Job": "meshnode.terms",
    "MeshError": "meshnode.errors",
    "Node": "meshnode.node",
    "Piece": "meshnode.terms",
    "Privacy": "meshnode.terms",
    "Progress": "meshnode.terms",
    "Reply": "meshnode.bridge.reply",
    "Running": "meshnode.serve.running",
    "Sampling": "meshnode.terms",
    "SyncNode": "meshnode.bridge.sync",
    "Turn": "meshnode.terms",
    "Wish": "meshnode.terms",
    "open_node": "meshnode.node",
    "open_node_asyncio": "meshnode.bridge.aio",
    "open_node_sync": "meshnode.bridge.sync",
}
__all__ = [*_HOME, "__version__"]  # noqa: PLE0604 - all of them are names


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'meshnode' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
