"""Hours of the week, as a person writes them: `22:00-07:00`, `Mon-Fri 18:00-08:00`, `Sat,Sun`. Pure."""

import re

import msgspec

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
EXAMPLE = "Such as 22:00-07:00, or Mon-Fri 18:00-08:00, or Sat,Sun."

_TIMES = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")


class Hours(msgspec.Struct, frozen=True):
    """From minute `begin` to before minute `end` on each of `days` (0 is Monday).

    Where `end` is not later they go on past midnight.
    """

    days: tuple[int, ...]
    begin: int
    end: int

    def hold(self, weekday: int, minute: int) -> bool:
        """Whether a moment lies in them. The part after midnight belongs to the day on which they began."""
        if self.begin < self.end:
            return weekday in self.days and self.begin <= minute < self.end
        before = (weekday - 1) % len(DAYS)
        return (weekday in self.days and minute >= self.begin) or (before in self.days and minute < self.end)


def parse_hours(text: str) -> Hours:
    """Read days, times, or both; raises ValueError that says what is wrong."""
    words = text.split()
    days, times = tuple(range(len(DAYS))), (0, DAY_MINUTES)
    if not 1 <= len(words) <= 2:
        raise ValueError(f"{text!r} is not days, times, or both")
    if len(words) == 2 or not _TIMES.fullmatch(words[0]):
        days = _days(words.pop(0))
    if words:
        times = _times(words[0])
    return Hours(days, *times)


def _days(text: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        begin, end = _day(first), _day(last or first)
        found |= {(begin + step) % len(DAYS) for step in range((end - begin) % len(DAYS) + 1)}
    return tuple(sorted(found))


def _day(word: str) -> int:
    if word[:3] not in DAYS:
        raise ValueError(f"{word!r} is no day of the week")
    return DAYS.index(word[:3])


def _times(text: str) -> tuple[int, int]:
    match = _TIMES.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no pair of times")
    hours = [int(part) for part in match.groups()]
    begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if max(hours[1], hours[3]) >= 60 or max(begin, end) > DAY_MINUTES or begin == DAY_MINUTES:
        raise ValueError(f"{text!r} is no pair of times")
    if begin == end:
        raise ValueError(f"{text!r} is no time at all")
    return begin, end
