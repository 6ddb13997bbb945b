"""Places that this node keeps, for a moment, for those who asked how it is before they send a request.

One for each origin and model, and a bounded number of them; the owner's own work takes no notice of them.
"""

from dataclasses import dataclass

from meshwire.limits import PLACES_TOTAL


@dataclass(frozen=True, slots=True)
class Place:
    """Kept until then (trio's time), for a request of so many tokens."""

    until: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept for others: requests and their tokens."""

    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


class Places:
    """All that are kept now, by origin and weights digest."""

    def __init__(self) -> None:
        self._places: dict[tuple[bytes, bytes], Place] = {}

    def keep(self, origin: bytes, digest: bytes, place: Place, now: float) -> bool:
        """Keep a place, instead of any that the origin has for this model; False where there are too many."""
        self._forget(now)
        self._places.pop((origin, digest), None)
        if len(self._places) >= PLACES_TOTAL:
            return False
        self._places[origin, digest] = place
        return True

    def free(self, origin: bytes, digest: bytes, place: Place) -> None:
        """This one is wanted no longer."""
        if self._places.get((origin, digest)) is place:
            del self._places[origin, digest]

    def held(self, digest: bytes, origin: bytes, now: float) -> Held:
        """What is kept of a model for others than `origin`."""
        self._forget(now)
        kept = [
            place for (whose, which), place in self._places.items() if which == digest and whose != origin
        ]
        return Held(
            len(kept),
            sum(place.prompt_tokens for place in kept),
            sum(place.output_tokens for place in kept),
        )

    def _forget(self, now: float) -> None:
        self._places = {key: place for key, place in self._places.items() if place.until > now}
