"""What a gateway costs: our node's cloud rung against LiteLLM's proxy, both in front of one mock API.

One run asks the mock itself, our node and LiteLLM in turn, many rounds, over connections that stay open. A figure is
what a gateway adds to the median of the mock itself. Our node keeps a budget meanwhile: each request is reserved on
disk before it is sent, and settled afterwards. A third gateway is nothing but the libraries that our node stands on.
"""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import shape

WARM = 5
START_WITHIN_S = 120.0
LATENCY, STREAM, MEMORY = "<= 0.25", "<= 0.1667", "<= 0.3333"
OURS, RIVAL, BARE, MOCK = "meshnode", "LiteLLM", "bare pass-through", "mock"
KINDS = {"short": False, "long": True}  # the model, and whether its answer is streamed

CLOUD = """
[[cloud]]
name = "mock"
url = "http://127.0.0.1:{port}"
monthly_usd = 1000.0
[[cloud.models]]
id = "short"
input_usd = 0.15
output_usd = 0.6
[[cloud.models]]
id = "long"
input_usd = 0.15
output_usd = 0.6
"""


class Gateway:
    """A server under test and the connection to it."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._process = process

    def ask(self, model: str, *, streamed: bool) -> float:
        """Seconds for one answer, read to its end. What comes must be all of it."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Say some words."}],
            "max_tokens": 128,
            "stream": streamed,
        }
        headers = {"content-type": "application/json", "x-mesh-privacy": "public"}
        begun = time.perf_counter()
        self._http.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = self._http.getresponse()
        content = response.read()
        took = time.perf_counter() - begun
        words = content.count(b"word ")
        if response.status != 200 or words != {"short": 4, "long": 64}[model]:
            raise SystemExit(f"{response.status} with {words} words: {content[:500]!r}")
        return took

    def memory_mb(self) -> float:
        """Resident memory of the process and all that it has started."""
        top = psutil.Process(self._process.pid)
        return sum(one.memory_info().rss for one in (top, *top.children(recursive=True))) / 1e6


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, log: Path, **env: str) -> Iterator[Gateway]:
    """A server process, once it listens, for as long as the context lasts."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env})
        try:
            until = time.monotonic() + START_WITHIN_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{command[:3]} does not answer: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield Gateway(port, process)
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def mock(stack: ExitStack, root: Path, port: int) -> Gateway:
    """The mock API."""
    command = [sys.executable, str(shape.HERE / "mock_api.py"), str(port)]
    return stack.enter_context(running(command, port, root / "mock.log"))


def node(stack: ExitStack, root: Path, api: int) -> Gateway:
    """Our node, with the mock as its commercial API."""
    home, port = root / "home", free_port()
    home.mkdir()
    (home / "config.toml").write_text(CLOUD.format(port=api), encoding="utf-8")
    options = ["--engine", "none", "--api-port", str(port), "--mesh-host", "127.0.0.1", "--mesh-port", "0"]
    command = [sys.executable, "-m", "meshnode.cli.main", "up", "--json", "--home", str(home), *options]
    path = os.pathsep.join((str(shape.ROOT), str(shape.ROOT / "protocol")))
    return stack.enter_context(running(command, port, root / "node.log", PYTHONPATH=path))


def passthrough(stack: ExitStack, root: Path, api: int) -> Gateway:
    """What the libraries of our node cost when nothing but them stands before the mock."""
    port = free_port()
    command = [sys.executable, str(shape.HERE / "passthrough.py"), str(port), str(api)]
    return stack.enter_context(running(command, port, root / "passthrough.log"))


def litellm(stack: ExitStack, root: Path, api: int) -> Gateway:
    """LiteLLM's proxy in front of the mock, as its documentation sets it up, with one worker."""
    python, port = shape.rival_python("gateway"), free_port()
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": f"http://127.0.0.1:{api}/v1",
                "api_key": "none",
                "input_cost_per_token": 0.15e-6,
                "output_cost_per_token": 0.6e-6,
            },
        }
        for name in KINDS
    ]
    config = root / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models}), encoding="utf-8")  # JSON is YAML
    program = str(python.with_name("litellm"))
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    return stack.enter_context(running([*command, "--num_workers", "1"], port, root / "litellm.log", **quiet))


def measure(rounds: int, in_row: int) -> tuple[dict[tuple[str, str], list[float]], dict[str, float]]:
    """Seconds by server and model, and each gateway's memory afterwards."""
    took: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as name, ExitStack() as stack:
        root, api = Path(name), free_port()
        servers = {MOCK: mock(stack, root, api)}
        servers |= {OURS: node(stack, root, api), RIVAL: litellm(stack, root, api)}
        servers[BARE] = passthrough(stack, root, api)
        for number in range(WARM + rounds):
            for server, gateway in servers.items():
                for model, streamed in KINDS.items():
                    seconds = [gateway.ask(model, streamed=streamed) for _ in range(in_row)]
                    if number >= WARM:
                        took.setdefault((server, model), []).extend(seconds)
        memory = {server: servers[server].memory_mb() for server in (OURS, RIVAL, BARE)}
    return took, memory


def rows_of(took: dict[tuple[str, str], list[float]], memory: dict[str, float]) -> list[shape.Row]:
    """The comparison."""
    median = {key: 1e6 * statistics.median(values) for key, values in took.items()}
    rows = []
    for model, title, bound in (
        ("short", "added to one answer", LATENCY),
        ("long", "added to a stream of 64", STREAM),
    ):
        direct = median[MOCK, model]
        ours, rival, bare = (median[server, model] - direct for server in (OURS, RIVAL, BARE))
        rows.append(shape.Row(title, ours, "µs", rival, RIVAL, bound))
        rows.append(shape.Row(title, ours, "µs", bare, BARE))
        rows.append(shape.Row(f"{title}: the mock itself", direct, "µs", direct, MOCK))
    rows.append(shape.Row("resident memory", memory[OURS], "MB", memory[RIVAL], RIVAL, MEMORY))
    rows.append(shape.Row("resident memory", memory[OURS], "MB", memory[BARE], BARE))
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = shape.arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help="answers that count, of each kind and server")
    parser.add_argument("--in-row", type=int, default=1, help="answers of one server, one after the other")
    options = parser.parse_args()
    return shape.report("gateway", rows_of(*measure(options.rounds, options.in_row)), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
