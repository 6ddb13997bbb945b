"""Writes docs/cli.md and docs/cli-output.schema.json from the program itself.

`python scripts/gen_cli_docs.py` writes, `--check` only compares.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from meshnode.cli import exits
from meshnode.cli.outputs import OUTPUTS, schema
from meshnode.cli.program import program
from meshnode.cli.verb import ALIASES
from meshnode.config import every_setting
from meshnode.errors import every_error

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
SCHEMA = TARGET.with_name("cli-output.schema.json")
WIDTH = 100

HEAD = """\
# The command line

This page is made from the program by `scripts/gen_cli_docs.py`; change the program, not the page.

Every verb has `--home`, which says whose node is meant, and `--json`, which prints one JSON object a line.
Errors are two lines on standard error, `error: …` and `hint: …`, or `{"error": {…}}` with `--json`.
"""


def page() -> str:
    """The whole page."""
    verbs = [_section(name, command) for name, command in _commands(program)]
    return "\n".join([HEAD, _help("meshnode", program), *verbs, _outputs(), _settings(), _exit_codes()])


def _commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name; a group's come after it."""
    for name, command in group.commands.items():
        yield f"{before}{name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")


def _section(name: str, command: click.Command) -> str:
    aliases = [alias for alias, of in ALIASES.items() if of == name]
    title = f"## meshnode {name}" + (f" (also: {', '.join(aliases)})" if aliases else "")
    return f"{title}\n\n{_help(f'meshnode {name}', command)}"


def _help(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return f"```\n{command.get_help(context).rstrip()}\n```\n"


def _settings() -> str:
    rows = [f"| `{item.name}` | `{item.default}` | {item.description} |" for item in every_setting()]
    return "\n".join([
        "## Settings\n",
        "A flag beats the environment (`MESHNODE_` and the name in capitals), that beats `config.toml` in the",
        "home, which beats the default. `meshnode config show` says which of them has decided each setting.\n",
        "| setting | default | meaning |",
        "|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def _outputs() -> str:
    """Which lines each verb prints, and what these are."""
    rows = [
        f"| `{verb}` | {', '.join(f'`{kind.__name__}`' for kind in kinds)} |"
        for verb, kinds in OUTPUTS.items()
    ]
    kinds = dict.fromkeys(kind for kinds in OUTPUTS.values() for kind in kinds)
    about = [f"| `{kind.__name__}` | {_meaning(kind)} |" for kind in kinds]
    return "\n".join([
        "## JSON output\n",
        "With `--json` each line is one of these objects; a verb that fails prints `Failed`,",
        "`{\"error\": {…}}`, last. Their fields are in [cli-output.schema.json](cli-output.schema.json), JSON Schema",
        "made from the program: `verbs` says what a line of each verb must match. Later versions may add fields.\n",
        "| verb | lines |",
        "|---|---|",
        *rows,
        "",
        "| line | meaning |",
        "|---|---|",
        *about,
        "",
    ])  # fmt: skip


def schema_text() -> str:
    """The schema as its file has it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _exit_codes() -> str:
    kinds = every_error()
    rows = [f"| {code} | `{name}` | {_meaning(kinds[name])} |" for name, code in exits.TABLE.items()]
    head = ["## Exit codes\n", "| code | error | meaning |", "|---|---|---|"]
    fixed = [f"| {exits.OK} | | It worked. |", f"| {exits.INTERRUPTED} | | Ctrl-C. |"]
    return "\n".join([*head, *fixed, *rows, ""])


def _meaning(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split()).replace("`", "")


def main() -> int:
    """Write the page, or say whether it is current."""
    if "--check" in sys.argv:
        pairs = ((TARGET, page()), (SCHEMA, schema_text()))
        return 0 if all(path.is_file() and path.read_text() == text for path, text in pairs) else 1
    TARGET.write_text(page())
    SCHEMA.write_text(schema_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
