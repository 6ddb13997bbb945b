"""The code and the settings in docs/api-keys.md, as they stand, and its tables against the program's own."""

import re
import sys
from pathlib import Path

import trio

from meshnode.cli import exits
from meshnode.config import ENV_KEY
from meshnode.control.keys import MadeKey
from meshnode.terms.profile import Profile, Scope
from meshnode.testing.processes import node_process
from tests.e2e.world import surroundings
from tests.test_readme import run_block

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api-keys.md").read_text(encoding="utf-8")
(CLIENT,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PROFILES,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


async def test_a_client_with_a_key_of_that_profile_is_answered(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    profiles = PROFILES.replace("min_tier = 3", "min_tier = 2").replace(
        'residency = ["eu"]', "residency = []"
    )
    assert profiles.count("= 2") == 1  # what this one node can keep
    assert "eu" not in profiles
    (home / "config.toml").write_text(f"api_require_key = true\n{profiles}")
    with trio.fail_after(60):
        async with node_process(home, ("--engine", "scripted")) as node:
            await node.event("ready")
            made = await node.call("keys_create", name="app", profile="team")
            url = await node.api_url()
            printed = await run_block(
                CLIENT.replace("http://127.0.0.1:8420", url), {"MESHNODE_API_KEY": made["key"]}
            )
            ask = [sys.executable, "-m", "meshnode.cli.main", "run", "auto", "hello", "--home", str(home)]
            codes = [
                (
                    await trio.run_process(ask, env=surroundings(**given), capture_stdout=True, check=False)
                ).returncode
                for given in ({}, {ENV_KEY: made["key"]})
            ]
    assert printed == "8\n"
    assert codes == [exits.TABLE["invalid_api_key"], exits.OK]
    assert MadeKey.__struct_fields__ == tuple(made)


def test_every_scope_and_field_is_on_the_page() -> None:
    for scope in Scope:
        assert f"| `{scope}` |" in PAGE
    for name in Profile.__struct_fields__:
        assert re.search(rf"^{name} = ", PROFILES, re.MULTILINE), name
