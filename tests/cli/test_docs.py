"""The page about the command line is what the program says now."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "gen_cli_docs.py"


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("gen_cli_docs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text() == module.page(), "run python scripts/gen_cli_docs.py"
    assert module.SCHEMA.read_text() == module.schema_text(), "run python scripts/gen_cli_docs.py"
