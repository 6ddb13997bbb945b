"""The page about trust: its programs run as they stand, and its words are the code's."""

import re
from pathlib import Path

from meshnode.mesh.ads import EVIDENCE_BYTES_MAX
from meshnode.routing.policy import Reason
from meshnode.trust import certificates, recovery, weights

PAGE = (Path(__file__).parents[2] / "docs" / "trust.md").read_text(encoding="utf-8")


def test_the_program_runs() -> None:
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(programs) == 2
    for code in programs:
        exec(compile(code, "docs/trust.md", "exec"), {})


def test_its_figures_are_the_codes() -> None:
    assert f"at most {certificates.WEIGHTS_MAX}, unless" in PAGE
    assert f"at most {EVIDENCE_BYTES_MAX} bytes" in PAGE
    assert f"at least {recovery.PASSPHRASE_CHARACTERS_MIN} characters" in PAGE
    assert f"{recovery.MEMORY_BYTES >> 20} MiB, four passes" in PAGE
    assert recovery.OPS == 4


def test_its_words_are_the_codes() -> None:
    assert f'"{Reason.SIGNER}"' in PAGE
    assert f"`{weights.DOMAIN.decode()}`" in PAGE
    assert f"`{weights.KIND.decode()}`" in PAGE
