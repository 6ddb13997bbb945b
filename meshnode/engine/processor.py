"""What this machine's processor makes of a model, as far as it matters to the node. It knows no model."""

from functools import cache
from pathlib import Path

# Of the weights, kept a second time in the order that the processor likes (measured with SmolLM2-135M).
REPACK_SHARE, REPACK_SHARE_AMX = 0.06, 0.7


@cache
def repack_share(cpuinfo: Path = Path("/proc/cpuinfo")) -> float:
    """Which share of the weights llama.cpp keeps twice: most of them where it uses AMX."""
    try:
        return REPACK_SHARE_AMX if " amx_int8" in cpuinfo.read_text(encoding="utf-8") else REPACK_SHARE
    except (OSError, UnicodeDecodeError):
        return REPACK_SHARE
