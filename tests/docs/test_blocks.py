"""Every code block of the documentation is run by a test, or stands in one list with the reason why not."""

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, TERMINAL, Block, Command, blocks_in, blocks_of, commands_of, pages
from tests.docs.shown import compare
from tests.docs.stage import Stage, staged

GUIDES = [page for page in pages() if page.startswith("docs/guides/")]
ALONE = "```console\n$ meshnode up\n```\n"
SERVER = "```console server\n$ meshnode up\n```\n"  # speaks OpenAI's API, as the page's server does
BEFORE = {
    "README.md": "",
    "docs/api-keys.md": '```toml\n[[profiles]]\nname = "team"\n```\n' + ALONE,
    "docs/dashboard.md": ALONE,
    "docs/routing.md": ALONE,
    "docs/upstream.md": SERVER,
    **dict.fromkeys(GUIDES, ""),
    "docs/guides/share-a-server.md": SERVER,
}
# What another test runs, and how many there are: one more must be run there, or on the stage.
ELSEWHERE = {
    ("README.md", "python"): (2, "tests/test_readme.py"),
    ("docs/answers.md", ""): (1, "a drawing"),
    ("docs/api-keys.md", "python"): (1, "tests/e2e/test_key_docs.py"),
    ("docs/api-keys.md", "toml"): (1, "tests/e2e/test_key_docs.py"),
    ("docs/api.md", "python"): (2, "tests/e2e/test_api_docs.py"),
    ("docs/audit.md", "json"): (1, "tests/observe/test_audit_docs.py"),
    ("docs/audit.md", "python"): (2, "tests/observe/test_audit_docs.py"),
    ("docs/cache.md", "python"): (1, "tests/cache/test_docs.py"),
    ("docs/cache.md", "toml"): (1, "tests/cache/test_docs.py"),
    ("docs/cloud.md", "toml"): (1, "tests/test_config_cloud.py"),
    ("docs/library.md", "python"): (3, "tests/bridge/test_docs.py"),
    ("docs/models.md", "python"): (1, "tests/models/test_docs.py"),
    ("docs/observability.md", "python"): (1, "tests/observe/test_docs.py"),
    ("docs/routing.md", "toml"): (1, "tests/test_config_models.py"),
    ("docs/sandbox.md", ""): (1, "a drawing"),
    ("docs/sandbox.md", "python"): (1, "tests/engine/test_sandbox.py"),
    ("docs/simulate.md", "python"): (
        5,
        "tests/test_readme.py",
    ),  # two of them by tests/testing/test_plugin.py
    ("docs/spare-cycles.md", "python"): (1, "tests/node/test_sharing.py"),
    ("docs/trust.md", "python"): (2, "tests/trust/test_docs.py"),
    ("docs/upstream.md", "toml"): (1, "tests/test_config_upstreams.py"),
    ("docs/worker.md", ""): (1, "a drawing"),
    ("specs/session.md", "mermaid"): (1, "a drawing"),
    ("specs/streams.md", "mermaid"): (1, "a drawing"),
}
GENERATED = {"docs/cli.md"}  # compared with the program by tests/cli/test_docs.py
# What nobody runs, by its page and the first words in it.
NOT_RUN = {
    ("README.md", "scripts/test"): "is this suite, and the checks: .ci/run runs both",
    (
        "docs/audit.md",
        "meshnode audit tail",
    ): "needs the id of a request; docs/guides/operate.md is run instead",
    ("docs/audit.md", "meshnode audit heads"): "a file is carried between devices by hand",
    ("docs/benchmarks.md", "scripts/setup worker dev"): "takes minutes each, and measures a quiet machine",
    ("docs/observability.md", '{"ready": false'): "one answer of /readyz among many, as an example",
    ("docs/observability.md", "scrape_configs:"): "is read by Prometheus, not by this program",
    ("docs/simulate.md", "from contextlib import AsyncExitStack"): "takes root, for network namespaces",
    ("docs/simulate.md", "from meshnode.testing.roundtrips"): "needs a file of measured round trips",
    ("docs/spare-cycles.md", "# config.toml"): "depends on the hour and on what the machine does",
    ("docs/trust.md", "meshnode trust list"): "docs/guides/sensitive.md is run instead",
    (
        "docs/trust.md",
        "meshnode trust endorse laptop",
    ): "needs a mesh of its own; tests/cli/test_trust.py has the verb",
    ("docs/trust.md", "meshnode trust revoke"): "docs/guides/operate.md is run instead",
    (
        "docs/trust.md",
        "meshnode trust export-root",
    ): "asks at a terminal; docs/guides/operate.md is run instead",
    (
        "docs/trust.md",
        "meshnode trust sign-weights",
    ): "needs a model's file; tests/cli/test_trust.py has the verb",
    (
        "docs/trust.md",
        "meshnode trust verify-weights",
    ): "needs a model's file; tests/cli/test_trust.py has the verb",
    ("docs/trust.md", '{"model"'): "shows where a public key goes",
}


