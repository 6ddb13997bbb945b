"""Numbers between two bounds as GBNF: what a grammar can say of `minimum` and `maximum`. Pure.

A range of digit strings of one length splits into at most 2 x 9 patterns of digit classes, such as 37 to 120
into 3[7-9], [4-9][0-9], 1[0-1][0-9] and 120.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

BOUND_MAX = 10**15 - 1  # beyond, a double no longer tells neighbours apart
DECIMALS_MAX = 6

Pattern = tuple[tuple[str, str], ...]  # for each place the lowest and the highest digit


class RangeError(ValueError):
    """No number lies between the bounds, or they cannot be written."""


def integers(low: Decimal | None, high: Decimal | None) -> str:
    """An expression for the whole numbers from `low` to `high`, both included; None is unbounded."""
    if low is None and high is None:
        return '"-"? ("0" | [1-9] [0-9]{0,14})'
    lowest, highest = _whole(low, high)
    if lowest > highest:
        raise RangeError("no whole number lies between its bounds")
    return _signed(lowest, highest, 0)


def numbers(low: Decimal | None, high: Decimal | None, *, above: bool = False, below: bool = False) -> str:
    """The numbers from `low` to `high`; `above` and `below` say that a bound itself is left out.

    Bounded ones are written whole, or with as many decimals as the bounds need, but at least two.
    """
    if low is None and high is None:
        return '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,6})?'
    places = max(2, *(_decimals(bound) for bound in (low, high) if bound is not None))
    step = Decimal(1).scaleb(-places)
    low = low + step if low is not None and above else low
    high = high - step if high is not None and below else high
    lowest, highest = _whole(low and low.scaleb(places), high and high.scaleb(places))
    if lowest > highest:
        raise RangeError(f"no number of {places} decimals lies between its bounds")
    whole = _whole(low, high)
    alternatives = [integers(low, high)] if whole[0] <= whole[1] else []
    return " | ".join([*alternatives, _signed(lowest, highest, places)])


def _whole(low: Decimal | None, high: Decimal | None) -> tuple[int, int]:
    lowest = -BOUND_MAX if low is None else int(low.to_integral_value(ROUND_CEILING))
    highest = BOUND_MAX if high is None else int(high.to_integral_value(ROUND_FLOOR))
    return max(lowest, -BOUND_MAX), min(highest, BOUND_MAX)


def _decimals(bound: Decimal) -> int:
    places = -int(bound.normalize().as_tuple().exponent)
    if places > DECIMALS_MAX:
        raise RangeError(f"its bounds have more than {DECIMALS_MAX} decimals")
    return max(places, 0)


def _signed(low: int, high: int, places: int) -> str:
    patterns: list[str] = []
    if low < 0:
        negative = _magnitudes(max(1, -high), -low, places)
        patterns.append(f'"-" ({" | ".join(negative)})')
    if high >= 0:
        patterns += _magnitudes(max(0, low), high, places)
    return " | ".join(patterns)


def _magnitudes(low: int, high: int, places: int) -> list[str]:
    """Whole numbers of hundredths (or whatever `places` says) without a sign, length by length."""
    found: list[Pattern] = []
    shortest = places + 1
    for length in range(max(shortest, len(str(low))), max(shortest, len(str(high))) + 1):
        least = 0 if length == shortest else 10 ** (length - 1)
        first, last = max(low, least), min(high, 10**length - 1)
        found += _between(f"{first:0{length}}", f"{last:0{length}}")
    return [_render(pattern, places) for pattern in found]


def _between(low: str, high: str) -> list[Pattern]:
    """Patterns for the digit strings from `low` to `high`, of one length."""
    rest = len(low) - 1
    full_low, full_high = low[1:] == "0" * rest, high[1:] == "9" * rest
    if full_low and full_high:
        return [((low[0], high[0]), *[("0", "9")] * rest)]
    if low[0] == high[0]:
        return [((low[0], low[0]), *pattern) for pattern in _between(low[1:], high[1:])]
    found: list[Pattern] = []
    first, last = int(low[0]), int(high[0])
    if not full_low:
        found += [((low[0], low[0]), *pattern) for pattern in _between(low[1:], "9" * rest)]
        first += 1
    if not full_high:
        found += [((high[0], high[0]), *pattern) for pattern in _between("0" * rest, high[1:])]
        last -= 1
    if first <= last:
        found.append(((str(first), str(last)), *[("0", "9")] * rest))
    return found


def _render(pattern: Pattern, places: int) -> str:
    point = len(pattern) - places
    parts = [f'"{low}"' if low == high else f"[{low}-{high}]" for low, high in pattern]
    return " ".join([*parts[:point], '"."', *parts[point:]] if places else parts)
