"""Answers over a line of real processes: what the client gets, what the worker wrote, what the relay sees."""

import base64
from pathlib import Path

import openai
import pytest
import trio

from tests.e2e.world import HANG_S, MODEL, OBSERVED, Line, raised_line

pytestmark = pytest.mark.model

COMPUTED = {"mesh": {"cache": "off"}}
QUESTION = "What is the capital of France? Answer in one sentence."
CANARY = "My password is marmalade-zeppelin-42. Write three sentences about the history of France."
WISHES = {"model": MODEL, "temperature": 0.0, "max_tokens": 48, "cache": "off"}


def check_answer(headers, text: str, finish: str) -> None:
    """A real answer that C made and that came through B."""
    path = headers["x-mesh-path"].split(",")
    assert [node.partition("#")[0] for node in path] == ["A", "B", "C"]
    assert headers["x-mesh-served-by"] == path[-1]
    assert headers["x-mesh-rung"] == "peer"
    assert "Paris" in text
    assert finish == "stop"


async def test_the_openai_client_streams_an_answer_made_two_hops_away(line: Line):
    url = await line.a.api_url()

    def talk():
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": QUESTION}],
                stream=True,
                temperature=0,
                extra_body=COMPUTED,
            )
            return raw.headers, [chunk.choices[0] for chunk in raw.parse()]

    with trio.fail_after(HANG_S):
        headers, choices = await trio.to_thread.run_sync(talk)
    texts = [choice.delta.content for choice in choices if choice.delta.content]
    assert len(texts) > 1, "it did not stream"  # tokens that come within 20 ms come together
    check_answer(headers, "".join(texts), choices[-1].finish_reason)


# The client lets go of its own generators without closing them.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_the_async_openai_client_works_on_trio(line: Line):
    url = await line.a.api_url()
    with trio.fail_after(HANG_S):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            raw = await client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": QUESTION}],
                stream=True,
                temperature=0,
                extra_body=COMPUTED,
            )
            choices = [chunk.choices[0] async for chunk in raw.parse()]
    text = "".join(choice.delta.content or "" for choice in choices)
    check_answer(raw.headers, text, choices[-1].finish_reason)


@pytest.mark.parametrize("name", ["a", "c"], ids=["two hops away", "at the model's own node"])
async def test_four_requests_at_once_all_finish(line: Line, name: str):
    url = await getattr(line, name).api_url()
    answers = []

    async def ask(client: openai.AsyncOpenAI, number: int) -> None:
        turns = [{"role": "user", "content": f"Write a sentence about the number {number}."}]
        answer = await client.chat.completions.create(
            model=MODEL, messages=turns, max_tokens=40, temperature=0
        )
        answers.append(answer)

    with trio.fail_after(HANG_S):
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
            trio.open_nursery() as nursery,
        ):
            for number in range(4):
                nursery.start_soon(ask, client, number)
    assert len(answers) == 4
    for answer in answers:
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert len(answer.choices[0].message.content) > 10
        assert answer.usage.completion_tokens > 3


async def test_the_ids_that_arrive_are_those_that_the_worker_wrote(observed_line: Line):
    with trio.fail_after(HANG_S):
        before = len(await observed_line.c.call("emitted"))
        # Of other classes, those that are written within a moment are sent as one.
        wishes = {**WISHES, "privacy": "public"}
        items = await observed_line.a.call("ask", prompt=QUESTION, wishes=wishes)
        written = (await observed_line.c.call("emitted"))[before:]
    received = items[:-1]
    assert items[-1]["type"] == "end"
    assert [(piece["ids"], piece["text"]) for piece in received] == [
        (piece["ids"], piece["text"]) for piece in written
    ]
    ids = [token for piece in received for token in piece["ids"]]
    # The last token is the one that ends the answer, which has no text and is not sent.
    assert items[-1]["usage"]["completion_tokens"] - len(ids) in (0, 1)
    assert len(set(ids)) > 3


async def test_a_relay_cannot_read_what_it_carries(observed_line: Line):
    with trio.fail_after(HANG_S):
        texts, carried = await asked_and_carried(observed_line)
    assert len(carried) > len(CANARY) + sum(map(len, texts)), "the tap saw nothing of the answer"
    assert not any(word in carried for word in telling(CANARY.split(), texts))


async def test_without_the_seal_the_relay_would_read_all_of_it(model_file: Path, tmp_path: Path):
    with trio.fail_after(HANG_S):
        async with raised_line(tmp_path, program=OBSERVED, options=("--no-seal",)) as open_line:
            texts, carried = await asked_and_carried(open_line)
    assert CANARY.encode() in carried
    assert all(word in carried for word in telling(CANARY.split(), texts))


async def asked_and_carried(line: Line) -> tuple[list[str], bytes]:
    """The texts of an answer at A, and all that B carried for it."""
    before = len(await line.b.call("relayed"))
    items = await line.a.call("ask", prompt=CANARY, wishes=WISHES)
    frames = (await line.b.call("relayed"))[before:]
    return [item["text"] for item in items[:-1]], b"".join(map(base64.b64decode, frames))


def telling(*texts: list[str]) -> list[bytes]:
    """Texts so long that random bytes will not hold them by chance."""
    found = [[text.encode() for text in group if len(text.encode()) >= 5] for group in texts]
    assert all(len(group) > 5 for group in found)
    return [text for group in found for text in group]
