"""The servers that worker.py compares with: how each is installed, started and stopped.

All run the same model file with the same threads; the two that are llama-cpp-python's use the very build of
llama.cpp that the checkout uses. As a script, in the rivals' environment, it is one of the servers.
"""

import importlib.metadata
import importlib.util
import json
import os
import runpy
import socket
import subprocess
import sys
import tarfile
import threading
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from shape import BENCH_HOME, rival_python

START_WITHIN_S = 60.0
LOOK_EVERY_S = 0.2
PACKAGE = "llama-cpp-python"
BATCH_TOKENS = 128  # what the example server's configurations have for processors without a GPU


@dataclass(frozen=True)
class Setup:
    """What all servers are given alike: the file, compute threads, tokens of context, and requests at once."""

    model: str
    threads: int
    context: int
    slots: int


@contextmanager
def rival(kind: str, setup: Setup) -> Iterator[str]:
    """One rival, answering, for as long as the context lasts; its URL."""
    python, port = str(rival_python("worker")), _free_port()
    environment = {**os.environ, "PYTHONPATH": str(_same_build())}
    log_path = BENCH_HOME / f"worker-{kind.replace('/', '-')}.log"
    with log_path.open("wb") as log:
        command = [python, *COMMANDS[kind](setup, port)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(process, f"http://127.0.0.1:{port}/v1/models", log_path)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _single(setup: Setup, port: int) -> list[str]:
    """llama-cpp-python's own server: one request at a time, and told not to give up one for the next."""
    options = {
        "model": setup.model,
        "host": "127.0.0.1",
        "port": port,
        "n_threads": setup.threads,
        "n_threads_batch": setup.threads,
        "n_ctx": setup.context,
        "interrupt_requests": "false",
        "verbose": "false",
    }
    return [
        "-m",
        "llama_cpp.server",
        *(part for name, value in options.items() for part in (f"--{name}", str(value))),
    ]


def _batched(setup: Setup, port: int) -> list[str]:
    """The batched example server of its source distribution, set up as its own example configurations are."""
    source = _batched_source()
    model = {
        "path": setup.model,
        "alias": "model",
        "threads": setup.threads,
        "threads_batch": setup.threads,
        "n_ctx": setup.context,
        "n_seq_max": setup.slots,
        "n_batch": BATCH_TOKENS,
        "n_ubatch": BATCH_TOKENS,
        "store_logits": False,
    }
    config = source.with_name("config.json")
    config.write_text(json.dumps({"server": {"port": port}, "model": model}), encoding="utf-8")
    return [__file__, "batched", str(source), str(config)]


def _xllamacpp(setup: Setup, port: int) -> list[str]:
    """llama.cpp's own server, in C++, as xllamacpp's wheel brings it."""
    return [__file__, "xllamacpp", json.dumps(asdict(setup)), str(port)]


COMMANDS: dict[str, Callable[[Setup, int], list[str]]] = {
    "llama_cpp.server": _single,
    "examples/server": _batched,
    "xllamacpp": _xllamacpp,
}
"""The rivals, and what Python is told to run for each."""


def _same_build() -> Path:
    """A folder with nothing but the checkout's own llama_cpp, to be put on a rival's path."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise SystemExit("llama-cpp-python is not installed: scripts/setup worker")
    folder = BENCH_HOME / "worker-build"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "llama_cpp"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(found.origin).parent)
    return folder


def _batched_source() -> Path:
    """The batched server, from the source distribution of the version that is installed."""
    version = importlib.metadata.version(PACKAGE)
    folder = BENCH_HOME / f"{PACKAGE}-{version}"
    source = folder / "server.py"
    if not source.exists():
        wanted = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={version}", "-d", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", *wanted], check=True, stdout=sys.stderr
        )
        with tarfile.open(next(folder.glob("*.tar.gz"))) as sdist:
            member = next(m for m in sdist.getmembers() if m.name.endswith("/examples/server/server.py"))
            content = sdist.extractfile(member)
            assert content is not None
            source.write_bytes(content.read())
    return source


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(LOOK_EVERY_S)
    raise SystemExit(f"{process.args} does not answer; see {log}")


# --- As a script, in the rivals' environment ---


def serve_batched(source: str, config: str) -> None:
    """Run the example server. Its import of the image library, which the worker's build leaves out, is met."""
    sys.modules["llama_cpp.mtmd_cpp"] = types.ModuleType("llama_cpp.mtmd_cpp")
    sys.argv = [source, "-C", config]
    runpy.run_path(source, run_name="__main__")


def serve_xllamacpp(setup_json: str, port: str) -> None:
    """Run llama.cpp's server."""
    import xllamacpp

    setup = Setup(**json.loads(setup_json))
    params = xllamacpp.CommonParams()
    params.model.path = setup.model
    params.port = int(port)
    params.n_ctx, params.n_parallel = setup.context, setup.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup.threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    {"batched": serve_batched, "xllamacpp": serve_xllamacpp}[sys.argv[1]](*sys.argv[2:])
