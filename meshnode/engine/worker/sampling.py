"""One sampler chain per run, kept in C: drawing a token of free text costs Python one call.

Where nothing is left to chance the likeliest token is the draw, and numpy finds it among 49,000 in 8 us; the
chain, which first makes a record of each, takes 130.

Where an answer is held to a grammar, the chain draws first and the grammar judges the one token: asking it
about the whole vocabulary takes 7 ms for 49,000 tokens and 40 ms for 262,000. If it says no, the chain
draws among the likeliest that it allows, and only if it allows none of those among all.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as c

from meshnode.engine.worker.calls import FORMS, Style, callable_tools
from meshnode.engine.worker.constraint import OUTPUT_PARAM, constrain
from meshnode.engine.worker.held import Candidates, Held, applied, apply, candidates
from meshnode.engine.worker.llama import Model
from meshnode.engine.worker.vocabulary import closing_tokens, plain_tokens, token_text
from meshnode.errors import BadRequest, EngineFailed
from meshnode.terms import Bias, Job, Likelihood, Sampling, TokenLogprob

PENALTY_WINDOW = 1024  # answer tokens that penalties look back on
RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's word for "any"
SEED_MAX = 0xFFFFFFFE
LIKELIEST = 256  # asked about first when the grammar refuses what was drawn
CHARS_PER_TOKEN = 2  # at the least, in JSON
MARGIN_TOKENS = 8


class Sampler:
    """The draws of one run. Penalties count the answer's own tokens, as OpenAI's do, not the prompt's.

    `limit` is the most tokens the answer may have; near it, a structured answer is brought to its end.
    Raises BadRequest for a bias of a token that is none, and for a schema or tools that cannot be held to.
    """

    def __init__(self, job: Job, model: Model, *, style: Style = Style.HERMES, limit: int = 0) -> None:
        self._model = model
        self._sampling = job.sampling
        self._constraint = constrain(job, style)
        self._row = ctypes.c_float * model.vocabulary
        self._written = 0
        self._tail = ""
        self._held: Held | None = None
        self.markers: Mapping[int, bytes] = _markers(model, style) if callable_tools(job) else {}
        self._urgent_at = _urgent_at(limit, self._constraint.shortest) if self._constraint else limit
        biases = _biases(job.sampling.logit_bias, model.vocabulary)
        if self._constraint and not self._constraint.opening:
            self._held = Held(model, self._constraint.text, OUTPUT_PARAM)
        self._chain = _chain(job.sampling, model.vocabulary, biases)
        self._likeliest_only = job.sampling.temperature <= 0 and not (len(biases) or _penalises(job.sampling))

    def draw(self, row: int) -> int:
        """The next token from the logits of a batch row; it is remembered. Raises EngineFailed."""
        if self._held is None:
            token = self._draw_free(row)
            self._watch(token)
        else:
            token = self._draw_held(self._held, self._logits(row))
            self._held.accept(token)
            c.llama_sampler_accept(self._chain, token)
        self._written += 1
        return token

    def replay(self, tokens: Sequence[int]) -> None:
        """Remember tokens that were written elsewhere as if they had been drawn here.

        Tokens of this model's vocabulary only. Raises BadRequest for those that break the schema.
        """
        for token in tokens:
            c.llama_sampler_accept(self._chain, token)
            if self._held is None:
                self._watch(token)
            elif not self._held.accept(token):
                raise BadRequest("the tokens to resume from break the answer's schema", param="resume")
        self._written += len(tokens)
        if self._sampling.seed is not None and self._sampling.temperature > 0:
            self._skip(len(tokens))

    def redraw(self, row: int, written: int) -> tuple[Candidates, int]:
        """Draw from the logits of a batch row where another token was written, which is remembered instead.

        The candidates that were left to draw from, and the place of the drawn one among them. Free text only.
        """
        logits = self._logits(row)
        among = candidates(np.arange(len(logits)), logits)
        drawn, left = applied(self._chain, among)
        c.llama_sampler_accept(self._chain, written)
        self._written += 1
        return among[:left], drawn

    def logprobs(self, row: int) -> Any:
        """The log-probability of every token in a batch row: no temperature, penalty, bias or grammar changes it."""
        logits = self._logits(row).astype(np.float64)
        highest = logits.max()
        return logits - (highest + np.log(np.exp(logits - highest).sum()))

    def likelihood(self, row: int, token: int) -> TokenLogprob | None:
        """How likely the model held a token drawn from a batch row; None when nobody asked."""
        if not self._sampling.logprobs:
            return None
        logprobs = self.logprobs(row)
        top: tuple[Likelihood, ...] = ()
        if wanted := min(self._sampling.top_logprobs, len(logprobs)):
            likeliest = np.argpartition(-logprobs, wanted - 1)[:wanted]
            ordered = sorted(likeliest.tolist(), key=lambda one: (-logprobs[one], one))
            top = tuple(Likelihood(token_text(self._model, one), float(logprobs[one])) for one in ordered)
        return TokenLogprob(token_text(self._model, token), float(logprobs[token]), top)

    def free(self) -> None:
        """Give the chain back; the sampler must not be used after."""
        c.llama_sampler_free(self._chain)
        if self._held is not None:
            self._held.free()
            self._held = None

    def _logits(self, row: int) -> Any:
        first = c.llama_get_logits_ith(self._model.handle, row)
        # As numpy's own view of a pointer, at a fifth of the price.
        found: Any = self._row.from_address(ctypes.addressof(first.contents))
        return np.frombuffer(found, np.float32)

    def _draw_free(self, row: int) -> int:
        if self._likeliest_only:
            return int(self._logits(row).argmax())
        return int(c.llama_sampler_sample(self._chain, self._model.handle, row))

    def _draw_held(self, held: Held, logits: Any) -> int:
        if self._urgent and (closer := held.first(closing_tokens(self._model))) is not None:
            return closer
        token = self._pick(candidates(np.arange(len(logits)), logits))
        if token is not None and held.allows(token):
            return token
        for ids in (_likeliest(logits), np.arange(len(logits))):
            token = self._pick(held.among(candidates(ids, logits[ids])))
            if token is not None:
                return token
        raise EngineFailed("the model's vocabulary cannot write what the schema asks for")

    @property
    def _urgent(self) -> bool:
        return self._written >= self._urgent_at

    def _pick(self, among: Candidates) -> int | None:
        if not len(among):
            return None
        return int(among["id"][apply(self._chain, among)])

    def _watch(self, token: int) -> None:
        """Put the grammar in force when the marker that opens a tool call has been written."""
        if self._constraint is None:
            return
        opening = self._constraint.opening
        piece = self._model.piece(token) or self.markers.get(token, b"")
        self._tail += piece.decode("utf-8", "replace")
        if opening == FORMS[Style.LLAMA].opening:  # no marker of its own, so a call is the whole answer
            found = 0 if self._tail.lstrip().startswith(opening) else -1
            self._tail = self._tail.lstrip()[: 2 * len(opening)] if found < 0 else self._tail.lstrip()
        else:
            found = self._tail.find(opening)
            self._tail = self._tail[-len(opening) :] if found < 0 else self._tail
        if found >= 0:
            self._hold(self._tail[found + len(opening) :])

    def _hold(self, begun: str) -> None:
        """Hold what follows to the grammar, if it allows what the marker's token brought along."""
        assert self._constraint is not None
        held = Held(self._model, self._constraint.text, "tools")
        self._tail = ""
        if all(held.accept(token) for token in plain_tokens(self._model, begun)):
            self._held = held
        else:
            held.free()

    def _skip(self, draws: int) -> None:
        """Draw for nothing, so that a seeded answer goes on with the numbers it would have had."""
        for _ in range(draws):
            apply(self._chain, candidates([0, 1], [0.0, 0.0]))


