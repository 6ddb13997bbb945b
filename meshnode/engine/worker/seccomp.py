"""Which system calls a worker may no longer make: a seccomp filter, as bytes for the kernel.

Deny by list: what could reach the network, another process, another program or a large, seldom used part of
the kernel fails with EPERM; a call by another architecture's numbers ends the process. The numbers are those
of Linux for x86-64 and for arm64 (None where it has no such call). It knows no model and no node.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

# What the kernel makes of a call.
ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
REFUSE = ERRNO | errno.EPERM
UNKNOWN = ERRNO | errno.ENOSYS  # the C library then takes an older call, which can be looked into

# struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
# Classic BPF: load a 32-bit word, jump if equal, if at least, if any of the bits is set, return.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
X32_NUMBERS = 0x40000000  # x86-64's second set of numbers, for the same calls

CLONE_THREAD = 0x00010000
PR_SET_PDEATHSIG = 1
OWNER_OF_SIGNALS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a way to send others a signal
SECCOMP_SET_MODE_FILTER, TSYNC = 1, 1
PR_SET_NO_NEW_PRIVS = 38

# No way to anybody, not even to this machine's own programs.
_NETWORK = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
}
# Other processes: looked into, stopped, slowed down or talked to.
_OTHERS = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
# Other programs, as new processes or in this one.
_PROGRAMS = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "memfd_create": (319, 279),
    "personality": (135, 92),
}
# What landlock leaves open: attributes of files, and files without a path.
_FILES = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "utimensat": (280, 88),
    "futimesat": (261, None),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
}
# Other views of the system.
_SPACES = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "swapon": (167, 224),
    "swapoff": (168, 225),
}
# Large or privileged parts of the kernel that no inference needs.
_KERNEL = {
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "iopl": (172, None),
    "ioperm": (173, None),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
}
_DENIED = _NETWORK | _OTHERS | _PROGRAMS | _FILES | _SPACES | _KERNEL
# Those that must be looked into; also `clone3`, whose flags no filter can see.
_CLONE, _CLONE3, _TGKILL, _PRCTL, _PRLIMIT, _FCNTL = (
    (56, 220),
    (435, 435),
    (234, 131),
    (157, 167),
    (302, 261),
    (72, 25),
)
_SECCOMP = (317, 277)
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def supported(machine: str = "") -> bool:
    """Whether there is a filter for this processor."""
    return (machine or platform.machine()) in _MACHINES


def program(machine: str, pid: int) -> bytes:
    """The filter for a process that knows itself as `pid`; KeyError for an unknown machine."""
    architecture, column = _MACHINES[machine]
    parts = [
        _load(ARCHITECTURE_AT),
        _step(EQUAL, architecture, 1, 0),
        _return(KILL_PROCESS),
        _load(NUMBER_AT),
    ]
    if machine == "x86_64":
        parts += [_step(AT_LEAST, X32_NUMBERS, 0, 1), _return(KILL_PROCESS)]
    parts += [_refuse(numbers[column]) for numbers in _DENIED.values()]
    parts += [
        _refuse(_CLONE3[column], UNKNOWN),
        _looked_into(_CLONE[column], 0, [_step(ANY_BIT, CLONE_THREAD, 1, 0), _return(REFUSE)]),
        _looked_into(_TGKILL[column], 0, [_step(EQUAL, pid, 1, 0), _return(REFUSE)]),
        _looked_into(_PRLIMIT[column], 0, [_step(EQUAL, 0, 1, 0), _return(REFUSE)]),
        _looked_into(_PRCTL[column], 0, _never((PR_SET_PDEATHSIG,))),
        _looked_into(_FCNTL[column], 1, _never(OWNER_OF_SIGNALS)),
        _return(ALLOW),
    ]
    return b"".join(parts)


def install() -> None:
    """Put the filter on every thread of this process, for good. Raises OSError where that is not possible."""
    filter_bytes = program(platform.machine(), os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
    # struct sock_fprog: how many instructions, and where they are.
    header = struct.pack("@HP", len(filter_bytes) // 8, ctypes.addressof(buffer))
    number = _SECCOMP[_MACHINES[platform.machine()][1]]
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        ctypes.c_long(number), ctypes.c_long(SECCOMP_SET_MODE_FILTER), ctypes.c_long(TSYNC), header
    ):
        raise OSError(ctypes.get_errno(), "the filter for system calls cannot be installed")


def _step(code: int, value: int, then: int, otherwise: int) -> bytes:
    """One instruction; `then` and `otherwise` are how many of the next ones to skip."""
    return struct.pack("<HBBI", code, then, otherwise, value)


def _load(offset: int) -> bytes:
    return _step(LOAD, offset, 0, 0)


def _return(action: int) -> bytes:
    return _step(RETURN, action, 0, 0)


def _refuse(number: int | None, action: int = REFUSE) -> bytes:
    return b"" if number is None else _step(EQUAL, number, 0, 1) + _return(action)


def _never(values: Iterable[int]) -> list[bytes]:
    return [step for value in values for step in (_step(EQUAL, value, 0, 1), _return(REFUSE))]


def _looked_into(number: int, argument: int, checks: list[bytes]) -> bytes:
    """Apply the checks to the low half of an argument; what passes them is allowed."""
    body = [_load(ARGUMENTS_AT + 8 * argument), *checks, _return(ALLOW)]
    return _step(EQUAL, number, 0, len(body)) + b"".join(body)
