"""One sampler chain per run, kept in C: drawing a token costs Python one call."""

from llama_cpp import llama_cpp as c

from meshnode.terms import Sampling

PENALTY_WINDOW = 1024  # answer tokens that penalties look back on
RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's word for "any"
SEED_MAX = 0xFFFFFFFE


class Sampler:
    """The chain of one run. Penalties count the answer's own tokens, as OpenAI's do, not the prompt's."""

    def __init__(self, sampling: Sampling, vocabulary: int) -> None:
        self._chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        if _penalises(sampling):
            self._add(
                c.llama_sampler_init_penalties(
                    vocabulary,
                    PENALTY_WINDOW,
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
        if sampling.temperature <= 0:
            self._add(c.llama_sampler_init_greedy())
        else:
            self._add_draw(sampling)

    def draw(self, context: object, row: int) -> int:
        """The next token from the logits of a batch row; the chain remembers it."""
        return int(c.llama_sampler_sample(self._chain, context, row))

    def free(self) -> None:
        """Give the chain back; the sampler must not be used after."""
        c.llama_sampler_free(self._chain)

    def _add_draw(self, sampling: Sampling) -> None:
        if sampling.top_k > 0:
            self._add(c.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            self._add(c.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            self._add(c.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(c.llama_sampler_init_temp(sampling.temperature))
        seed = RANDOM_SEED if sampling.seed is None else sampling.seed % SEED_MAX
        self._add(c.llama_sampler_init_dist(seed))

    def _add(self, link: object) -> None:
        c.llama_sampler_chain_add(self._chain, link)


def _penalises(sampling: Sampling) -> bool:
    return bool(
        sampling.presence_penalty or sampling.frequency_penalty or sampling.repeat_penalty not in (0.0, 1.0)
    )
