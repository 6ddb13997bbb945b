"""The verbs about trust: what the operator says of members, the root key, and who signed weights."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from meshnode import identity
from meshnode.cli import client
from meshnode.cli.complete import nodes_known
from meshnode.cli.render import Screen, day
from meshnode.cli.verb import verb
from meshnode.control.endorse import OFFERED, ROLES, EndorseArguments, Endorsed
from meshnode.control.renew import RenewArguments, Renewed
from meshnode.control.revoke import RevokeArguments, Revoked
from meshnode.control.root import RootFile, export_root, restore_root
from meshnode.control.roster import CURRENT, Row
from meshnode.control.trust import sign_weights, verify_weights
from meshnode.errors import BadRequest, NotAllowed, NotRunning
from meshnode.models.place import writing
from meshnode.models.store import ModelStore
from meshnode.seams import Seams, in_thread
from meshnode.state.store import STORE_FILE, open_store
from meshnode.trust.membership import Mesh
from meshnode.trust.recovery import PASSPHRASE_BYTES_MAX
from meshnode.trust.weights import to_json
from meshwire.signing import Signer

MODELS_DIRECTORY = "models"
SHORT = 8
FROM_FILE_HELP = "Read the passphrase from the first line of this file instead of asking for it."


class Restored(RootFile, frozen=True, kw_only=True):
    """What `restore-root` prints: the key's file, and whether the node is `running` and an issuer now."""

    running: bool


class Signed(msgspec.Struct, frozen=True):
    """What `sign-weights --out` prints: who signed, in hex, and where the manifest is."""

    signer: str
    manifest: str


@click.group()
def trust() -> None:
    """Say whom to trust with what: members and their devices, the mesh's root key, signed weights."""


@trust.command("list")
@verb
async def list_verb(screen: Screen, home: Path) -> None:
    """Show who belongs to the mesh, and how far each is trusted."""
    rows = await client.call(home, "trust_list", {}, tuple[Row, ...])
    for row in rows:
        screen.json(row)
    columns = ("NODE", "NAME", "STATE", "TRUST", "ROLES", "LABELS", "WEIGHTS", "SIGNED BY", "UNTIL")
    screen.table(columns, [_row(row) for row in rows])


@trust.command("endorse")
@click.argument("node", shell_complete=nodes_known)
@click.option(
    "--label", "labels", multiple=True, help="Give it this label, such as a residency: eu. Repeatable."
)
@click.option("--without", multiple=True, help="Take this label away. Repeatable.")
@click.option(
    "--role", "roles", multiple=True, type=click.Choice(ROLES), help="Give it this role; the root alone can."
)
@click.option(
    "--weights",
    multiple=True,
    default=(OFFERED,),
    show_default=True,
    help="With which weights it may do sensitive work: a SHA-256 (repeatable), offered, any or none.",
)
@verb
async def endorse_verb(
    screen: Screen,
    home: Path,
    *,
    node: str,
    labels: tuple[str, ...],
    without: tuple[str, ...],
    roles: tuple[str, ...],
    weights: tuple[str, ...],
) -> None:
    """Vouch for a member, so that sensitive work may go to it.

    NODE is its name, or how its id begins. It is endorsed for the weights that it offers now, unless --weights says
    otherwise; `--weights none` changes labels and roles alone. The root's key signs where it is, else this node, if
    it is an issuer with the role endorser.
    """
    wanted = EndorseArguments(node, labels, without, roles, weights)
    made = await client.call(home, "trust_endorse", msgspec.to_builtins(wanted), Endorsed)
    screen.json(made)
    screen.facts(
        {
            "node": f"{made.name} ({made.node[:SHORT]})",
            "trust": made.trust,
            "roles": ", ".join(made.roles),
            "labels": ", ".join(made.labels),
            "weights": ", ".join(digest[:SHORT] for digest in made.weights),
            "signed by": made.by,
            "until": day(made.until_ms),
        }
    )


@trust.command("revoke")
@click.argument("node", shell_complete=nodes_known)
@verb
async def revoke_verb(screen: Screen, home: Path, *, node: str) -> None:
    """Shut a device out for good: every node closes its links to it and no longer listens to what it says.

    NODE is its name, or how its id begins. A new ticket lets the device in again, as a new member.
    """
    gone = await client.call(home, "trust_revoke", msgspec.to_builtins(RevokeArguments(node)), Revoked)
    screen.json(gone)
    screen.line(f"{gone.name} ({gone.node[:SHORT]}) is out: {', '.join(gone.serials)}")
    if gone.others:
        screen.line(f"So are those whom only it had certified: {', '.join(gone.others)}. Invite them again.")


@trust.command("renew")
@click.argument("node", required=False, default="")
@verb
async def renew_verb(screen: Screen, home: Path, *, node: str) -> None:
    """Sign newer certificates now, for NODE or for all members that are there.

    Issuers do so by themselves from half of a certificate's life on.
    """
    made = await client.call(
        home, "trust_renew", msgspec.to_builtins(RenewArguments(node)), tuple[Renewed, ...]
    )
    for one in made:
        screen.json(one)
        screen.line(f"{one.name} ({one.node[:SHORT]}) until {day(one.until_ms)}")
    if not made:
        screen.line("There is nobody whose certificate this device may renew.")


