"""A llama.cpp grammar in force: which tokens may come next, and taking one.

llama.cpp throws through the C interface, which ends the process, when a token is accepted that the grammar
rejects. So nothing is accepted here that was not asked for just before; its lazy grammars, which accept what
follows their trigger by themselves, are not used for the same reason.
"""

import codecs
import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as c

from meshnode.engine.worker.llama import Model
from meshnode.errors import BadRequest

Candidates = np.ndarray[Any, np.dtype[Any]]
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def candidates(ids: Any, logits: Any) -> Candidates:
    """llama.cpp's token data, one for each id."""
    made = np.zeros(len(ids), CANDIDATE)
    made["id"], made["logit"] = ids, logits
    return made


def apply(sampler: object, among: Candidates) -> int:
    """Let a sampler change the candidates in place; the index of the one it selected, or -1."""
    return applied(sampler, among)[0]


def applied(sampler: object, among: Candidates) -> tuple[int, int]:
    """As `apply`, with how many candidates it left: they are the first ones."""
    array = c.llama_token_data_array()
    array.data = ctypes.cast(among.ctypes.data, c.llama_token_data_p)
    array.size, array.selected, array.sorted = len(among), -1, False
    c.llama_sampler_apply(sampler, ctypes.byref(array))
    return int(array.selected), int(array.size)


class Held:
    """One answer's place in a grammar. Raises BadRequest when llama.cpp cannot read the grammar."""

    def __init__(self, model: Model, text: str, param: str) -> None:
        self._model = model
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._grammar = c.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if not self._grammar:
            raise BadRequest("llama.cpp cannot hold an answer to this JSON schema", param=param)

    def among(self, found: Candidates) -> Candidates:
        """Those candidates that may come next.

        Control tokens may not, since they have a text that nobody sees, nor bytes that make no character, which
        llama.cpp's own decoder lets pass.
        """
        kept = found.copy()
        apply(self._grammar, kept)
        kept = kept[np.isfinite(kept["logit"])]
        shown = [self._model.ends(token) or self._spells(token) for token in kept["id"].tolist()]
        return np.asarray(kept[shown])

    def allows(self, token: int) -> bool:
        """Whether this one may."""
        return len(self.among(candidates([token], [0.0]))) > 0

    def first(self, tokens: Iterable[int]) -> int | None:
        """The first of these that may."""
        asked = list(tokens)
        allowed = set(self.among(candidates(asked, [0.0] * len(asked)))["id"].tolist())
        return next((token for token in asked if token in allowed), None)

    def accept(self, token: int) -> bool:
        """Take a token; False, and nothing taken, if it may not come."""
        if not self.allows(token):
            return False
        c.llama_sampler_accept(self._grammar, token)
        self._decoder.decode(self._model.piece(token))
        return True

    def _spells(self, token: int) -> bool:
        piece = self._model.piece(token)
        before = self._decoder.getstate()
        if piece.isascii() and not before[0]:
            return bool(piece)
        try:
            self._decoder.decode(piece)
        except UnicodeDecodeError:
            return False
        finally:
            self._decoder.setstate(before)
        return bool(piece)

    def free(self) -> None:
        """Give the grammar back; it must not be used after."""
        c.llama_sampler_free(self._grammar)
