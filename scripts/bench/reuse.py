"""What the second turn of a conversation costs: first tokens through a node's API, and what was not computed again.

Each round is a conversation of its own, 1,500 tokens long, asked once and asked on. How much of the second prompt
the worker must have kept is worked out here from the model's own vocabulary and template, and has to be exactly
what the API says was cached: less would be waste, more would be somebody else's.
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

import trio  # noqa: E402 - the paths come first
from llama_cpp import Llama  # noqa: E402
from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # noqa: E402
from shape import Row, arguments, report  # noqa: E402
from streams import Heard, ask_all  # noqa: E402
from worker import MODEL, model_path  # noqa: E402

from meshnode.testing.processes import node_process  # noqa: E402

CONVERSATION_TOKENS = 1500
ANSWER_TOKENS = 24
ROUNDS = 5

Messages = list[dict[str, str]]


class Vocabulary:
    """The model's own template and vocabulary, through llama-cpp-python's code and not ours."""

    def __init__(self, path: str) -> None:
        self._model = Llama(path, vocab_only=True, verbose=False)
        template = self._model.metadata["tokenizer.chat_template"]
        self._formatter = Jinja2ChatFormatter(template, eos_token="<|im_end|>", bos_token="<|im_start|>")

    def prompt(self, messages: Messages) -> list[int]:
        """The tokens that the model reads."""
        return self.text(self._formatter(messages=messages).prompt)

    def text(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self._model.tokenize(text.encode(), add_bos=False, special=True)


@dataclass(frozen=True)
class Pair:
    """Two turns: milliseconds to the first token of each, and what of the second prompt was and could be cached."""

    first_ms: float
    second_ms: float
    prompt_tokens: int
    cached: int
    shared: int


def opening(number: int, vocabulary: Vocabulary) -> Messages:
    """A conversation that begins like no other and is CONVERSATION_TOKENS long."""
    rooms = [f"{number} is the number of this house."]
    while True:
        count = len(rooms)
        rooms.append(f"Room {count} has {(count * number) % 17} chairs and a table.")
        messages = [
            {"role": "system", "content": " ".join(rooms)},
            {"role": "user", "content": "Tell me about this house."},
        ]
        if len(vocabulary.prompt(messages)) >= CONVERSATION_TOKENS:
            return messages


async def two_turns(url: str, number: int, vocabulary: Vocabulary) -> Pair:
    """Ask, and ask on."""
    messages = opening(number, vocabulary)
    (first,) = await ask_all(url, MODEL, [messages], ANSWER_TOKENS)
    further = [
        *messages,
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And how many rooms does it have?"},
    ]
    (second,) = await ask_all(url, MODEL, [further], ANSWER_TOKENS)
    return Pair(
        first_ms=1000 * first.first_s,
        second_ms=1000 * second.first_s,
        prompt_tokens=second.usage["prompt_tokens"],
        cached=second.usage["prompt_tokens_details"]["cached_tokens"],
        shared=shared_tokens(vocabulary, messages, first, further),
    )


def shared_tokens(vocabulary: Vocabulary, messages: Messages, answer: Heard, further: Messages) -> int:
    """How many tokens at the second prompt's beginning were computed in the first turn.

    The last token of an answer that was cut off by its length was drawn and never computed.
    """
    written = vocabulary.text(answer.text)
    cut_off = answer.usage["completion_tokens"] == ANSWER_TOKENS
    computed = [*vocabulary.prompt(messages), *(written[: ANSWER_TOKENS - 1] if cut_off else written)]
    pairs = zip(computed, vocabulary.prompt(further), strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(computed))


async def measure(rounds: int, vocabulary: Vocabulary) -> list[Pair]:
    """One pair a round; one more at first that does not count."""
    with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as home:
        async with node_process(Path(home), ("--model", MODEL)) as node:
            await node.until_ready()
            url = await node.api_url()
            return [await two_turns(url, 1001 + number, vocabulary) for number in range(rounds + 1)][1:]


def rows_of(pairs: list[Pair]) -> list[Row]:
    """Medians for the time; every round for the count."""
    first = statistics.median(pair.first_ms for pair in pairs)
    second = statistics.median(pair.second_ms for pair in pairs)
    rows = [Row("first token of the second turn", second, "ms", first, "first turn", "<= 0.1")]
    for number, pair in enumerate(pairs, 1):
        name = f"round {number}: cached of {pair.prompt_tokens} tokens"
        rows.append(Row(f"{name}, no fewer", pair.cached, "tokens", pair.shared, "shared", ">= 1.0"))
        rows.append(Row(f"{name}, no more", pair.cached, "tokens", pair.shared, "shared", "<= 1.0"))
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="conversations that count")
    options = parser.parse_args()
    pairs = trio.run(measure, options.rounds, Vocabulary(model_path()))
    return report("reuse", rows_of(pairs), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
