"""Devices on this machine, each with a home, ports and a terminal of its own, on which a page is played.

What a page names is put in the place of what is real here: the usual ports, the addresses of devices, and words
with `…` that were printed before. The engine is the scripted one unless a page says otherwise.
"""

import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.docs.blocks import ROOT, Block, Command, commands_of
from tests.docs.shown import ANY, compare, normal
from tests.e2e.world import free_port, surroundings

ENDS_WITHIN_S = 20.0
LASTS = re.compile(r"(meshnode (up|serve|join)|scripts/start)\b(?!.*(--help|--mesh))")
READY = re.compile(r"^(Ready|Joined)", re.MULTILINE)
LOOKS = re.compile(r"meshnode (run|peers|status|audit tail)\b")
SETTLED_WITHIN_S = 15.0  # what a device has just said is known to the others, on a busy machine too
KEYS = "^C"
FIRST_ADDRESS = 20
PROGRAM = f'exec {shlex.quote(sys.executable)} -m meshnode.cli.main "$@"'
PYTHON = f'exec {shlex.quote(sys.executable)} "$@"'
SHIMS = {
    "python": PYTHON,
    "git": '[ "$1" = clone ] && ln -s "$CLONE" "$3"',  # a clone that is set up: setting one up takes minutes
}


def lay_out(folder: Path, *, installed: bool) -> None:
    """A person's folder: `bin` for the PATH, with the program in it only if it is installed, and what git clones."""
    shims = {**SHIMS, "meshnode": PROGRAM} if installed else SHIMS
    for name, line in shims.items():
        _program(folder / "bin" / name, f"#!/bin/sh\n{line}\n")
    clone = folder / "clone"
    _program(clone / "scripts" / "start", (ROOT / "scripts" / "start").read_text(encoding="utf-8"))
    _program(clone / "scripts" / "setup", "#!/bin/sh\n")
    _program(clone / ".venv" / "bin" / "python", f"#!/bin/sh\n{PYTHON}\n")
    entry = f"#!{sys.executable}\nfrom meshnode.cli.main import main\n\nmain()\n"
    _program(clone / ".venv" / "bin" / "meshnode", entry)


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


class Terminal:
    """A command that runs, and what it has printed so far."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.printed = ""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def more(self, before: float) -> bool:
        """Wait for another line; False once there is none any more. Raises TimeoutError."""
        try:
            line = self._lines.get(timeout=max(0.0, before - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"after {ENDS_WITHIN_S} s it had printed:\n{self.printed}") from None
        self.printed += line or ""
        return line is not None

    def send(self, sent: int) -> None:
        """A signal to all that it has started, if it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, sent)

    def end(self) -> None:
        """Wait for the end of what was told to end, and make one."""
        for harder in (False, True):
            if harder:
                self.send(signal.SIGKILL)
            try:
                self.process.wait(ENDS_WITHIN_S / 2)
                break
            except subprocess.TimeoutExpired:
                continue
        self._reader.join(ENDS_WITHIN_S)


class Device:
    """One device: a folder that is its HOME, its ports, the commands that still run in it."""

    def __init__(self, name: str, folder: Path, number: int, *, installed: bool) -> None:
        self.name = name
        self.folder = folder
        self.address = f"192.168.1.{FIRST_ADDRESS + number}"
        self.ports = {"8420": free_port(), "8421": free_port()}
        self.cwd = folder
        self.exports: list[str] = []
        self.node: Terminal | None = None
        self.terminals: list[Terminal] = []
        lay_out(folder, installed=installed)

    @property
    def home(self) -> Path:
        """The node's home, where its config.toml is."""
        return self.folder / ".local" / "share" / "meshnode"

    def env(self) -> dict[str, str]:
        """What its commands find in the environment."""
        given = surroundings(
            HOME=str(self.folder),
            CLONE=str(self.folder / "clone"),
            PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}",
            PYTHONUNBUFFERED="1",
            NO_COLOR="1",
            MESHNODE_HOME=str(self.home),
            MESHNODE_NAME=self.name,
            MESHNODE_ENGINE="scripted",
            MESHNODE_MODEL="smollm2:135m",
            MESHNODE_API_PORT=str(self.ports["8420"]),
            MESHNODE_MESH_PORT=str(self.ports["8421"]),
            MESHNODE_MESH_HOST="127.0.0.1",
        )
        return {name: value for name, value in given.items() if not name.startswith("XDG_")}


