"""The guard, part by part: each pair is like in everything but the one thing."""

import pytest

from meshnode.cache.guard import Objection
from tests.cache.small_cache import objects


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("What is\nthis?", "What is this?", Objection.ILLEGIBLE),
        ('Translate "chat"', "Translate chat", Objection.LITERAL),
        ("What does a[0] give?", "What does a(0) give?", Objection.LITERAL),
        ("Who won in 2014?", "Who won in 2018?", Objection.NUMBERS),
        ("What is 3 of 5?", "What is 5 of 3?", Objection.NUMBERS),
        ("Do you have a table for two?", "Do you have a table for three?", Objection.NUMBERS),
        ("Is it open today?", "Is it open tomorrow?", Objection.CALENDAR),
        ("Which foods may I eat?", "Which foods may I not eat?", Objection.NEGATION),
        ("Is it safe here?", "Is it unsafe here?", Objection.NEGATION),
        ("Does it work with sugar?", "Does it work without sugar?", Objection.NEGATION),
        ("How old is Anna now?", "How old is Bertha now?", Objection.NAMES),
        ("What is the capital of Austria?", "What is the capital of Australia?", Objection.NAMES),
        ("Is the shop open?", "Is the shop closed?", Objection.ANTONYMS),
        ("Can I get it?", "How do I get it?", Objection.FRAME),
        ("Which dog bites a man?", "Which man bites a dog?", Objection.ORDER),
        ("Does it have a pool?", "Does it have a gym?", Objection.CONTENT),
        ("What does it cost?", "What does it cost members?", Objection.CONTENT),
        ("Can i go to the US?", "Can i go to the us?", Objection.NAMES),
    ],
)
def test_each_part_has_its_objection(one: str, other: str, why: Objection) -> None:
    assert objects(one, other) is why
    assert objects(other, one) is why


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Do you have a table for two?", "Do you have a table for 2?"),
        ("How do I chnage the order?", "How do I change the order?"),
        ("What time do you open on Mnoday?", "What time do you open on Monday?"),
        ("Is the colour right?", "Is the color correct?"),
        ("What is the weather in Rome tomorrow?", "What is the weather tomorrow in Rome?"),
        ("Is there a quick way?", "Is there a fast way?"),
    ],
)
def test_what_changes_nothing_meets_no_objection(one: str, other: str) -> None:
    assert objects(one, other) is None
