"""The site of the documentation is built without a warning, and needs nothing from elsewhere to be read."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.blocks import ROOT, pages

FETCHED = re.compile(
    r'<(?:script|img|iframe)[^>]* src="https?://|<link[^>]* rel="?(?:stylesheet|preconnect)[^>]*"https?://'
)


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "scripts" / "build_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_built_strictly_and_is_whole(docs: ModuleType, tmp_path: Path) -> None:
    docs.lay_out()
    assert docs.build(tmp_path) == 0
    made = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    assert len(made) == len(pages()) + 1  # and 404
    for text in made:
        assert not FETCHED.search(text)
        assert "```" not in text
    shown = (tmp_path / "docs" / "guides" / "join-devices" / "index.html").read_text(encoding="utf-8")
    assert '<span class="filename">laptop</span>' in shown


def test_an_anchor_that_leads_nowhere_is_an_error(docs: ModuleType, tmp_path: Path) -> None:
    docs.lay_out()
    with (docs.PAGES / "docs" / "api.md").open("a") as page:
        page.write("\n[nowhere](trust.md#no-such-heading)\n")
    assert docs.build(tmp_path) != 0
