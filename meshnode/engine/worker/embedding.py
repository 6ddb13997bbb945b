"""Texts as vectors: a second context over the same weights, opened when the first is asked for.

Every model can: one made for it says in its file how its states become one vector, and a chat model's are
averaged. Not thread-safe: one thread calls.
"""

import ctypes

import numpy as np
from llama_cpp import llama_cpp as c

from meshnode.engine.worker.llama import Model
from meshnode.errors import BadRequest, ContextExceeded, EngineFailed

INPUT_MAX_TOKENS = 2048  # all of an input is computed in one step, whose buffers grow with it


class Embedder:
    """The vectors of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._context: object = None
        self.longest = min(INPUT_MAX_TOKENS, int(c.llama_model_n_ctx_train(model.weights)))
        self._dimensions = int(c.llama_model_n_embd(model.weights))

    def embed(self, tokens: list[int]) -> bytes:
        """The vector of one input, of unit length, as little-endian 32-bit floats.

        Raises ContextExceeded for one that is too long, BadRequest for an empty one, EngineFailed.
        """
        if not tokens:
            raise BadRequest("an input is empty", param="input")
        if len(tokens) > self.longest:
            raise ContextExceeded(
                f"an input is {len(tokens)} tokens; at most {self.longest} make one vector",
                hint="Split it, and embed the parts.",
                param="input",
            )
        if self._context is None:
            self._context = self._open()
        return self._compute(tokens)

    def _compute(self, tokens: list[int]) -> bytes:
        if memory := c.llama_get_memory(self._context):
            c.llama_memory_clear(memory, True)
        array = (c.llama_token * len(tokens))(*tokens)
        batch = c.llama_batch_get_one(array, len(tokens))
        batch.logits = (ctypes.c_int8 * len(tokens))(*[1] * len(tokens))
        status = c.llama_decode(self._context, batch)
        found = c.llama_get_embeddings_seq(self._context, 0)
        if status or not found:
            raise EngineFailed(f"llama.cpp cannot make a vector with this model (llama_decode: {status})")
        states = np.ctypeslib.as_array(found, (self._dimensions,)).astype(np.float64)
        length = float(np.linalg.norm(states))
        if not np.isfinite(length) or not length:
            raise EngineFailed("the model's vector has no length")
        return (states / length).astype("<f4").tobytes()

    def _open(self) -> object:
        """A context that pools as the file says, or takes the mean."""
        context = self._context_with(c.LLAMA_POOLING_TYPE_UNSPECIFIED)
        if c.llama_pooling_type(context) in (c.LLAMA_POOLING_TYPE_NONE, c.LLAMA_POOLING_TYPE_RANK):
            c.llama_free(context)
            context = self._context_with(c.LLAMA_POOLING_TYPE_MEAN)
        return context

    def _context_with(self, pooling: int) -> object:
        params = c.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self.longest
        params.n_seq_max = 1
        params.embeddings = True
        params.pooling_type = pooling
        params.n_threads = params.n_threads_batch = c.llama_n_threads(self._model.handle)
        params.no_perf = True
        context = c.llama_init_from_model(self._model.weights, params)
        if not context:
            raise EngineFailed("there is not enough memory for a context that makes vectors")
        return context
