"""The page about models: its program runs as it stands, its commands exist, its bounds are the code's."""

import os
import re
import subprocess
import sys
from pathlib import Path

from meshnode.cli.program import program
from meshnode.models import catalog, download, place

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_program_runs(tmp_path, make_gguf):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "tiny.gguf").write_bytes(make_gguf(facts={"general.license": "mit"}))
    code = code.replace("smollm2:135m", str(tmp_path / "tiny.gguf"))
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MESHNODE_HOME": str(tmp_path / "home"),
        "MESHNODE_MESH_PORT": "0",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "mit"


def test_its_commands_exist():
    assert set(re.findall(r"`meshnode (\w+)", PAGE)) <= set(program.commands)


def test_its_names_and_bounds_are_the_codes():
    for name in catalog.CATALOG:
        assert f"`{name}`" in PAGE
    patience = download.PATIENCE
    assert (patience.stall_s, patience.tries, patience.pause_s) == (30.0, 6, 1.0)
    assert "no byte comes for 30 s" in PAGE
    assert "after six tries" in PAGE
    assert f"after {place.KEPT_S // 86_400} days" in PAGE
    assert f"less than {place.SPACE_SLACK_BYTES >> 20} MiB" in PAGE
