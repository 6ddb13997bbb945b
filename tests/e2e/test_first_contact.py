"""First contact: a newcomer types what the README's beginning shows, in two real terminals on two networked devices.

Each terminal is a pane of tmux in a network namespace with an empty HOME; the model is the small real one.
"""

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshnode.testing import namespaces
from tests.docs.blocks import Command, blocks_of, commands_of
from tests.docs.shown import compare, normal
from tests.docs.stage import lay_out
from tests.e2e.world import surroundings

FIRST_COMMANDS_MAX, NEXT_COMMANDS_MAX = 3, 2
WITHIN_S = 25.0
LOOK_EVERY_S = 0.1
HEIGHT = 60
WIDTHS = {"desk": 80, "laptop": 120}
PROMPT = "> $ "  # of these shells: no program prints it
CONTINUED = ">> "  # the same where a quotation goes on
TICKET = re.compile(r"mesh1[a-z2-7]{40,}")

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not shutil.which("tmux"), reason="there is no tmux"),
    pytest.mark.skipif(bool(namespaces.refusal()), reason=f"no network namespaces: {namespaces.refusal()}"),
]


class Terminals:
    """Panes of one tmux of our own, each with a shell on one device."""

    def __init__(self, root: Path, network: namespaces.Network) -> None:
        self._root, self._network = root, network
        self._socket = root / "tmux"
        self._widths: dict[str, int] = {}

    def open(self, pane: str, device: str) -> None:
        """A new terminal on a device; the first one lays out the device's empty home."""
        home = self._root / device
        if not home.exists():
            lay_out(home, installed=False)
        host = self._network.hosts[device]
        shell = [
            *host.program,
            "env",
            *(f"{name}={value}" for name, value in _environment(home, device).items()),
        ]
        size = ["-x", str(WIDTHS[device]), "-y", str(HEIGHT)]
        line = f"cd {shlex.quote(str(home))} && exec {shlex.join([*shell, 'bash', '--norc', '--noprofile'])}"
        self._tmux("-f", os.devnull, "new-session", "-d", "-s", pane, *size, line)

    def type(self, pane: str, text: str) -> None:
        """Type a command once the shell waits for one, and press Enter."""
        self.until(pane, rf"{re.escape(PROMPT.rstrip())}\Z")
        self._tmux("send-keys", "-t", pane, "-l", text)
        self._tmux("send-keys", "-t", pane, "Enter")

    def press(self, pane: str, key: str) -> None:
        """Press a key such as C-c."""
        self._tmux("send-keys", "-t", pane, key)

    def screen(self, pane: str, *, joined: bool = True) -> str:
        """All that stands in a pane, also above its upper edge; as it is broken there unless `joined`."""
        return self._tmux("capture-pane", "-p", "-S", "-", "-t", pane, *(["-J"] if joined else [])).rstrip()

    def since(self, pane: str, typed: str) -> str:
        """What was printed after the last time that this was typed, without the prompt below it."""
        below = self.screen(pane).rpartition(f"{PROMPT}{typed}\n")[2]
        return below.removesuffix(PROMPT.rstrip())

    def until(self, pane: str, pattern: str) -> str:
        """The screen once the pattern is in it."""
        before = time.monotonic() + WITHIN_S
        while not re.search(pattern, shown := self.screen(pane), re.MULTILINE):
            assert time.monotonic() < before, f"no {pattern!r} in {pane} within {WITHIN_S} s:\n{shown}"
            time.sleep(LOOK_EVERY_S)
        return shown

    def shows(self, pane: str, typed: str, command: Command) -> None:
        """Wait until what the README shows below a command stands there, and more may follow."""
        before = time.monotonic() + WITHIN_S
        while compare([*command.shown, "…"], self.since(pane, typed) + "\n") is None:
            assert time.monotonic() < before, (
                f"the README shows:\n{normal(chr(10).join(command.shown))}\nin the terminal:\n{self.screen(pane)}"
            )
            time.sleep(LOOK_EVERY_S)

    def close(self) -> None:
        """End every terminal, and with it what runs there."""
        self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-u", "-S", str(self._socket), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WITHIN_S)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout


def _environment(home: Path, device: str) -> dict[str, str]:
    """What a newcomer's shell has: an empty home, and the model where this machine keeps it for tests."""
    ours = surroundings()
    cache = ours.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    clean = {name: value for name, value in ours.items() if not name.startswith(("XDG_", "TMUX"))}
    return {
        **clean,
        "HOME": str(home),
        "XDG_CACHE_HOME": cache,
        "CLONE": str(home / "clone"),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "MESHNODE_NAME": device,  # which is else the name of the machine, and this is one
        "PS1": PROMPT,
        "PS2": CONTINUED,
        "TERM": "screen-256color",
        "LC_ALL": "C.UTF-8",
    }


