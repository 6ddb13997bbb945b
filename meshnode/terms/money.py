"""Prices, sums, and what a commercial API may do for a request. Plain data; where sums are kept it does not know."""

import math
from typing import Annotated

import msgspec
from msgspec import Meta

USD_MAX = 1e6
NUSD = 10**9  # sums are whole nano-dollars: adding them up loses nothing
NUSD_PER_TOKEN = 1000  # of a price of one USD for a million tokens
Usd = Annotated[float, Meta(ge=0, le=USD_MAX)]


class Price(msgspec.Struct, frozen=True):
    """What a model costs, in USD for a million tokens read and a million written."""

    input_usd: Usd
    output_usd: Usd

    def cost_nusd(self, prompt_tokens: int, answer_tokens: int) -> int:
        """The nano-dollars for so many tokens, rounded up."""
        return math.ceil((prompt_tokens * self.input_usd + answer_tokens * self.output_usd) * NUSD_PER_TOKEN)


class CloudOffer(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a candidate one of the cloud: which API, under which price, and what stands in the way.

    `model` is the API's own name for it. `most_usd` is the most that this very request can cost; `request_usd`
    what the owner allows one request, `left_usd` what is left of the month's budget.
    """

    api: str
    model: str
    price: Price
    privacy: tuple[str, ...]
    most_usd: float
    request_usd: float
    left_usd: float


class Spending(msgspec.Struct, frozen=True):
    """What a month (such as 202611) has cost at one API, in nano-dollars.

    `known` was counted by the API itself; `assumed` is the most that requests can have cost whose end nobody
    here saw; `open` is held for those under way.
    """

    month: int
    known: int = 0
    assumed: int = 0
    open: int = 0
    requests: int = 0

    @property
    def total(self) -> int:
        """All that counts as spent."""
        return self.known + self.assumed + self.open
