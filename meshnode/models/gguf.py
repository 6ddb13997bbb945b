"""Reads a GGUF file's header without trusting it, before llama.cpp ever opens the file.

Every count and length is checked against a bound and against the file's own size, and every tensor must lie
inside the file, so a truncated or forged file is told apart here, in memory-safe code. Format: GGUF versions
2 and 3, little-endian. It knows no store and no network.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from meshnode.errors import ModelFileInvalid

MAGIC = b"GGUF"
VERSIONS = (2, 3)
METADATA_MAX = 4096
TENSORS_MAX = 65_536
KEY_MAX_BYTES = 256
NAME_MAX_BYTES = 256
STRING_MAX_BYTES = 4 << 20
ARRAY_MAX = 4 << 20  # elements
HEADER_MAX_BYTES = 256 << 20
DIMENSIONS_MAX = 4
DIMENSION_MAX = 1 << 40
ALIGNMENT_MAX = 1 << 16
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
# ggml's tensor types: elements and bytes of one block. A type that is not here is checked by its start only.
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    20: (32, 18),
    23: (256, 136),
    30: (1, 2),
}


class Header(NamedTuple):
    """What a file says of itself: its short `general.*` facts as text, and how many tensors it has."""

    version: int
    tensors: int
    facts: dict[str, str]


def read_header(path: Path) -> Header:
    """Check a model file's header. Raises ModelFileInvalid, which says what is wrong and what to do."""
    try:
        with path.open("rb") as file:
            return _Reader(file, path).header()
    except OSError as error:
        raise ModelFileInvalid(f"{path} cannot be read: {error.strerror}") from error


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = os.fstat(file.fileno()).st_size

    def header(self) -> Header:
        if self._file.read(4) != MAGIC:
            raise self._invalid("is not a GGUF model file")
        version = self._number("<I")
        if version not in VERSIONS:
            raise self._invalid(f"is of GGUF version {version}; versions 2 and 3 can be read")
        tensors = self._count("<Q", TENSORS_MAX, "tensors")
        entries = self._count("<Q", METADATA_MAX, "metadata entries")
        facts = dict(self._entry() for _ in range(entries))
        self._check_tensors(tensors, facts)
        known = {
            key: str(value) for key, value in facts.items() if key.startswith("general.") and value != ""
        }
        return Header(version, tensors, known)

    def _entry(self) -> tuple[str, object]:
        key = self._string(KEY_MAX_BYTES)
        return key, self._value(self._number("<I"))

    def _value(self, kind: int) -> object:
        """A metadata value; arrays, which may be huge, are only stepped over."""
        if kind == _STRING:
            return self._string(STRING_MAX_BYTES)
        if kind == _ARRAY:
            self._skip_array()
            return ""
        return self._number(self._scalar(kind))

    def _skip_array(self) -> None:
        kind = self._number("<I")
        count = self._count("<Q", ARRAY_MAX, "array elements")
        if kind != _STRING:
            self._skip(count * struct.calcsize(self._scalar(kind)))
            return
        for _ in range(count):
            self._skip(self._count("<Q", STRING_MAX_BYTES, "bytes of a string"))

    def _check_tensors(self, count: int, facts: dict[str, object]) -> None:
        ends = [self._tensor_end() for _ in range(count)]
        alignment = facts.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= ALIGNMENT_MAX:
            raise self._invalid("has an impossible alignment")
        start = -(-self._file.tell() // alignment) * alignment
        if start + max(ends, default=0) > self._size:
            raise self._truncated()

    def _tensor_end(self) -> int:
        """Where a tensor's bytes end, counted from the start of all tensors."""
        self._string(NAME_MAX_BYTES)
        dimensions = self._count("<I", DIMENSIONS_MAX, "dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= self._count("<Q", DIMENSION_MAX, "elements")
        per_block, block_bytes = _BLOCKS.get(self._number("<I"), (1, 0))
        offset = self._count("<Q", self._size, "bytes before a tensor")
        return offset + elements // per_block * block_bytes

    def _string(self, most: int) -> str:
        length = self._count("<Q", most, "bytes of a string")
        return self._read(length).decode("utf-8", "replace")

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._invalid(f"has a value of the unknown kind {kind}")
        return _SCALARS[kind]

    def _count(self, form: str, most: int, what: str) -> int:
        count = self._number(form)
        if count > most:
            raise self._invalid(f"claims {count} {what}; at most {most} are allowed")
        return count

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._read(struct.calcsize(form)))[0]
        return value

    def _read(self, count: int) -> bytes:
        found = self._file.read(count)
        if len(found) < count:
            raise self._truncated()
        return found

    def _skip(self, count: int) -> None:
        end = self._file.tell() + count
        if end > min(self._size, HEADER_MAX_BYTES):
            raise self._truncated()
        self._file.seek(end)

    def _truncated(self) -> ModelFileInvalid:
        return self._invalid(f"is incomplete: it has {self._size} bytes and should have more")

    def _invalid(self, what: str) -> ModelFileInvalid:
        return ModelFileInvalid(f"{self._path} {what}.", hint="Fetch the file again.")
