"""A worker that was taken over: confined in the very way of the real one, then it tries to get out.

Its only argument is JSON: `secret` and `model` as they lie outside, the `node` process, a `port` that listens
on this machine, and `without`, a protection to leave out. What each attempt came to leaves in Ready's
metadata: nothing for one that was refused, else what it got.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import struct
import sys
import threading
from pathlib import Path

from meshnode.engine.worker import __main__ as worker
from meshnode.engine.worker import confinement
from meshnode.engine.worker.frames import Confined, Ready

CHUNK_BYTES = 16 << 20
DISK_BYTES_MAX, FILE_BYTES = 64 << 20, 4 << 20
MEMORY_BYTES_MAX = 4 << 30
THREADS_MAX = 1500
REFUSALS = (OSError, MemoryError, RuntimeError, ValueError)

given = json.loads(sys.argv[1])
secret, model, node = Path(given["secret"]), Path(given["model"]), given["node"]
libc = ctypes.CDLL(None, use_errno=True)
KEYCTL, BPF, IO_URING, CAPGET = {"x86_64": (250, 321, 425, 125), "aarch64": (219, 280, 425, 90)}[
    os.uname().machine
]


def call(name, *arguments):
    """A function of the C library, or a system call by its number."""
    function = getattr(libc, name) if isinstance(name, str) else libc.syscall
    packed = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    if function(*([] if isinstance(name, str) else [ctypes.c_long(name)]), *packed) < 0:
        raise OSError(ctypes.get_errno(), name)
    return "done"


def opened(path, how):
    os.close(os.open(path, how))
    return "opened"


def connect():
    with socket.create_connection(("127.0.0.1", given["port"]), timeout=1):
        return "connected"


def write_into(directory):
    path = Path(directory) / "hostile"
    path.write_bytes(b"x")
    path.unlink()
    return f"wrote into {directory}"


def fork():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return "forked"


def become_another():
    """Not even the kernel's own reasons against it are heard: the call itself is refused."""
    try:
        os.execv(first.path, ["model"])
    except OSError as error:
        if error.errno != errno.EPERM:
            return "the kernel has looked at the file"
        raise


def start_threads():
    """As many as go; they all end at the end."""
    done, count = threading.Event(), 0
    try:
        while count < THREADS_MAX:
            threading.Thread(target=done.wait, daemon=True).start()
            count += 1
    finally:
        done.set()
    return f"{count} threads"


def fill_disk():
    """How much a scratch space takes before it is full; more than a bound is a breach."""
    for number in range(DISK_BYTES_MAX // FILE_BYTES):
        Path(f"/tmp/fill-{number}").write_bytes(bytes(FILE_BYTES))
    return f"{DISK_BYTES_MAX} bytes"


def capabilities():
    """Those in force, whether or not they would be of use."""
    found = ctypes.create_string_buffer(24)
    call(CAPGET, struct.pack("=Ii", 0x20080522, 0), found)
    if not any(found.raw):
        raise OSError("none")
    return found.raw.hex()


def fill_memory(flags):
    """Addresses are what is bounded, so none of it needs to be written to."""
    held = [mmap.mmap(-1, CHUNK_BYTES, flags=flags) for _ in range(MEMORY_BYTES_MAX // CHUNK_BYTES)]
    return f"{len(held) * CHUNK_BYTES} bytes"


def slow_down():
    os.setpriority(os.PRIO_PROCESS, node, os.getpriority(os.PRIO_PROCESS, node))
    return "done"


def list_processes():
    """Other processes, where they can be seen at all."""
    others = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    if not others:
        raise OSError("alone")
    return f"{len(others)} processes"


ATTEMPTS = {
    "socket inet": lambda: str(socket.socket()),
    "socket inet6": lambda: str(socket.socket(socket.AF_INET6)),
    "socket unix": lambda: str(socket.socket(socket.AF_UNIX)),
    "socket netlink": lambda: str(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "socket pair": lambda: str(socket.socketpair()),
    "connect to the API": connect,
    "write to /": lambda: write_into("/"),
    "write to the home": lambda: write_into(secret.parent),
    "write beside the model": lambda: write_into(model.parent),
    "write to shared memory": lambda: write_into("/dev/shm"),
    "write to Python": lambda: write_into(Path(os.__file__).parent),
    "write to meshnode": lambda: write_into(Path(worker.__file__).parent),
    "change the model": lambda: opened(model, os.O_RDWR),
    "change the model as it is seen here": lambda: opened(first.path, os.O_RDWR),
    "read the key": secret.read_text,
    "read the key by the node's root": lambda: Path(f"/proc/{node}/root{secret}").read_text(),
    "read the key by this root": lambda: Path(f"/proc/self/root{secret}").read_text(),
    "read the key by pid 1's root": lambda: Path(f"/proc/1/root{secret}").read_text(),
    "open the key to all": lambda: str(secret.chmod(0o644) or "done"),
    "delete the key": lambda: str(secret.rename(secret.with_name("stolen")).rename(secret)),
    "read the passwords": Path("/etc/passwd").read_text,
    "read the node's environment": Path(f"/proc/{node}/environ").read_text,
    "read the node's memory": lambda: opened(f"/proc/{node}/mem", os.O_RDONLY),
    "see processes": list_processes,
    "signal the node": lambda: str(os.kill(node, 0) or "done"),
    "trace the node": lambda: call("ptrace", 16, node, 0, 0) + call("ptrace", 17, node, 0, 0),
    "limit the node": lambda: str(resource.prlimit(node, resource.RLIMIT_CORE)),
    "slow the node down": slow_down,
    "fork": fork,
    "run a shell": lambda: str(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})),
    "become another program": become_another,
    "be more than others": capabilities,
    "threads without end": start_threads,
    "fill the disk": fill_disk,
    "fill the memory": lambda: fill_memory(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
    "fill the memory with what can be shared": lambda: fill_memory(mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
    "raise a limit": lambda: str(resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40)) or "done"),
    "outlive the node": lambda: call("prctl", 1, 0, 0, 0, 0),
    "another user space": lambda: call("unshare", 0x10000000),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "kernel keys": lambda: call(KEYCTL, 0, -3, 0),
    "bpf": lambda: call(BPF, 5, bytes(128), 128),
    "io_uring": lambda: call(IO_URING, 1, ctypes.create_string_buffer(120)),
}


def outcome(attempt):
    try:
        return attempt() or "done"
    except REFUSALS:
        return ""


def leave_out(protection):
    """Be the worker of a meshnode that forgot something."""
    match protection:
        case "filter":
            confinement.seccomp.install = lambda: None
        case "landlock":
            confinement.landlock.restrict = lambda readable: None
        case "limits":
            confinement._limit = lambda wall: None


leave_out(given.get("without", ""))
pipes = worker.Pipes()
first = pipes.first()
posture = confinement.confine(first.wall, first.path)
if given.get("stays"):  # deaf to the end of its input
    worker._die = lambda *_: threading.Event().wait()
pipes.start()
wanted = given.get("attempts") or list(ATTEMPTS)
pipes.emit(
    [
        Confined(posture),
        Ready(
            metadata={name: outcome(ATTEMPTS[name])[:200] for name in wanted},
            file_type=0,
            parameters=0,
            weights_bytes=0,
            context=0,
            slots=1,
            threads=1,
            prompt_tps=0.0,
            generate_tps=0.0,
            batch_gain=1.0,
        ),
    ]
)
if given.get("stays"):
    threading.Event().wait()
