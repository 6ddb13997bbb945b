"""A job as the family of its model likes to be asked: only where the request has not said it itself."""

import msgspec

from meshnode.routing.prompts import fitted
from meshnode.terms import Job, Prompt, Sampling, Turn, Wish
from meshnode.terms.job import STOP_MAX

ASKED = Turn(role="user", content="Why?")
QWEN = Prompt(family="Qwen3", system="Be brief.", stop=("<end>",), temperature=0.6, top_k=20)


def job(*turns: Turn, **facts) -> Job:
    return Job(id="1", wish=Wish(), turns=turns or (ASKED,), **facts)


def test_what_was_not_said_is_filled_in() -> None:
    made = fitted(job(), "qwen3", [QWEN])
    assert made.turns == (Turn(role="system", content="Be brief."), ASKED)
    assert made.sampling == Sampling(temperature=0.6, top_k=20, stop=("<end>",))


def test_another_family_and_a_job_without_turns_stay_as_they_are() -> None:
    assert fitted(job(), "llama3.1", [QWEN]) == job()
    vectors = msgspec.structs.replace(job(), turns=(), inputs=("a",))
    assert fitted(vectors, "qwen3", [QWEN]) == vectors


def test_what_the_request_says_stands() -> None:
    for role in ("system", "developer"):
        own = Turn(role=role, content="Be long.")
        assert fitted(job(own, ASKED), "qwen3", [QWEN]).turns == (own, ASKED)
    sampling = Sampling(temperature=0.0, top_k=5, stop=("a", "<end>"))
    made = fitted(job(sampling=sampling), "qwen3", [QWEN]).sampling
    assert (made.temperature, made.top_k, made.stop) == (0.0, 5, ("a", "<end>"))


def test_there_are_no_more_stop_strings_than_a_job_may_have() -> None:
    full = Sampling(stop=tuple(f"s{number}" for number in range(STOP_MAX)))
    assert fitted(job(sampling=full), "qwen3", [QWEN]).sampling.stop == full.stop


def test_a_bare_text_gets_the_figures_and_stays_the_whole_prompt() -> None:
    text = Turn(role="text", content="Once")
    made = fitted(job(text), "qwen3", [QWEN])
    assert made.turns == (text,)
    assert made.sampling.temperature == 0.6
