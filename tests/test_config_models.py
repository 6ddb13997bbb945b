"""Settings about models: what the guide shows, what is refused, and that they reach the engine and the choice."""

import re
from pathlib import Path

import pytest

from meshnode import config
from meshnode.errors import ConfigInvalid, ModelNotFound
from meshnode.terms import Job, Prompt, Rating
from tests.node.small_mesh import MODEL, World

GUIDE = (Path(__file__).parent.parent / "docs" / "routing.md").read_text(encoding="utf-8")


def loaded(home: Path, text: str) -> config.Config:
    (home / "config.toml").write_text(text)
    return config.load(home, {}, {})


def test_the_guide_shows_settings_that_work(tmp_path: Path) -> None:
    (table,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    found = loaded(tmp_path, table)
    assert (found.ratings[0].name, found.ratings[0].code) == ("qwen3:8b", 78)
    assert (found.prompts[0].family, found.prompts[0].temperature) == ("qwen3", 0.6)
    named = {*Rating.__struct_fields__, *Prompt.__struct_fields__}
    assert named <= set(re.findall(r"\w+", GUIDE))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[ratings]]\nname = "a:1b"\ncode = 101\n', "code"),
        ('[[ratings]]\nname = "a:1b"\ncooking = 1\n', "cooking"),
        ("[[ratings]]\ncode = 1\n", "name"),
        ('[[prompts]]\nfamily = "a"\ntemperature = 3\n', "temperature"),
        ('[[prompts]]\nfamily = "a"\nstop = [""]\n', "stop"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as error:
        loaded(tmp_path, text)
    assert named in str(error.value)


@pytest.mark.anyio
async def test_a_family_is_asked_as_its_owner_says(tmp_path: Path) -> None:
    prompt = Prompt(family="smollm2", system="Be brief.", temperature=0.1)
    seen: list[Job] = []
    async with World(tmp_path).node("a", engine="scripted", prompts=(prompt,)) as node:
        run = node.bench.run

        def watched(digest: bytes, job: Job, origin: bytes):
            seen.append(job)
            return run(digest, job, origin)

        node.bench.run = watched  # type: ignore[method-assign]
        async with node.ask("Why?", model=MODEL, max_tokens=2) as running:
            _ = [piece async for piece in running.pieces]
    assert [(turn.role, turn.content) for turn in seen[0].turns] == [
        ("system", "Be brief."),
        ("user", "Why?"),
    ]
    assert seen[0].sampling.temperature == 0.1


@pytest.mark.anyio
async def test_a_task_finds_a_model_and_an_unknown_one_names_those_there_are(tmp_path: Path) -> None:
    async with World(tmp_path).node("a", engine="scripted") as node:
        async with node.ask("Why?", model="auto:code", max_tokens=2) as running:
            assert running.answer.model == MODEL
        with pytest.raises(ModelNotFound) as error:
            async with node.ask("Why?", model="auto:cooking", max_tokens=2):
                pass
        assert "auto:reason" in (error.value.hint or "")