@contextmanager
def terminals(root: Path) -> Iterator[Terminals]:
    """Terminals on two devices in one network."""
    with namespaces.network(list(WIDTHS)) as network:
        made = Terminals(root, network)
        try:
            yield made
        finally:
            made.close()


def commands_on(device: str) -> list[Command]:
    """What the README's beginning has a newcomer type on a device."""
    blocks = [block for block in blocks_of("README.md") if block.kind == "console"]
    name = {"desk": ()}.get(device, (device,))
    return [command for block in blocks if block.words[1:] == name for command in commands_of(block)]


def simple(commands: list[Command]) -> list[str]:
    """The single commands in what is typed: two that are joined in one line are two."""
    return [part for command in commands for part in re.split(r"&&|;|\|", command.text)]


def test_the_readme_needs_three_commands_on_the_first_device_and_two_on_the_second() -> None:
    assert 1 <= len(simple(commands_on("desk"))) <= FIRST_COMMANDS_MAX
    assert 1 <= len(simple(commands_on("laptop"))) <= NEXT_COMMANDS_MAX


def test_from_nothing_to_the_answer_on_a_second_device(model_file: Path, tmp_path: Path) -> None:
    """And what a newcomer does next: the same command once more, a command that cannot work yet, and Ctrl-C."""
    folder = Path(os.environ.get("MESHNODE_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    with terminals(tmp_path) as seen:
        try:
            walk(seen)
        finally:
            keep(seen, folder)


def keep(seen: Terminals, folder: Path) -> None:
    """The screens as they were, for people to look at."""
    for pane in ("desk", "desk-2", "laptop"):
        text = seen.screen(pane, joined=False)
        (folder / f"first-contact-{pane}.txt").write_text(f"{text}\n", encoding="utf-8")


def walk(seen: Terminals) -> None:
    """From nothing to an answer, and a little further."""
    clone, start, ask = (command for command in commands_on("desk"))
    for pane, device in (("desk", "desk"), ("desk-2", "desk"), ("laptop", "laptop")):
        seen.open(pane, device)
    done(seen, "desk", real(clone.text))
    seen.type("desk", real(start.text))
    seen.shows("desk", start.text, start)
    ticket = TICKET.search(seen.until("desk", "^Ready to answer with smollm2:135m"))
    assert ticket
    assert_calm(seen.since("desk", start.text))
    seen.type("desk-2", ask.text)
    seen.shows("desk-2", ask.text.replace("\n", f"\n{CONTINUED}"), ask)
    clone, join = commands_on("laptop")
    done(seen, "laptop", real(clone.text))
    typed = real(join.text).replace("mesh1…", ticket[0])
    seen.type("laptop", typed)
    seen.until("laptop", "Ctrl-C stops it")
    seen.shows("laptop", typed, join)
    again(seen, typed)


def real(typed: str) -> str:
    """What is typed, with the address of what is cloned."""
    return typed.replace("<this repository>", '"$CLONE"')


def done(seen: Terminals, pane: str, typed: str) -> None:
    """Type a command that ends at once and says nothing wrong."""
    seen.type(pane, typed)
    seen.until(pane, rf"{re.escape(typed)}\n{re.escape(PROMPT.rstrip())}$")


def assert_calm(printed: str) -> None:
    """No line is said twice, and nothing that looks like a failure."""
    lines = [line for line in printed.splitlines() if line.strip()]
    assert len(lines) == len(set(lines)), printed
    assert not re.search(r"error|traceback|warning|waiting for memory", printed, re.IGNORECASE), printed


def again(seen: Terminals, typed: str) -> None:
    """Ctrl-C, a verb without a node, which says what to type, and the same command: no ticket is needed twice."""
    seen.press("laptop", "C-c")
    status = "meshnode/.venv/bin/meshnode status"
    seen.type("laptop", status)
    seen.until("laptop", "^hint: Start one with `meshnode/.venv/bin/meshnode up`")
    seen.type("laptop", typed)
    before = time.monotonic() + WITHIN_S
    while (shown := seen.screen("laptop")).count("Ctrl-C stops it") < 2:
        assert time.monotonic() < before, shown
        time.sleep(LOOK_EVERY_S)
    printed = seen.since("laptop", typed)
    assert "answered by desk#" in printed
    assert "error" not in printed
