"""The mesh's root key on its way from one device to another: sealed into a file, and taken out of it again.

It works on files and keys, and needs no running node.
"""

from pathlib import Path

import msgspec

from meshnode.errors import BadRequest, NotAllowed, WrongMesh
from meshnode.identity import load_root, save_root
from meshnode.models.place import writing
from meshnode.seams import Seams
from meshnode.trust.membership import Mesh
from meshnode.trust.recovery import FILE_BYTES_MAX, open_root, read_sealed, seal_root
from meshwire.ids import mesh_id, to_text


class RootFile(msgspec.Struct, frozen=True):
    """A sealed root key: where it is, and which mesh it is the root of."""

    file: str
    mesh: str
    root: str


def export_root(home: Path, out: Path, passphrase: str, mesh: Mesh | None, seams: Seams) -> RootFile:
    """Seal the root key of this home's mesh into a new file. Raises NotAllowed, BadRequest, HomeUnusable.

    A device that joined a mesh still has the root key of the one that it was alone in before, which is not meant.
    """
    root = load_root(home)
    if root is None or (mesh is not None and mesh.root_key != root.public):
        raise NotAllowed(
            "This device does not have the root key of its mesh.", hint="Do it on the device that founded it."
        )
    if out.exists():
        raise BadRequest(f"{out} is there already.", hint="Choose another name.", param="file")
    content = seal_root(root, passphrase, seams.entropy)
    with writing(out.parent):
        out.touch(mode=0o600)
        out.write_bytes(content)
    return RootFile(str(out), to_text(mesh_id(root.public)), root.public.hex())


def restore_root(home: Path, file: Path, passphrase: str, mesh: Mesh | None) -> RootFile:
    """Take a root key out of its file into this home, whose mesh it must be the root of, if it has one with others.

    Raises BadRequest, NotAllowed (a wrong passphrase), WrongMesh, HomeUnusable.
    """
    try:
        content = file.read_bytes()[: FILE_BYTES_MAX + 1]
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.", param="file") from error
    sealed = read_sealed(content)
    if mesh is not None and mesh.root_key is not None and sealed.root != mesh.root_key.hex():
        raise WrongMesh(
            "This is the root key of another mesh than the one that this device is in.",
            hint="Join that mesh first, or restore the key into an empty --home.",
        )
    root = open_root(sealed, passphrase)
    save_root(home, root)
    return RootFile(str(file), to_text(mesh_id(root.public)), sealed.root)