class Stage:
    """The devices of a page, and what its placeholders stand for."""

    def __init__(self, root: Path, *, installed: bool = True) -> None:
        self.root = root
        self._installed = installed
        self.devices: dict[str, Device] = {}
        self.words: dict[str, str] = {}

    def device(self, name: str) -> Device:
        """The device of this name; there is one from its first mention on."""
        if name not in self.devices:
            self.devices[name] = Device(name, self.root / name, len(self.devices), installed=self._installed)
        return self.devices[name]

    def real(self, text: str, on: Device) -> str:
        """What is typed, with what is real here in the place of what the page names."""
        for word in sorted(self.words, key=len, reverse=True):
            text = text.replace(word, self.words[word])
        return self.addressed(text, on)

    def addressed(self, text: str, on: Device) -> str:
        """The text with the addresses and folders that devices have here."""
        for device in self.devices.values():
            for usual, port in device.ports.items():
                text = text.replace(f"{device.address}:{usual}", f"127.0.0.1:{port}")
        for usual, port in on.ports.items():
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        return text.replace("<this repository>", '"$CLONE"').replace("~/", f"{on.folder}/")

    def play(self, block: Block) -> None:
        """Do what the block shows; its second word names the device, `fails` says that its end is an error."""
        words = [word for word in block.words[1:] if word != "fails"]
        on = self.device(words[0] if words else "desk")
        if block.kind == "toml":
            on.home.mkdir(parents=True, exist_ok=True)
            with (on.home / "config.toml").open("a") as file:
                file.write(self.real(block.code, on))
            return
        if block.kind == "python":
            self._run(block, Command(f"python -c {shlex.quote(block.code)}"), on)
            return
        commands = commands_of(block)
        for command in commands:
            fails = "fails" in block.words and command is commands[-1]
            self._settled(block, command, on, fails=fails)

    def _settled(self, block: Block, command: Command, on: Device, *, fails: bool) -> None:
        """Run it; what changes nothing is tried again while the mesh has not settled, as a person would."""
        until = time.monotonic() + (SETTLED_WITHIN_S if LOOKS.match(command.text) and not fails else 0.0)
        while True:
            try:
                self._run(block, command, on, fails=fails)
            except AssertionError:
                if time.monotonic() >= until:
                    raise
            else:
                return

    def _run(self, block: Block, command: Command, on: Device, *, fails: bool = False) -> None:
        typed = self.real(command.text, on)
        if typed.startswith("export "):
            on.exports.append(typed)
        running = on.node is not None and on.node.process.poll() is None
        lasts = bool(LASTS.search(typed)) and not (running and " join " in typed)
        assert not (lasts and running), f"{block}: a node runs on {on.name} already; end it with ^C"
        where = on.folder / "cwd"
        script = "\n".join([*on.exports, f"trap 'pwd > {where}' EXIT" if not lasts else "", typed])
        terminal = Terminal(["bash", "-e", "-o", "pipefail", "-c", script], on.cwd, on.env())
        on.terminals.append(terminal)
        if lasts:
            on.node = terminal
        self._watch(f"{block}: $ {typed}", terminal, command.shown, on, lasts=lasts, fails=fails)
        if not lasts and where.exists():
            on.cwd = Path(where.read_text().strip())

    def _watch(
        self, what: str, terminal: Terminal, shown: Sequence[str], on: Device, *, lasts: bool, fails: bool
    ) -> None:
        """Read until all that is shown was printed, for a node that goes on, or until the end."""
        before = time.monotonic() + ENDS_WITHIN_S
        wanted = [self.addressed(line, on) for line in shown if line != KEYS] + ([ANY] if lasts else [])
        while terminal.more(before):
            if lasts and (READY.search(terminal.printed) if not shown else self._taken(wanted, terminal)):
                break
        else:
            code = terminal.process.wait(ENDS_WITHIN_S)
            assert (code != 0) is fails, f"{what}\nended with {code}:\n{terminal.printed}"
            assert not shown or self._taken(wanted, terminal), _differs(what, wanted, terminal.printed)
        if KEYS in shown:
            terminal.send(signal.SIGINT)
            terminal.end()

    def _taken(self, wanted: Sequence[str], terminal: Terminal) -> bool:
        found = compare(wanted, terminal.printed)
        self.words.update(found or {})
        return found is not None


def _differs(what: str, wanted: Sequence[str], printed: str) -> str:
    return f"{what}\nthe page shows:\n{normal(chr(10).join(wanted))}\nit printed:\n{normal(printed)}"


@contextmanager
def staged(root: Path, *, installed: bool = True) -> Iterator[Stage]:
    """A stage whose nodes end with it; `installed` says whether its devices have the program on their PATH."""
    stage = Stage(root, installed=installed)
    try:
        yield stage
    finally:
        terminals = [terminal for device in stage.devices.values() for terminal in device.terminals]
        for terminal in terminals:
            terminal.send(signal.SIGTERM)
        for terminal in terminals:
            terminal.end()
