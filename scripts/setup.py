"""Makes .venv ready: `setup.py [node] [worker] [dev]`. Standard library only, since nothing is installed yet.

Each step looks whether it is done before it does it, so that an interrupted run is simply run again, and a
stamp makes a finished one return at once. Everything goes through the user's own pip configuration.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import venv
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "meshnode-setup.json"
LOG = VENV / "setup.log"
PIP_MIN = (25, 1)  # the first that knows --group
NODE, WORKER, DEV = "node", "worker", "dev"  # `node` alone is one without a model
LLAMA = "llama-cpp-python"
RECIPE = ROOT / "scripts/llama.cmake"
BUILDS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshnode/llama"
BUILDS_KEPT = 3
BUILD_KEY = VENV / "llama-build"  # of the build that is installed
SPACE_NEEDED_BYTES = 1500 << 20
TICK_S = 15.0  # between two lines where there is no terminal
STEPS = re.compile(r"\[(\d+)/(\d+)\]")

# The llama and ggml libraries alone: no multimodal library, no tools, no servers.
QUICK = [
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DGGML_ALL_WARNINGS=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
    f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={RECIPE}",
]


class SetupError(Exception):
    """Something a person has to mend; the message says what."""


class Progress:
    """One line that is rewritten on a terminal, each second; without one, a line now and then."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.live = sys.stderr.isatty()
        self.started = time.monotonic()
        self.count = ""
        self.over = threading.Event()
        self.write(f"· {what} …", end="" if self.live else "\n")
        self.ticker = threading.Thread(target=self.tick, daemon=True)
        self.ticker.start()

    def step(self, line: str) -> None:
        """Take a line of the command's output."""
        if found := STEPS.search(line):
            self.count = f" {found[1]}/{found[2]}"

    def tick(self) -> None:
        """Show that it goes on, also while the command has nothing to say."""
        while not self.over.wait(1.0 if self.live else TICK_S):
            took = time.monotonic() - self.started
            if self.live:
                self.write(f"\r· {self.what} …{self.count} ({took:.0f} s)\033[K")
            else:
                self.write(f"  …{self.count} ({took:.0f} s)\n")

    def end(self, word: str = "done") -> None:
        """Say how it went and how long it took."""
        self.over.set()
        self.ticker.join()
        took = time.monotonic() - self.started
        before = f"\r· {self.what}: " if self.live else "  "
        self.write(
            f"{before}{word} in {took:.0f} s\033[K\n" if self.live else f"{before}{word} in {took:.0f} s\n"
        )

    @staticmethod
    def write(text: str, end: str = "") -> None:
        sys.stderr.write(text + end)
        sys.stderr.flush()


def main(wanted: list[str]) -> int:
    """Set up for all of `wanted`; the exit code."""
    if unknown := [word for word in wanted if word not in (NODE, WORKER, DEV)]:
        raise SetupError(f"unknown: {' '.join(unknown)}. Use: scripts/setup [node] [worker] [dev]")
    if sys.platform == "win32":
        raise SetupError("meshnode runs on Linux and macOS; on Windows use WSL2: wsl --install")
    parts = read_stamp()
    if set(wanted or [WORKER]) <= set(parts):
        return 0
    with Path(__file__).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another terminal may be at it; then there is nothing left to do
        parts = read_stamp()
        missing = [word for word in wanted or [WORKER] if word not in parts]
        if missing:
            set_up(missing)
            write_stamp(sorted({NODE, *parts, *missing}))
    return 0


def set_up(parts: list[str]) -> None:
    """All steps, each of which may find itself done."""
    check_space()
    make_venv()
    upgrade_pip()
    requirements = worker_requirements()
    if WORKER in parts:
        build_llama(next(line for line in requirements if line.startswith(LLAMA)))
    # What the checks need of the worker is all but llama.cpp itself, which takes minutes to build.
    light = [line for line in requirements if not line.startswith(LLAMA)]
    group = ["--group", f"{ROOT / 'pyproject.toml'}:dev"] if DEV in parts else []
    run(
        "installing meshnode" + (" and its checks" if group else ""),
        pip("install", "-e", str(ROOT), *light, *group),
    )


def check_space() -> None:
    free = shutil.disk_usage(ROOT).free
    if free < SPACE_NEEDED_BYTES:
        raise SetupError(f"{ROOT} has {free >> 20} MiB free; the set-up needs {SPACE_NEEDED_BYTES >> 20} MiB")


def make_venv() -> None:
    """A virtual environment that works: one that was left half made is made anew."""
    if PYTHON.exists() and quiet([str(PYTHON), "-m", "pip", "--version"]):
        return
    progress = Progress("making .venv")
    venv.create(VENV, clear=True, with_pip=True, symlinks=True)
    progress.end()


def upgrade_pip() -> None:
    """The pip that ships with Python is often too old to know dependency groups."""
    said = quiet([str(PYTHON), "-m", "pip", "--version"]) or ""
    found = re.search(r"pip (\d+)\.(\d+)", said)
    if not found or (int(found[1]), int(found[2])) < PIP_MIN:
        run("upgrading pip", pip("install", "--upgrade", f"pip>={PIP_MIN[0]}.{PIP_MIN[1]}"))


