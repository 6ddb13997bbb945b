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
