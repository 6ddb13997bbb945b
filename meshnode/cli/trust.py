"""The verbs about trust: signing weights, and checking who signed them. They need no running node."""

from __future__ import annotations

from pathlib import Path

import click

from meshnode import identity
from meshnode.cli.render import Screen
from meshnode.cli.verb import verb
from meshnode.control.trust import sign_weights, verify_weights
from meshnode.errors import NotAllowed
from meshnode.models.place import writing
from meshnode.models.store import ModelStore
from meshnode.seams import Seams, in_thread
from meshnode.trust.weights import to_json
from meshwire.signing import Signer

MODELS_DIRECTORY = "models"


@click.group()
def trust() -> None:
    """Sign model weights, and check who signed them."""


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
    screen.json({"signer": manifest.signer, "manifest": str(out)})
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