def build_llama(requirement: str) -> None:
    """llama.cpp for this machine, unless it is there. The build is kept, for the next clone."""
    key = build_key(requirement)
    if BUILD_KEY.exists() and BUILD_KEY.read_text() == key and works():
        return
    kept = BUILDS / key
    if not list(kept.glob("*.whl")):
        compile_llama(requirement, kept)
    quiet(pip("uninstall", "-y", LLAMA))
    run("installing llama.cpp", pip("install", *map(str, kept.glob("*.whl"))))
    if not works():
        raise SetupError(f"llama.cpp was built and cannot be loaded; remove {kept} and run it again")
    BUILD_KEY.write_text(key)


def works() -> bool:
    """Whether the installed llama.cpp can be loaded."""
    return quiet([str(PYTHON), "-c", "import llama_cpp.llama_cpp"]) is not None


def build_key(requirement: str) -> str:
    """Names a build: what is built, how, by which Python, and for which processor."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        flags = None
    facts = (requirement, sys.version, platform.machine(), flags[0] if flags else platform.processor())
    return hashlib.sha256("\0".join((RECIPE.read_text(), *QUICK[:-1], *facts)).encode()).hexdigest()[:16]


def compile_llama(requirement: str, kept: Path) -> None:
    """Build the wheel, and make room for it among those that are kept."""
    environment = dict(os.environ)
    options = QUICK
    if not has_compiler():
        options = [*QUICK, "-DGGML_OPENMP=OFF", *zig_compiler(environment)]
    environment["CMAKE_ARGS"] = f"{environment.get('CMAKE_ARGS', '')} {shlex.join(options)}".strip()
    cores = os.cpu_count() or 1
    minutes = max(1, round((13 if not has_compiler() else 4) / cores))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=kept.parent) as part:
        run(
            f"building llama.cpp, about {minutes} min on {cores} cores",
            # Without pip's cache: it would not tell this build from one with other options.
            pip("wheel", "-v", "--no-cache-dir", "--no-deps", "--no-binary", LLAMA, "-w", part, requirement),
            environment,
        )
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(part, kept)
        Path(part).mkdir()  # for the context to remove
    builds = [build for build in kept.parent.iterdir() if not build.name.startswith("building-")]
    for old in sorted(builds, key=lambda build: build.stat().st_mtime)[:-BUILDS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def has_compiler() -> bool:
    """Whether there is a C and a C++ compiler that can be used."""
    c = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    cxx = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    return bool(c and cxx)


def zig_compiler(environment: dict[str, str]) -> list[str]:
    """A compiler from PyPI: `zig cc` behind wrappers, named in the environment; further CMake options."""
    run("no C++ compiler here: fetching zig's", pip("install", "ziglang"))
    where = quiet([str(PYTHON), "-c", "import ziglang; print(ziglang.__path__[0])"])
    if not where:
        raise SetupError("ziglang cannot be used; install a C++ compiler, such as g++")
    tools = VENV / "zig"
    tools.mkdir(exist_ok=True)
    for name in ("cc", "c++", "ar", "ranlib"):
        wrapper = tools / name
        wrapper.write_text(f'#!/bin/sh\nexec "{where.strip()}/zig" {name} "$@"\n')
        wrapper.chmod(0o755)
    environment.update(CC=str(tools / "cc"), CXX=str(tools / "c++"))
    return [f"-DCMAKE_AR={tools / 'ar'}", f"-DCMAKE_RANLIB={tools / 'ranlib'}"]


def worker_requirements() -> list[str]:
    """The `worker` extra, from the one place that states it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"][WORKER])


def pip(*arguments: str) -> list[str]:
    return [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def quiet(command: list[str]) -> str | None:
    """A command's output, or None when it fails."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout if found.returncode == 0 else None


def run(what: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a step, showing how far it is; its whole output goes to the log."""
    progress = Progress(what)
    last: deque[str] = deque(maxlen=25)
    with (
        LOG.open("a") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            last.append(line)
            progress.step(line)
    if process.returncode:
        progress.end("failed")
        raise SetupError(
            f"{what} failed:\n{''.join(last)}\nThe whole output is in {LOG}; run it again to retry."
        )
    progress.end()


def fingerprint() -> str:
    """Changes whenever what is to be installed changes."""
    files = (ROOT / "pyproject.toml", RECIPE, Path(__file__))
    inputs = [*(file.read_bytes() for file in files), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(inputs)).hexdigest()


def read_stamp() -> list[str]:
    """What is installed already, as this set-up would install it."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return []
    return list(stamp["parts"]) if stamp.get("fingerprint") == fingerprint() and PYTHON.exists() else []


def write_stamp(parts: list[str]) -> None:
    part = STAMP.with_suffix(".part")
    part.write_text(json.dumps({"fingerprint": fingerprint(), "parts": parts}))
    part.replace(STAMP)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; run it again to go on\n")
        sys.exit(130)