@trust.command("export-root")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False), help=FROM_FILE_HELP)
@verb
async def export_verb(screen: Screen, home: Path, *, file: Path, passphrase_file: Path | None) -> None:
    """Seal the mesh's root key under a passphrase, into FILE, to be kept elsewhere.

    With it and the passphrase any other device can speak for the mesh, should this one be lost.
    """
    passphrase = await in_thread(lambda: _passphrase(passphrase_file, confirm=True))
    mesh = await _mesh(home)
    made = await in_thread(lambda: export_root(home, file, passphrase, mesh, Seams()))
    screen.json(made)
    screen.line(f"The root key of mesh {made.mesh} is sealed in {made.file}.")


@trust.command("restore-root")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False), help=FROM_FILE_HELP)
@verb
async def restore_verb(screen: Screen, home: Path, *, file: Path, passphrase_file: Path | None) -> None:
    """Take a root key out of FILE, made by `export-root`; this device then speaks for the mesh.

    It must be a member of that mesh, or have an empty home.
    """
    passphrase = await in_thread(lambda: _passphrase(passphrase_file, confirm=False))
    mesh = await _mesh(home)
    restored = await in_thread(lambda: restore_root(home, file, passphrase, mesh))
    running = await _claimed(home)
    screen.json(Restored(**msgspec.structs.asdict(restored), running=running))
    screen.line(f"This device has the root key of mesh {restored.mesh}.")
    screen.line("The node is an issuer now." if running else "A node that starts from here is an issuer.")


@trust.command("sign-weights")
@click.argument("model")
@click.option(
    "--key",
    type=click.Choice(("node", "root")),
    default="node",
    show_default=True,
    help="Which key signs: this node's, or that of the mesh it founded.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the manifest; otherwise it is printed.",
)
@verb
async def sign_verb(screen: Screen, home: Path, *, model: str, key: str, out: Path | None) -> None:
    """Vouch for a model's weights.

    MODEL is the name of a model on this device or the path of a GGUF file. The manifest that comes out goes with
    the file: `meshnode pull --manifest` takes the file only if it is just what was signed.
    """
    seams = Seams()
    signer = await in_thread(lambda: _signer(home, key, seams))
    store = ModelStore(home / MODELS_DIRECTORY)
    manifest = await in_thread(lambda: sign_weights(store, model, signer, seams.now_ms()))
    content = to_json(manifest)
    if out is None:
        screen.json(manifest)
        for line in content.decode().splitlines():
            screen.line(line)
        return
    await in_thread(lambda: _write(out, content))
    screen.json(Signed(manifest.signer, str(out)))
    screen.line(f"{manifest.files[0].name} is signed by {manifest.signer}: {out}")


@trust.command("verify-weights")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path), required=False)
@verb
async def verify_verb(screen: Screen, home: Path, *, manifest: Path, file: Path | None) -> None:
    """Check the signatures of a MANIFEST, and that a FILE is one of those it speaks of."""
    found = await in_thread(lambda: verify_weights(manifest, file))
    screen.json(found)
    screen.line(f"Signed by {found.signer}: {', '.join(found.files)}")
    if found.checked:
        screen.line(f"{found.checked} is what was signed.")


def _row(row: Row) -> tuple[str, ...]:
    shown = row.node[:SHORT] + (" (this)" if row.this else "")
    state = row.state if row.state != CURRENT or row.present else "away"
    by = row.by if row.by == "root" else row.by[:SHORT]
    weights = ", ".join(digest[:SHORT] for digest in row.weights)
    return (
        shown,
        row.name,
        state,
        row.trust,
        ", ".join(row.roles),
        ", ".join(row.labels),
        weights,
        by,
        day(row.until_ms),
    )


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    if file is None:
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.readline(PASSPHRASE_BYTES_MAX + 2).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{file} cannot be read: {error}.", param="passphrase-file") from error


async def _mesh(home: Path) -> Mesh | None:
    """The mesh that the home's node belongs to, whether it runs or not; nothing is made for the asking."""
    if not (home / STORE_FILE).is_file():
        return None
    store = await open_store(home, in_thread)
    try:
        return await store.mesh()
    finally:
        await store.aclose()


async def _claimed(home: Path) -> bool:
    """Whether a running node has taken the key up."""
    try:
        await client.call(home, "trust_claim", {}, dict[str, object])
    except NotRunning:
        return False
    return True


def _write(out: Path, content: bytes) -> None:
    with writing(out.parent):
        out.write_bytes(content)


def _signer(home: Path, key: str, seams: Seams) -> Signer:
    if key == "node":
        return identity.load_or_create(home, seams.entropy).signer
    if not (home / identity.ROOT_FILE).is_file():
        raise NotAllowed(
            "This device does not have the root key of its mesh.",
            hint="Sign on the device that founded it, or with --key node.",
        )
    return identity.load_or_create_root(home, seams.entropy)
