"""The first words of two ends: versions and mesh. Compared before the handshake, and bound in it then."""

from collections.abc import Iterable

from meshnode.errors import WrongMesh, WrongProtocol
from meshnode.net.base import Hello
from meshwire.ids import to_text

VERSIONS_MAX = 8
MESH_BYTES = 16
UNKNOWN = "-"


def agree(ours: Hello, theirs: Hello, remote: str) -> Hello:
    """What both ends say, in our order of preference; the mesh is theirs.

    Raises WrongProtocol without a common version, WrongMesh if both name a mesh and not the same one.
    """
    common = tuple(version for version in ours.versions if version in theirs.versions)
    if not common:
        raise WrongProtocol(
            f"{remote} speaks other versions of the protocol ({_list(theirs.versions)}) than this node"
            f" ({_list(ours.versions)}).",
            hint="Update meshnode on the older of the two devices.",
        )
    if ours.mesh and theirs.mesh and ours.mesh != theirs.mesh:
        raise WrongMesh(
            f"{remote} belongs to another mesh ({to_text(theirs.mesh)}).",
            hint="Join it with a ticket made by `meshnode invite` on one of its devices.",
        )
    return Hello(common, theirs.mesh)


def to_header(hello: Hello) -> bytes:
    """As the value of an `x-meshnode` header: `<versions>; <mesh id in hex>`, with - for a mesh not known."""
    return f"{_list(hello.versions)}; {hello.mesh.hex() or UNKNOWN}".encode()


def from_header(value: bytes) -> Hello | None:
    """The hello that `to_header` wrote, None if it is none."""
    try:
        versions, mesh = value.decode("ascii").split(";")
        mesh_id = b"" if mesh.strip() == UNKNOWN else bytes.fromhex(mesh)
        hello = Hello(tuple(int(version) for version in versions.split(",")), mesh_id)
    except ValueError:
        return None
    fits = len(hello.versions) <= VERSIONS_MAX and len(hello.mesh) in (0, MESH_BYTES)
    return hello if fits else None


def _list(versions: Iterable[int]) -> str:
    return ", ".join(str(version) for version in versions)