def reason_of(block: Block) -> str:
    """Why nobody runs this block, or nothing."""
    return next(
        (
            why
            for (page, words), why in NOT_RUN.items()
            if block.page == page and block.code.startswith(words)
        ),
        "",
    )


def on_stage(block: Block) -> bool:
    """Whether the block is played: what is typed, and in guides also settings and programs."""
    kinds = (*TERMINAL, "toml", "python") if block.page in GUIDES else TERMINAL
    return block.page in BEFORE and block.kind in kinds and not reason_of(block)


def set_up(stage: Stage, page: str) -> None:
    """What there is before the page begins."""
    for block in blocks_in(f"before {page}", BEFORE[page]):
        stage.play(block)
    if "server" in stage.devices:
        stage.words["127.0.0.1:11434"] = f"127.0.0.1:{stage.devices['server'].ports['8420']}"


@pytest.mark.parametrize("page", BEFORE)
def test_what_the_page_shows_happens(page: str, tmp_path: Path) -> None:
    played = [block for block in blocks_of(page) if on_stage(block)]
    assert played
    with staged(tmp_path, installed=page != "README.md") as stage:
        set_up(stage, page)
        for block in played:
            stage.play(block)


def test_every_block_is_run_or_says_why_not() -> None:
    left: dict[tuple[str, str], int] = {}
    for page in set(pages()) - GENERATED:
        for block in blocks_of(page):
            if not on_stage(block) and not reason_of(block):
                key = (block.page, block.kind)
                left[key] = left.get(key, 0) + 1
    assert left == {key: count for key, (count, _by) in ELSEWHERE.items()}


def test_the_test_that_is_named_reads_the_page() -> None:
    for (page, _kind), (_count, by) in ELSEWHERE.items():
        if by != "a drawing":
            assert Path(page).name in (ROOT / by).read_text(encoding="utf-8"), (page, by)


def test_no_reason_is_left_over() -> None:
    found = {reason_of(block) for page in pages() for block in blocks_of(page)}
    assert set(NOT_RUN.values()) <= found


def test_what_the_suite_cannot_run_itself_the_continuous_integration_does() -> None:
    (block,) = (block for block in blocks_of("README.md") if block.code.startswith("scripts/test"))
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert {command.text.split("#")[0].strip() for command in commands_of(block)} <= set(run)


def test_what_was_typed_and_what_was_printed_are_told_apart() -> None:
    (block,) = blocks_in("x", "```console laptop\n$ a 'b\nc' \\\n  d\none\n$ e\n```\n")
    assert block.words == ("console", "laptop")
    assert commands_of(block) == [Command("a 'b\nc' \\\n  d", ("one",)), Command("e")]
    (script,) = blocks_in("x", "```sh\n# a comment\na\n\nb\n```\n")
    assert [command.text for command in commands_of(script)] == ["a", "b"]


def test_what_is_shown_is_compared() -> None:
    assert compare(["a  b", "…", "mesh1… …"], "a b\nx\ny\nmesh1abc d e\n") == {"mesh1…": "mesh1abc"}
    assert compare(["a"], "a\nb\n") is None
    assert compare(["a …"], "a\n") is None
    assert compare(["mesh1…"], "mesh2abc\n") is None


def test_a_page_that_promises_something_else_fails(tmp_path: Path) -> None:
    for text in ("$ echo one\ntwo\n", "$ exit 3\n", "$ echo one\none\ntwo\n"):
        (block,) = blocks_in("x", f"```console\n{text}```\n")
        with staged(tmp_path / str(hash(text))) as stage, pytest.raises(AssertionError):
            stage.play(block)
