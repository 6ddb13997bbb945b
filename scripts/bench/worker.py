"""What an answer costs beside other servers: tokens/s and first tokens at 1 to 16 streams, ours and the rivals'.

Through HTTP, one client and the same prompts: our node, llama-cpp-python's server, the batched example server of
its source distribution, and llama.cpp's own server in xllamacpp's wheel. Through its own pipe: our worker against
a bare loop around llama.cpp. All with the same threads; rounds are interleaved, and only one computes at a time.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

import psutil  # noqa: E402 - the paths come first
import trio  # noqa: E402
from bare import Conversation, Counts, both, in_turns  # noqa: E402
from llama_cpp import Llama  # noqa: E402
from rivals import COMMANDS, Setup, rival  # noqa: E402
from shape import Row, arguments, percentile, report  # noqa: E402
from streams import ask_all  # noqa: E402

from meshnode.testing.processes import node_process  # noqa: E402

MODEL = "smollm2:135m"
OURS, SHARING = "meshnode", "meshnode, sharing"  # each slot with its own part of the context; as it comes
WIDTHS = (1, 4, 8, 16)
FIRST_TOKEN_WIDTH = 8
THREADS, CONTEXT, SLOTS = 2, 8192, 16
TOKENS = 64
PIPE_ANSWERS = 8  # in a round
PLACES = ("a lighthouse", "a mill", "a station", "a library", "a mine", "a farm", "a ship", "an inn")

QUIET_PERCENT, QUIET_LOOK_S, QUIET_WITHIN_S = 10.0, 0.3, 5.0

Figures = dict[tuple[str, int], list[float]]  # by server and width, one for each round


def conversation(round_: int, width: int, stream: int) -> list[dict[str, str]]:
    """One of its own for every stream of every round, different from its first words on, and as long as all."""
    number = 10_000 + 1000 * round_ + 20 * width + stream
    place = PLACES[number % len(PLACES)]
    return [
        {"role": "system", "content": f"{number} is the number of the narrator who answers here, at length."},
        {"role": "user", "content": f"Tell me a long story about {place} and the people who live there."},
    ]


class Meter:
    """Counts the tokens of an answer, for every server in the same way: by the model's own vocabulary."""

    def __init__(self, path: str) -> None:
        self._vocabulary = Llama(path, vocab_only=True, verbose=False)

    def count(self, text: str) -> int:
        """Tokens that make this text."""
        return len(self._vocabulary.tokenize(text.encode(), add_bos=False))


class Servers:
    """Every server's figures, round by round."""

    def __init__(self, urls: dict[str, str], meter: Meter, tokens: int) -> None:
        self._urls, self._meter, self._tokens = urls, meter, tokens
        self.tps: Figures = {}
        self.first_ms: Figures = {}

    async def round(self, number: int, *, counts: bool) -> None:
        """Ask every server at every width, one server at a time; one more round at first does not count."""
        for width in WIDTHS:
            conversations = [conversation(number, width, stream) for stream in range(width)]
            for name in self._in_turn(number):
                await trio.to_thread.run_sync(wait_for_quiet)
                heard = await ask_all(self._urls[name], MODEL, conversations, self._tokens)
                written = sum(self._meter.count(answer.text) for answer in heard)
                if counts:
                    self.tps.setdefault((name, width), []).append(written / max(a.ended_s for a in heard))
                    firsts = [1000 * answer.first_s for answer in heard]
                    self.first_ms.setdefault((name, width), []).append(percentile(firsts, 95))

    def _in_turn(self, number: int) -> list[str]:
        """Who comes first changes from round to round."""
        names = list(self._urls)
        start = number % len(names)
        return names[start:] + names[:start]


def wait_for_quiet() -> None:
    """Wait until other programs leave the cores alone, but not for ever.

    Two compute threads on two cores beside another program measure that program: llama.cpp's threads spin at
    barriers for the one that is not scheduled.
    """
    until = time.monotonic() + QUIET_WITHIN_S
    while psutil.cpu_percent(QUIET_LOOK_S) > QUIET_PERCENT and time.monotonic() < until:
        pass


async def measure_servers(setup: Setup, names: Sequence[str], rounds: int, tokens: int) -> Servers:
    """Every server up at once, and asked in turn."""
    with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as home:
        async with AsyncExitStack() as stack:
            urls = {}
            for name, context in contexts(setup).items():
                options = ("--threads", str(setup.threads), "--slots", str(setup.slots), "--model", MODEL)
                node = await stack.enter_async_context(node_process(Path(home) / name, (*options, *context)))
                await node.until_ready()
                urls[name] = await node.api_url()
            for name in names:
                urls[name] = await trio.to_thread.run_sync(stack.enter_context, rival(name, setup))
            servers = Servers(urls, Meter(setup.model), tokens)
            for number in range(rounds + 1):
                await servers.round(number, counts=number > 0)
                print(f"round {number} of {rounds}", file=sys.stderr)
    return servers


