"""The filter as the kernel reads it, for both processors: one of them is not the one that runs this."""

import struct

import pytest

from meshnode.engine.worker import seccomp
from meshnode.engine.worker.seccomp import ALLOW, KILL_PROCESS, REFUSE, UNKNOWN, program

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OWN = 7  # what the process takes for its id
NEW_USER, NEW_THREAD = 0x10000000, 0x00010000


def verdict(machine, number, *arguments, architecture=None):
    """Run the filter's program as the kernel would; its instructions are four."""
    facts = struct.pack(
        "<IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *arguments, *[0] * (6 - len(arguments))
    )
    steps = list(struct.iter_unpack("<HBBI", program(machine, OWN)))
    at, held = 0, 0
    while True:
        code, then, otherwise, value = steps[at]
        at += 1
        match code:
            case seccomp.LOAD:
                held = struct.unpack_from("<I", facts, value)[0]
            case seccomp.RETURN:
                return value
            case seccomp.EQUAL:
                at += then if held == value else otherwise
            case seccomp.AT_LEAST:
                at += then if held >= value else otherwise
            case seccomp.ANY_BIT:
                at += then if held & value else otherwise


@pytest.mark.parametrize(
    ("name", "x86", "arm"),
    [
        ("read", 0, 63),
        ("write", 1, 64),
        ("openat", 257, 56),
        ("mmap", 9, 222),
        ("futex", 202, 98),
        ("getrandom", 318, 278),
        ("exit_group", 231, 94),
        ("sched_getaffinity", 204, 123),
    ],
)
def test_what_a_worker_computes_with_is_left_to_it(name, x86, arm):
    assert verdict("x86_64", x86) == ALLOW
    assert verdict("aarch64", arm) == ALLOW


@pytest.mark.parametrize(
    ("name", "x86", "arm"),
    [
        ("socket", 41, 198),
        ("connect", 42, 203),
        ("ptrace", 101, 117),
        ("execve", 59, 221),
        ("execveat", 322, 281),
        ("unshare", 272, 97),
        ("mount", 165, 40),
        ("bpf", 321, 280),
        ("keyctl", 250, 219),
        ("io_uring_setup", 425, 425),
        ("userfaultfd", 323, 282),
        ("kill", 62, 129),
        ("process_vm_writev", 311, 271),
        ("perf_event_open", 298, 241),
        ("fchmodat", 268, 53),
    ],
)
def test_what_leads_out_is_refused(name, x86, arm):
    assert verdict("x86_64", x86) == REFUSE
    assert verdict("aarch64", arm) == REFUSE


@pytest.mark.parametrize(("machine", "clone"), [("x86_64", 56), ("aarch64", 220)])
def test_threads_may_be_started_and_processes_not(machine, clone):
    assert verdict(machine, clone, NEW_THREAD) == ALLOW
    assert verdict(machine, clone, 17) == REFUSE  # a fork: only the signal for its end
    assert verdict(machine, clone, NEW_USER) == REFUSE
    assert verdict(machine, 435) == UNKNOWN  # clone3, so that the C library takes clone


@pytest.mark.parametrize(
    ("machine", "tgkill", "prlimit", "prctl", "fcntl"),
    [("x86_64", 234, 302, 157, 72), ("aarch64", 131, 261, 167, 25)],
)
def test_a_call_that_may_only_concern_oneself(machine, tgkill, prlimit, prctl, fcntl):
    assert (verdict(machine, tgkill, OWN), verdict(machine, tgkill, OWN + 1)) == (ALLOW, REFUSE)
    assert (verdict(machine, prlimit, 0), verdict(machine, prlimit, 5)) == (ALLOW, REFUSE)
    assert (verdict(machine, prctl, 15), verdict(machine, prctl, 1)) == (ALLOW, REFUSE)
    assert (verdict(machine, fcntl, 3, 1), verdict(machine, fcntl, 3, 8)) == (ALLOW, REFUSE)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_another_architectures_numbers_end_the_process(machine):
    assert verdict(machine, 0, architecture=0x40000003) == KILL_PROCESS  # 32-bit x86, whose 0 is another call
    other = ARCHITECTURES["aarch64" if machine == "x86_64" else "x86_64"]
    assert verdict(machine, 63, architecture=other) == KILL_PROCESS
    assert verdict("x86_64", 0x40000000 | 41) == KILL_PROCESS  # socket, by its x32 number


def test_a_processor_without_a_filter_is_told_of():
    assert not seccomp.supported("riscv64")
    with pytest.raises(KeyError):
        program("riscv64", OWN)
