"""How a worker gives its power away before it opens a model, and tries to break out to see what is left.

The node says what is already around the worker (`Wall`); the rest is applied here: limits on resources,
landlock where there is no bubblewrap, the filter for system calls. Then everything that must fail is tried,
and what did not fail is in the Posture, whatever was wished. It knows no model and no llama.cpp.
"""

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress

from meshnode.engine.worker import landlock, seccomp
from meshnode.engine.worker.frames import Wall
from meshnode.errors import EngineFailed
from meshnode.terms import Posture

OPEN_FILES = 256
FILE_BYTES = 16 * 1024 * 1024  # one file in the scratch space
THREADS = 1024
SCRATCH = "/tmp"  # noqa: S108 - inside bubblewrap, where it is this worker's alone
PROBE = ".meshnode-probe"
PR_SET_PDEATHSIG = 1
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPABILITY_VERSION = 0x20080522

_FAMILIES = ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK")
# Always there outside, and no business of a worker's.
_WITNESS_FILES = ("/etc/passwd", "/proc/self/environ", "/proc/1/environ")
_WITNESS_PLACES = ("/", "/tmp", "/var/tmp", "/dev/shm", "/home", "/root")  # noqa: S108


def confine(wall: Wall, model: str) -> Posture:
    """Give away what a worker does not need, as far as this system can, and report what is left.

    Call it while the process has one thread: landlock holds for the thread that asks and its children. Raises
    EngineFailed when the wall that was wished for cannot be built; the node then starts with a weaker one.
    """
    _limit(wall)
    if wall.kind == "none" or not sys.platform.startswith("linux"):
        return Posture()
    _die_with_parent()
    _drop_capabilities()
    if wall.kind == "landlock":
        _restrict(wall, model)
    return measure(wall, model, why=_filter())


def measure(wall: Wall, model: str, why: str = "") -> Posture:
    """Try the network, writing and reading; an attempt that works counts, and what cannot be told does too."""
    return Posture(
        kind=wall.kind,
        network=any(map(_opens_socket, _FAMILIES)),
        writes=any(map(_can_write, (model, *wall.private, *wall.readable)))
        or any(map(_can_create_in, _places(wall, model))),
        reads=not wall.private or any(map(_can_read, (*wall.private, *_WITNESS_FILES))),
        why=why,
    )


def _restrict(wall: Wall, model: str) -> None:
    try:
        landlock.restrict([*wall.readable, model])
    except OSError as error:
        raise EngineFailed(f"landlock: {error.strerror or error}") from error


def _filter() -> str:
    """Filter system calls; why that was not possible, for a person."""
    try:
        seccomp.install()
    except (OSError, KeyError) as error:
        return f"system calls cannot be filtered here: {error}"
    return ""


def _limit(wall: Wall) -> None:
    """Bound what can be used up. Without any wall nothing is, but a core file would show what was asked."""
    bounds = {resource.RLIMIT_CORE: 0}
    if wall.kind != "none":
        bounds |= {resource.RLIMIT_NOFILE: OPEN_FILES, resource.RLIMIT_FSIZE: FILE_BYTES}
    if wall.kind == "bubblewrap":  # elsewhere it counts all of the owner's processes
        bounds[resource.RLIMIT_NPROC] = THREADS
    if wall.memory_bytes:
        bounds[resource.RLIMIT_AS] = wall.memory_bytes
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        least = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        with suppress(OSError, ValueError):  # a limit that this system does not know
            resource.setrlimit(kind, (least, least))


def _die_with_parent() -> None:
    """The kernel kills this process when its node ends, whatever this process is doing then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _drop_capabilities() -> None:
    """Be as weak as any other process, also when the node runs as root."""
    number = CAPSET.get(os.uname().machine)
    if number is not None:
        header = struct.pack("=Ii", CAPABILITY_VERSION, 0)
        ctypes.CDLL(None).syscall(ctypes.c_long(number), header, bytes(24))


def _opens_socket(family: str) -> bool:
    try:
        socket.socket(getattr(socket, family), socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _can_read(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


def _can_write(path: str) -> bool:
    """Whether a file could be changed; it is not."""
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True


def _places(wall: Wall, model: str) -> Iterable[str]:
    """Directories that must not take a file: those of everything named, and the usual ones."""
    named = [os.path.dirname(path) for path in (model, *wall.private, *wall.readable)]  # noqa: PTH120
    usual = (*_WITNESS_PLACES, os.getcwd())  # noqa: PTH109 - pathlib would be one more import
    places = dict.fromkeys([*usual, *wall.readable, *named])
    return [place for place in places if not (wall.kind == "bubblewrap" and _is_scratch(place))]


def _is_scratch(place: str) -> bool:
    """Whether it is on the scratch space's own file system, which bubblewrap has made."""
    try:
        return os.stat(place).st_dev == os.stat(SCRATCH).st_dev  # noqa: PTH116
    except OSError:
        return False


def _can_create_in(directory: str) -> bool:
    path = os.path.join(directory, f"{PROBE}-{os.getpid()}")  # noqa: PTH118
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return False
    os.unlink(path)  # noqa: PTH108
    return True
