"""The page about signed weights: its program runs as it stands, and its words are the code's."""

import re
from pathlib import Path

from meshnode.routing.policy import Reason
from meshnode.trust import weights

PAGE = (Path(__file__).parents[2] / "docs" / "trust.md").read_text(encoding="utf-8")


def test_the_program_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/trust.md", "exec"), {})


def test_its_words_are_the_codes() -> None:
    assert f'"{Reason.SIGNER}"' in PAGE
    assert f"`{weights.DOMAIN.decode()}`" in PAGE
    assert f"`{weights.KIND.decode()}`" in PAGE
