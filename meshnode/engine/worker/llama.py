"""llama.cpp's C interface, as little of it as the loop needs. It knows no runs and no frames.

Functions are those of llama-cpp-python 0.3.36's `llama_cpp.llama_cpp`. Not thread-safe: one thread calls.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as c

from meshnode.errors import EngineFailed

CONTEXT_AUTO_MAX = 8192  # tokens, when nobody says how many; the cache is allocated at once
CHUNK_TOKENS = 128  # of prompts, in one step: how long anybody's next token may have to wait for them
LONG_TOKENS = 512  # of prompts, in a step for which few answers wait
IDLE_SEQUENCES = 16  # beside one for each slot; measured: 64 cost neither memory nor speed
ABORTED = 2  # what `decode` says when it was interrupted
METADATA_MAX_CHARS = 200  # of one value; longer ones, token lists above all, are of no use here
TEMPLATE_KEY = b"tokenizer.chat_template"
LOG_LEVEL_WARN, LOG_LEVEL_ERROR = 3, 4  # ggml's


def _log(level: int, text: bytes, _user: object) -> None:
    if level in (LOG_LEVEL_WARN, LOG_LEVEL_ERROR):
        sys.stderr.write(text.decode("utf-8", "replace"))
        sys.stderr.flush()


# Asked for after each of a decode's 500 operations. A Python callback costs 1.5% of a decode; this one, which
# asks whether a string has a first character, nothing that can be measured.
_is_not_empty = ctypes.cast(
    (ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)).strlen, c.ggml_abort_callback
)

_log_callback = c.llama_log_callback(_log)  # kept here, because llama.cpp keeps only its address


class Model:
    """A model file in memory, with its vocabulary and one context.

    `context` 0 takes the model's own, at most CONTEXT_AUTO_MAX. `slots` runs compute at once, and the cache
    tells `sequences` apart. They share `cells` cells; a decode that needs more fails, so the caller counts.
    `divided` gives each slot as large a part of `context` for itself instead: a sequence's cells lie side by side
    then, and nobody looks at the cells of others; but only neighbours are computed in one go.
    `whole_only` is a model whose memory is a state rather than cells: a sequence of it can be continued at its
    end or dropped, and nothing else. `plain` computes without what only some processors have. Raises EngineFailed.
    """

    def __init__(
        self,
        path: str,
        *,
        slots: int,
        context: int,
        threads: int,
        on_progress: Callable[[float], None],
        plain: bool = False,
        divided: bool = False,
    ) -> None:
        c.llama_log_set(_log_callback, ctypes.c_void_p(0))
        c.llama_backend_init()
        self._model = _load(path, on_progress, plain)
        self.slots = slots
        self.divided = divided
        self.whole_only = bool(
            c.llama_model_is_recurrent(self._model) or c.llama_model_is_hybrid(self._model)
        )
        # A state takes its memory whether it is used or not, and so does a slot's part of a divided cache.
        self.sequences = slots if self.whole_only or divided else slots + IDLE_SEQUENCES
        self._window = int(c.llama_model_n_swa(self._model))
        self._context = self._open_context(context, threads)
        self.context = int(c.llama_n_ctx_seq(self._context))
        self.cells = int(c.llama_n_ctx(self._context))
        self._memory = c.llama_get_memory(self._context)
        self._vocab = c.llama_model_get_vocab(self._model)
        self.vocabulary = int(c.llama_vocab_n_tokens(self._vocab))
        self._batch = Batch(LONG_TOKENS + slots)
        self._pieces: dict[int, bytes] = {}
        self._buffer = ctypes.create_string_buffer(256)
        self._interrupt = ctypes.create_string_buffer(2)
        c.llama_set_abort_callback(
            self._context, _is_not_empty, ctypes.cast(self._interrupt, ctypes.c_void_p)
        )

    @property
    def handle(self) -> object:
        """The context, for a sampler to draw from."""
        return self._context

    @property
    def vocab(self) -> object:
        """The vocabulary, for a grammar to read tokens with."""
        return self._vocab

    @property
    def weights(self) -> object:
        """The weights, for another context."""
        return self._model

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return int(c.llama_model_n_params(self._model))

    @property
    def weights_bytes(self) -> int:
        """Their size."""
        return int(c.llama_model_size(self._model))

    def metadata(self) -> dict[str, str]:
        """The file's `general.*` facts, short ones only."""
        found: dict[str, str] = {}
        for index in range(c.llama_model_meta_count(self._model)):
            key = self._string(c.llama_model_meta_key_by_index, index)
            if key.startswith("general."):
                found[key] = self._string(c.llama_model_meta_val_str_by_index, index)
        return found

    def template(self) -> str:
        """The chat template in the file, or an empty string."""
        found = c.llama_model_chat_template(self._model, None)
        return found.decode("utf-8", "replace") if found else ""

    def special_text(self, kind: str) -> str:
        """The text of the `bos` or `eos` token; empty when the model has none."""
        token = {"bos": c.llama_vocab_bos, "eos": c.llama_vocab_eos}[kind](self._vocab)
        if token < 0:
            return ""
        return (c.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    def tokens(self, prompt: str) -> list[int]:
        """The prompt's tokens, special ones read as such; a BOS that the template wrote is not doubled."""
        text = prompt.encode()
        bos = self.special_text("bos")
        add_special = not (bos and prompt.startswith(bos))
        room = len(text) + 8
        array = (c.llama_token * room)()
        count = c.llama_tokenize(self._vocab, text, len(text), array, room, add_special, True)
        if count < 0:
            raise EngineFailed("llama.cpp could not tokenize the prompt")
        return list(array[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of one token; none for a control token."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token)
        return known

    def ends(self, token: int) -> bool:
        """Whether the model says with this token that its answer is complete."""
        return bool(c.llama_vocab_is_eog(self._vocab, token))

    def decode(self, batch: "Batch") -> int:
        """Compute a batch: 0 done, 1 no cells left, 2 interrupted, below 0 broken."""
        self._interrupt.value = b""
        return int(c.llama_decode(self._context, batch.struct))

    def interrupt(self) -> None:
        """End the decode that is going on, from another thread; it says ABORTED and may have left cells."""
        self._interrupt.value = b"!"

    def new_batch(self) -> "Batch":
        """The one batch there is, emptied."""
        self._batch.clear()
        return self._batch

    def drop(self, sequence: int) -> None:
        """Forget a sequence and free its cells."""
        c.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def cut(self, sequence: int, length: int) -> bool:
        """Forget a sequence's tokens from this position on. False when the model cannot do that."""
        return bool(c.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def copy(self, source: int, target: int, length: int) -> bool:
        """Let an empty sequence hold another's first tokens too: in the same cells, or in its own part's.

        False when that could not be done.
        """
        if not self.divided:
            c.llama_memory_seq_cp(self._memory, source, target, 0, length)
            return True
        # Between parts llama.cpp's own copy is made at the next decode: until then nobody could touch either.
        state = self.save(source)
        return state is not None and self.restore(target, state) and self.cut(target, length)

    def continues_at(self, sequence: int, length: int) -> bool:
        """Whether a sequence still has what the token at this position looks back on."""
        return length >= self.continues_from(sequence)

    def continues_from(self, sequence: int) -> int:
        """The least number of a sequence's first tokens that can be gone on from.

        With sliding-window attention cells that fell out of the window may have been used again.
        """
        first = c.llama_memory_seq_pos_min(self._memory, sequence) if self._window else 0
        if first < 0:
            return self.context
        return int(first and first + self._window - 1)

    def state_bytes(self, sequence: int) -> int:
        """How much `save` takes."""
        return int(c.llama_state_seq_get_size(self._context, sequence))

    def save(self, sequence: int) -> Any:
        """What a sequence has in the cache, as a buffer; None when llama.cpp cannot tell."""
        size = self.state_bytes(sequence)
        # Pages of its own, which go back to the system: in the heap, buffers of all sizes would leave holes.
        state = np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8, size)
        taken = c.llama_state_seq_get_data(self._context, _bytes_of(state), size, sequence)
        return state if taken == size else None

    def restore(self, sequence: int, state: Any) -> bool:
        """Put what was saved into an empty sequence. False when llama.cpp does not take it."""
        return bool(c.llama_state_seq_set_data(self._context, _bytes_of(state), len(state), sequence))

    def occupied(self) -> int:
        """How many sequences have anything in the cache, by llama.cpp's own word."""
        found = [c.llama_memory_seq_pos_max(self._memory, each) >= 0 for each in range(self.sequences)]
        return sum(found)

    def set_threads(self, count: int) -> None:
        """Compute with this many threads from the next decode on."""
        c.llama_set_n_threads(self._context, count, count)

    def _open_context(self, context: int, threads: int) -> object:
        parts = self.slots if self.divided else 1
        params = c.llama_context_default_params()
        params.n_ctx = _fitting_context(c.llama_model_n_ctx_train(self._model) * parts, context)
        params.n_batch = params.n_ubatch = LONG_TOKENS + self.slots
        params.n_seq_max = self.sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = not self.divided
        params.no_perf = True
        opened = c.llama_init_from_model(self._model, params)
        if not opened:
            raise EngineFailed(
                f"there is not enough memory for a context of {params.n_ctx} tokens",
                hint="Set a smaller `context` or `slot_context`, or take a smaller model.",
            )
        return opened

    def _read_piece(self, token: int) -> bytes:
        length = c.llama_token_to_piece(self._vocab, token, self._buffer, len(self._buffer), 0, False)
        if length < 0:
            self._buffer = ctypes.create_string_buffer(-length)
            return self._read_piece(token)
        return self._buffer.raw[:length]

    def _string(self, read: Callable[..., int], index: int) -> str:
        buffer = ctypes.create_string_buffer(METADATA_MAX_CHARS)
        read(self._model, index, buffer, METADATA_MAX_CHARS)
        return buffer.value.decode("utf-8", "replace")


class Batch:
    """Tokens for one decode. A row whose logits are wanted can be drawn from afterwards."""

    def __init__(self, room: int) -> None:
        self.struct: Any = c.llama_batch_init(room, 0, 1)
        self._tokens, self._positions = self.struct.token, self.struct.pos
        self._sequences, self._logits = self.struct.seq_id, self.struct.logits
        self._count = 0
        for row in range(room):
            self.struct.n_seq_id[row] = 1

    def clear(self) -> None:
        """Take every token out."""
        self._count = self.struct.n_tokens = 0

    def __len__(self) -> int:
        return self._count

    def add(self, sequence: int, position: int, tokens: Sequence[int], *, last_logits: bool) -> int:
        """Append one sequence's next tokens; the row of the last of them."""
        for row, token in enumerate(tokens, self._count):
            self._tokens[row] = token
            self._positions[row] = position + row - self._count
            self._sequences[row][0] = sequence
            self._logits[row] = 0
        self._count += len(tokens)
        self._logits[self._count - 1] = last_logits
        self.struct.n_tokens = self._count
        return self._count - 1


def _bytes_of(array: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _fitting_context(trained: int, wanted: int) -> int:
    if wanted:
        return min(wanted, trained)
    return min(trained, CONTEXT_AUTO_MAX)


def _load(path: str, on_progress: Callable[[float], None], plain: bool) -> object:
    def progress(done: float, _user: object) -> bool:
        on_progress(done)
        return True

    params = c.llama_model_default_params()
    callback = c.llama_progress_callback(progress)
    params.progress_callback = callback
    params.use_extra_bufts = not plain  # weights in the order that special instructions want
    model = c.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise EngineFailed(
            f"llama.cpp cannot load {path}",
            hint="The file may be damaged, or of a kind that this llama.cpp does not know; see the log.",
        )
    return model
