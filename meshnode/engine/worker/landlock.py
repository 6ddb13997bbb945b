"""Landlock: a process takes from itself, for good, all files but a few, TCP, and signals to others.

It needs no privilege and no namespace, only Linux 6.2 or newer (its third version, which also covers
truncation). It holds for the thread that asks and for those that come after it, so ask before there are any.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every processor
VERSION_FLAG = 1
VERSION_MIN = 3
RULE_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FILES_V3 = (1 << 15) - 1  # every kind of access to files that version 3 knows
FILES_V5 = (1 << 16) - 1  # and ioctl on devices
TCP_V4 = 0b11  # bind and connect
SCOPES_V6 = 0b11  # abstract unix sockets, signals
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Which landlock the kernel has; 0 for none."""
    try:
        return _call(CREATE_RULESET, None, 0, VERSION_FLAG)
    except OSError:
        return 0


def restrict(readable: Iterable[str]) -> None:
    """From now on these files and directories can be read, /dev/null written, and no more. Raises OSError."""
    known = version()
    if known < VERSION_MIN:
        raise OSError(f"this kernel's landlock is of version {known}, and {VERSION_MIN} is needed")
    files = FILES_V5 if known >= 5 else FILES_V3
    attributes = struct.pack("=QQQ", files, TCP_V4 if known >= 4 else 0, SCOPES_V6 if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = _call(CREATE_RULESET, attributes, size, 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        _allow(ruleset, os.devnull, READ_FILE | WRITE_FILE)
        if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "new privileges cannot be given up")
        _call(RESTRICT_SELF, ruleset, 0, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int = READ_FILE | EXECUTE) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            access |= READ_DIR
        _call(ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", access, opened), 0)
    finally:
        os.close(opened)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A system call that the C library has no function for; raises OSError."""
    packed = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *packed)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
