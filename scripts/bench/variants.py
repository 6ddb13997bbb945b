"""Models for benchmarks: the real files, and worse copies as a peer might run them in place of what it claims."""

import ctypes
import subprocess
import sys
from pathlib import Path

from llama_cpp import llama_cpp as c

KINDS = {
    "q2_k": c.LLAMA_FTYPE_MOSTLY_Q2_K,
    "q3_k": c.LLAMA_FTYPE_MOSTLY_Q3_K_S,
    "q4_0": c.LLAMA_FTYPE_MOSTLY_Q4_0,
}
_silent = c.llama_log_callback(lambda _level, _text, _user: None)


def model_file(name: str) -> Path:
    """A model's file in the machine's shared cache, fetched on first use."""
    command = [sys.executable, "-m", "meshnode.models", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


def variant(source: Path, kind: str, home: Path) -> Path:
    """The same weights in fewer bits, made by llama.cpp on first use and kept under `home`.

    Tensors whose rows do not fit the kind get another one of about as many bits, by llama.cpp's own rules.
    """
    target = home / f"{source.name[:24]}-{kind}.gguf"
    if target.exists():
        return target
    home.mkdir(parents=True, exist_ok=True)
    c.llama_log_set(_silent, ctypes.c_void_p(0))
    params = c.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = KINDS[kind], True, 2
    half = target.with_suffix(".half")
    print(f"making {target.name} (once)", file=sys.stderr)
    if c.llama_model_quantize(str(source).encode(), str(half).encode(), params):
        raise SystemExit(f"llama.cpp could not make {kind} of {source}")
    half.rename(target)
    return target