def contexts(setup: Setup) -> dict[str, tuple[str, str]]:
    """Our nodes, and what each is told of the context: how much each slot has, as it is in xllamacpp, or all."""
    return {
        OURS: ("--slot-context", str(setup.context // setup.slots)),
        SHARING: ("--context", str(setup.context)),
    }


def measure_pipes(setup: Setup, rounds: int, tokens: int) -> tuple[Figures, Figures]:
    """The worker's and the bare loop's tokens/s, the same prompts and answers for both."""
    ours: Figures = {}
    bare_tps: Figures = {}
    with both(setup) as (pipe, bare):
        asked = {width: list(_batches(width)) for width in WIDTHS}
        known = {width: [pipe.ask_all(batch, tokens) for batch in asked[width]] for width in WIDTHS}
        for counts in (counts for width in WIDTHS for counts in known[width]):
            bare.repeat(counts)  # warm, as the worker is by now
        for _ in range(rounds):
            for width in WIDTHS:
                wait_for_quiet()
                mine, other = _Pace(), _Pace()
                for batch, counts in zip(asked[width], known[width], strict=True):
                    (worker_s, written), (bare_s, _) = in_turns(
                        (pipe.process, partial(pipe.ask_all, batch, tokens)),
                        (bare.process, partial(bare.repeat, counts)),
                    )
                    mine.add(worker_s, written)
                    other.add(bare_s, counts)
                ours.setdefault(("worker", width), []).append(mine.tps)
                bare_tps.setdefault(("bare", width), []).append(other.tps)
    return ours, bare_tps


@dataclass
class _Pace:
    """How many answer tokens in how many seconds."""

    tokens: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, counts: Counts) -> None:
        self.seconds += seconds
        self.tokens += sum(answer for _, answer in counts)

    @property
    def tps(self) -> float:
        return self.tokens / self.seconds


def _batches(width: int) -> Iterator[list[Conversation]]:
    """So many at once, and PIPE_ANSWERS in all at the least: half a second says little."""
    for once_more in range(max(1, PIPE_ANSWERS // width)):
        yield [conversation(0, width, stream + once_more * width) for stream in range(width)]


def server_rows(servers: Servers, names: Sequence[str]) -> list[Row]:
    """Ours against each rival, the best of which has the bound; and against ours with a context that all share."""
    rows = []
    for width in WIDTHS:
        label = f"{width} stream{'s' if width > 1 else ''}"
        rows += _against(label, "tokens/s", servers.tps, width, names, best=max, bound=">= 1.0")
    label = f"first token (95%), {FIRST_TOKEN_WIDTH} streams"
    rows += _against(label, "ms", servers.first_ms, FIRST_TOKEN_WIDTH, names, best=min, bound="<= 1.0")
    return rows


def _against(
    label: str, unit: str, figures: Figures, width: int, names: Sequence[str], *, best, bound: str
) -> list[Row]:
    medians = {name: statistics.median(figures[name, width]) for name in (OURS, *names, SHARING)}
    winner = best(names, key=medians.__getitem__)
    return [
        Row(
            label,
            medians[OURS],
            unit,
            medians[name],
            name,
            bound if name == winner else "",
            paired(figures[OURS, width], figures[name, width]),
        )
        for name in (*names, SHARING)
    ]


def paired(ours: Sequence[float], rival: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(one / other for one, other in zip(ours, rival, strict=True))


def pipe_rows(ours: Figures, bare: Figures) -> list[Row]:
    """The worker against the bare loop."""
    rows = []
    for width in WIDTHS:
        mine, other = ours["worker", width], bare["bare", width]
        medians = (statistics.median(mine), "tokens/s", statistics.median(other))
        label = f"worker's pipe, {width} at once"
        rows.append(Row(label, *medians, "bare loop", ">= 0.97", paired(mine, other)))
    return rows


def model_path() -> str:
    """The model's file, fetched on first use."""
    command = [sys.executable, "-m", "meshnode.models", MODEL]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="the length of each answer")
    parser.add_argument("--rival", action="append", choices=COMMANDS, help="only this one; may be repeated")
    parser.add_argument("--threads", type=int, default=THREADS, help="compute threads, of all alike")
    parser.add_argument("--only", choices=("servers", "pipe"), help="one half of it")
    options = parser.parse_args()
    names = options.rival or list(COMMANDS)
    setup = Setup(model_path(), options.threads, CONTEXT, SLOTS)
    rows = []
    if options.only != "pipe":
        rows += server_rows(trio.run(measure_servers, setup, names, options.rounds, options.tokens), names)
    if options.only != "servers":
        rows += pipe_rows(*measure_pipes(setup, options.rounds, options.tokens))
    return report("worker", rows, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