def _chain(sampling: Sampling, vocabulary: int, biases: Any) -> object:
    """The samplers in llama.cpp's own order."""
    chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
    for link in _links(sampling, vocabulary, biases):
        c.llama_sampler_chain_add(chain, link)
    return chain


def _links(sampling: Sampling, vocabulary: int, biases: Any) -> list[object]:
    links: list[object] = []
    if len(biases):
        links.append(c.llama_sampler_init_logit_bias(vocabulary, len(biases), biases))
    if _penalises(sampling):
        penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        links.append(c.llama_sampler_init_penalties(vocabulary, PENALTY_WINDOW, *penalties))
    if sampling.temperature <= 0:
        return [*links, c.llama_sampler_init_greedy()]
    if sampling.top_k > 0:
        links.append(c.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        links.append(c.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        links.append(c.llama_sampler_init_min_p(sampling.min_p, 1))
    links.append(c.llama_sampler_init_temp(sampling.temperature))
    seed = RANDOM_SEED if sampling.seed is None else sampling.seed % SEED_MAX
    return [*links, c.llama_sampler_init_dist(seed)]


def _penalises(sampling: Sampling) -> bool:
    return bool(
        sampling.presence_penalty or sampling.frequency_penalty or sampling.repeat_penalty not in (0.0, 1.0)
    )


def _biases(wanted: Sequence[Bias], vocabulary: int) -> Any:
    """As llama.cpp wants them. OpenAI's -100 forbids a token, which only an endless one surely does."""
    for bias in wanted:
        if bias.token >= vocabulary:
            raise BadRequest(
                f"logit_bias names token {bias.token}; the model has {vocabulary}", param="logit_bias"
            )
    array = (c.llama_logit_bias * len(wanted))()
    for place, bias in enumerate(wanted):
        array[place] = (bias.token, float("-inf") if bias.value <= -100 else bias.value)
    return array


def _likeliest(logits: Any) -> Any:
    """Which tokens are asked about first, in order of their numbers."""
    count = min(LIKELIEST, len(logits))
    return np.sort(np.argpartition(-logits, count - 1)[:count])


def _urgent_at(limit: int, shortest: int) -> int:
    """After how many tokens a structured answer is brought to its end: with a quarter of its limit left."""
    return limit - max(limit // 4, shortest // CHARS_PER_TOKEN + MARGIN_TOKENS)


def _markers(model: Model, style: Style) -> dict[int, bytes]:
    """Markers that are control tokens, which else have no text."""
    found: dict[int, bytes] = {}
    for text in (FORMS[style].opening, FORMS[style].closing):
        tokens = plain_tokens(model, text, special=True) if text else []
        if len(tokens) == 1 and not model.piece(tokens[0]):
            found[tokens[0]] = text.encode()
    return found
