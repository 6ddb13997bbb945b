"""The node: builds every part and runs them in one nursery. It decides nothing."""

from meshnode.node.node import Node
from meshnode.node.opening import open_node
from meshnode.node.run import run_node

__all__ = ["Node", "open_node", "run_node"]
