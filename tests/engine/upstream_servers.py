"""Real servers of other people's making, in processes of their own, from packages in a folder of their own."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.packages import fetched, with_packages

MODEL = "smollm2:135m"
CONTEXT = 2048
START_WITHIN_S = 60.0
REQUIREMENTS = Path(__file__).with_name("upstream-servers.txt")

XLLAMACPP = """
import sys, signal, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params.model_alias = {sys.argv[4]}
params.n_parallel, params.warmup, params.embedding = 1, False, "embeds" in sys.argv
params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.cpuparams.n_threads = 1  # two spin while one of them waits for a busy core
server = xllamacpp.Server(params)
signal.pause()
"""


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def xllamacpp(model: Path, port: int, *more: str) -> list[str]:
    """llama.cpp's own server, as a library: one slot."""
    return [sys.executable, "-c", XLLAMACPP, str(model), str(port), str(CONTEXT), MODEL, *more]


def llama_cpp_server(model: Path, port: int) -> list[str]:
    """llama-cpp-python's server, which runs one request at a time."""
    options = {"model": model, "port": port, "n_ctx": CONTEXT, "n_threads": 1, "model_alias": MODEL}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "llama_cpp.server", *words, "--interrupt_requests", "false"]


@contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, once it lists its models."""
    env = with_packages(fetched(REQUIREMENTS))
    with (
        log.open("ab") as out,
        subprocess.Popen(command, env=env, cwd=log.parent, stdout=out, stderr=out) as process,
    ):
        try:
            _wait(process, f"http://127.0.0.1:{port}/v1/models", log)
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(int(START_WITHIN_S / 0.1)):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            time.sleep(0.1)
    raise AssertionError(log.read_text(errors="replace")[-2000:])
