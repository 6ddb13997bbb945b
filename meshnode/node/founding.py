"""A mesh for a node that belongs to none: with itself alone in it."""

from meshnode.config import Config
from meshnode.identity import Identity, load_or_create_root
from meshnode.seams import Seams
from meshnode.state.store import Store
from meshnode.trust.membership import Mesh, found_closed, found_open, new_serial

MESH_NAME = "mesh"


async def found(config: Config, identity: Identity, store: Store, seams: Seams) -> Mesh:
    """A new mesh, as the settings want it, remembered. Raises HomeUnusable."""
    if config.open_mesh:
        mesh = found_open(seams.entropy)
    else:
        root = await seams.blocking(lambda: load_or_create_root(config.home, seams.entropy))
        mesh = found_closed(
            root,
            identity,
            name=f"{config.name}'s {MESH_NAME}",
            node_name=config.name,
            serial=new_serial(seams.entropy),
            now_ms=seams.now_ms(),
        )
    await store.save_mesh(mesh)
    return mesh
