"""Reads a GGUF file's header without trusting it, before llama.cpp ever opens the file.

Every count and length is checked against a bound and against the file's own size, and every tensor must lie
inside the file, so a truncated or forged file is told apart here, in memory-safe code. Format: GGUF versions
2 and 3, little-endian. It knows no store and no network.
"""

import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
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
HEADER_MAX_BYTES = 64 << 20
DIMENSIONS_MAX = 4
DIMENSION_MAX = 1 << 40
PARAMETERS_MAX = 1 << 50
KEPT_ARRAY_MAX = 512  # per-layer figures are kept, vocabularies are not
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
_WHOLE = ("<B", "<b", "<H", "<h", "<I", "<i", "<Q", "<q")
# ggml's tensor types: name, elements and bytes of one block. Another type is checked by its start only.
_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}


class TensorUse(NamedTuple):
    """What all tensors of one type add up to."""

    tensors: int = 0
    elements: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    `facts` are its short `general.*` facts as text; `numbers` its whole-number metadata by full key; `layers`
    the metadata that has one number a layer; `lengths` the lengths of its longer arrays; `types` what its
    tensors add up to by type, such as `Q4_K`. A figure that the file does not state is 0.
    """

    version: int
    tensors: int
    facts: Mapping[str, str]
    numbers: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    types: Mapping[str, TensorUse] = field(default_factory=dict)
    has_template: bool = False

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model's design, such as `llama` or `gemma3`."""
        return self.facts.get("general.architecture", "")

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        return sum(use.elements for use in self.types.values())

    @property
    def weights_bytes(self) -> int:
        """What the weights take, in the file and in memory."""
        return sum(use.size_bytes for use in self.types.values())

    @property
    def bits_per_weight(self) -> float:
        """What one weight takes on average; 0 when there are none, or some are of a type not known here."""
        if "unknown" in self.types or not self.parameters:
            return 0.0
        return self.weights_bytes * 8 / self.parameters

    @property
    def file_type(self) -> int | None:
        """llama.cpp's `llama_ftype` number, the publisher's word for the quantisation."""
        return self.numbers.get("general.file_type")

    @property
    def context_length(self) -> int:
        """The context it was trained for, in tokens."""
        return self._own("context_length")

    @property
    def block_count(self) -> int:
        """How many layers."""
        return self._own("block_count")

    @property
    def embedding_length(self) -> int:
        """How wide a token's vector is."""
        return self._own("embedding_length")

    @property
    def head_count(self) -> int:
        """Attention heads; of the layer with the most where layers differ."""
        return self._own("attention.head_count")

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """Heads whose keys and values are kept, one number a layer (0: the layer keeps none)."""
        key = f"{self.architecture}.attention.head_count_kv"
        alike = (self.numbers.get(key, self.head_count),) * min(self.block_count, KEPT_ARRAY_MAX)
        return self.layers.get(key, alike)

    @property
    def key_length(self) -> int:
        """Elements in one head's key."""
        stated = self._own("attention.key_length")
        return stated or (self.embedding_length // self.head_count if self.head_count else 0)

    @property
    def value_length(self) -> int:
        """Elements in one head's value."""
        stated = self._own("attention.value_length")
        return stated or (self.embedding_length // self.head_count if self.head_count else 0)

    @property
    def sliding_window(self) -> int:
        """How many tokens back the layers with a window look; 0 when none has one."""
        return self._own("attention.sliding_window")

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return self.lengths.get("tokenizer.ggml.tokens", 0)

    @property
    def pooling(self) -> str:
        """How an embedding model makes one vector of many: none, mean, cls, last, rank; empty if unstated."""
        number = self.numbers.get(f"{self.architecture}.pooling_type")
        return "" if number is None else _POOLING.get(number, "")

    def _own(self, key: str) -> int:
        """A figure of this architecture; the largest where it differs by layer."""
        full = f"{self.architecture}.{key}"
        return self.numbers.get(full) or max(self.layers.get(full, ()), default=0)


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
        self._lengths: dict[str, int] = {}

    def header(self) -> Header:
        if self._file.read(4) != MAGIC:
            raise self._invalid("is not a GGUF model file")
        version = self._number("<I")
        if version not in VERSIONS:
            raise self._invalid(f"is of GGUF version {version}; versions 2 and 3 can be read")
        tensors = self._count("<Q", TENSORS_MAX, "tensors")
        entries = self._count("<Q", METADATA_MAX, "metadata entries")
        found = dict(self._entry() for _ in range(entries))
        types = self._tensors(tensors, found)
        return Header(
            version=version,
            tensors=tensors,
            facts={key: str(value) for key, value in found.items() if _is_general(key, value)},
            numbers={key: value for key, value in found.items() if type(value) is int},
            layers={key: value for key, value in found.items() if isinstance(value, tuple)},
            lengths=self._lengths,
            types=types,
            has_template=bool(found.get("tokenizer.chat_template")),
        )

    def _entry(self) -> tuple[str, object]:
        if self._file.tell() > HEADER_MAX_BYTES:
            raise self._invalid(f"has a header of more than {HEADER_MAX_BYTES >> 20} MiB")
        key = self._string(KEY_MAX_BYTES)
        return key, self._value(key, self._number("<I"))

    def _value(self, key: str, kind: int) -> object:
        """A metadata value; long arrays are only stepped over, and their length is kept."""
        if kind == _STRING:
            return self._string(STRING_MAX_BYTES)
        if kind == _ARRAY:
            return self._array(key)
        return self._number(self._scalar(kind))

    def _array(self, key: str) -> tuple[int, ...] | None:
        kind = self._number("<I")
        count = self._count("<Q", ARRAY_MAX, "array elements")
        self._lengths[key] = count
        if kind == _STRING:
            self._skip_strings(count)
            return None
        form = self._scalar(kind)
        if count > KEPT_ARRAY_MAX or form not in _WHOLE:
            self._skip(count * struct.calcsize(form))
            return None
        return struct.unpack(f"<{count}{form[1]}", self._read(count * struct.calcsize(form)))

    def _skip_strings(self, count: int) -> None:
        """Step over strings; a vocabulary has hundreds of thousands, so this loop does little."""
        read, seek, unpack = self._file.read, self._file.seek, struct.Struct("<Q").unpack
        for _ in range(count):
            found = read(8)
            if len(found) < 8 or (length := unpack(found)[0]) > STRING_MAX_BYTES:
                raise self._truncated()
            seek(length, os.SEEK_CUR)
        self._skip(0)

    def _tensors(self, count: int, facts: dict[str, object]) -> dict[str, TensorUse]:
        """Check that every tensor lies in the file; what they add up to by type."""
        tensors, elements, sizes = Counter[str](), Counter[str](), Counter[str]()
        last = 0
        for _ in range(count):
            name, number, size, end = self._tensor()
            last = max(last, end)
            tensors[name] += 1
            elements[name] += number
            sizes[name] += size
        self._check_end(last, facts.get("general.alignment", DEFAULT_ALIGNMENT))
        if elements.total() > PARAMETERS_MAX:
            raise self._invalid("claims an impossible number of weights")
        return {name: TensorUse(tensors[name], elements[name], sizes[name]) for name in sorted(tensors)}

    def _check_end(self, last: int, alignment: object) -> None:
        if not isinstance(alignment, int) or not 0 < alignment <= ALIGNMENT_MAX:
            raise self._invalid("has an impossible alignment")
        start = -(-self._file.tell() // alignment) * alignment
        if start + last > self._size:
            raise self._truncated()

    def _tensor(self) -> tuple[str, int, int, int]:
        """A tensor's type, elements and bytes, and where it ends, counted from the start of all tensors."""
        self._string(NAME_MAX_BYTES)
        dimensions = self._count("<I", DIMENSIONS_MAX, "dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= self._count("<Q", DIMENSION_MAX, "elements")
        name, per_block, block_bytes = _TYPES.get(self._number("<I"), ("unknown", 1, 0))
        offset = self._count("<Q", self._size, "bytes before a tensor")
        size = elements // per_block * block_bytes
        return name, elements, size, offset + size

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


def _is_general(key: str, value: object) -> bool:
    return key.startswith("general.") and value is not None and value != "" and not isinstance(value, tuple)
