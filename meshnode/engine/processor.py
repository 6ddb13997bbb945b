"""What this machine's processor makes of a model, as far as it matters to the node. It knows no model."""

from functools import cache
from pathlib import Path

# Of the weights, kept a second time in the order that the processor likes (measured with SmolLM2-135M).
REPACK_SHARE, REPACK_SHARE_AMX = 0.06, 0.7


@cache
def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether llama.cpp multiplies with AMX here."""
    try:
        return " amx_int8" in cpuinfo.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def repack_share() -> float:
    """Which share of the weights llama.cpp keeps twice: most of them where it uses AMX."""
    return REPACK_SHARE_AMX if has_amx() else REPACK_SHARE


def flash_attention() -> bool:
    """Whether llama.cpp may use flash attention, which on processors with AMX is the slower way.

    Measured there with SmolLM2-135M, two threads, with and without: 15 tokens behind 1536 take 440 and 50 ms, one
    takes 40 and 12, a step of four answers behind 512 each 47 and 26, of eight 87 and 80.
    """
    return not has_amx()
