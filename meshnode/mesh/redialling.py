"""The timing rule of dialling again. Pure arithmetic; when a link is dead is for the link itself to say."""

from meshnode.seams import Rng

REDIAL_FIRST_S = 0.5
REDIAL_LAST_S = 5.0  # after a partition heals, everybody is back within ten seconds


def redial_delay_s(failures: int, rng: Rng) -> float:
    """How long to wait before dialling a node again, after that many failures in a row.

    Doubles to a ceiling, with jitter of half of it, so that the two sides of a healed partition neither
    wait long nor dial all at once.
    """
    ceiling = min(REDIAL_FIRST_S * 2.0 ** min(failures, 16), REDIAL_LAST_S)
    return ceiling * (0.5 + rng.random() / 2)
