"""What an answer costs by what those who served it ask, each for the tokens that it wrote. It pays nobody."""

import math

from meshnode.terms import Candidate, Usage
from meshnode.terms.money import NUSD_PER_TOKEN


class Bill:
    """The sum for one answer, of which so many tokens were written before it was asked for."""

    def __init__(self, written: int = 0) -> None:
        self._written = written  # tokens that are paid for, or were there from the start
        self._nusd = 0
        self._candidate: Candidate | None = None

    def goes_to(self, candidate: Candidate, written: int) -> None:
        """Whoever served until now has brought the answer to so many tokens; from here on this one serves."""
        self._nusd += self._for(written - self._written)
        self._written, self._candidate = max(self._written, written), candidate

    def total_nusd(self, usage: Usage) -> int:
        """What all of it costs in nano-dollars, by what the engine has counted at its end."""
        cloud = self._candidate.cloud if self._candidate is not None else None
        if cloud is not None:
            return self._nusd + cloud.price.cost_nusd(usage.prompt_tokens, usage.completion_tokens)
        return self._nusd + self._for(usage.completion_tokens - self._written)

    def _for(self, tokens: int) -> int:
        """So many tokens by who serves now, rounded up."""
        if self._candidate is None or tokens <= 0:
            return 0
        return math.ceil(tokens * self._candidate.price_usd * NUSD_PER_TOKEN)
