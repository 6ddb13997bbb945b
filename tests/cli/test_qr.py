"""The ticket as a QR code: what is drawn is the code, with both colours named on a terminal."""

import os
import pty
import re
import subprocess
import sys

import pytest
import segno

from meshnode.cli.qr import BLOCKS, draw
from meshnode.errors import BadRequest
from tests.cli.fake_node import lines_of

TICKET = "mesh1" + "a7" * 120
MODULES = {block: pair for pair, block in BLOCKS.items()}


def modules_of(lines):
    """The light modules that the lines show, row by row."""
    rows = []
    for line in lines:
        pairs = [MODULES[char] for char in line]
        rows += [[upper for upper, _lower in pairs], [lower for _upper, lower in pairs]]
    return rows


@pytest.mark.parametrize("text", ["mesh1abc", TICKET, "x" * 1000])
def test_what_is_drawn_is_the_code_with_its_quiet_border(text):
    rows = modules_of(draw(text, colours=False))
    size = len(rows[0])
    assert not any(any(row) for row in rows[size:])  # the half line that is left over
    code = segno.make_qr(text, error="l", boost_error=False)
    inside = [[not light for light in row[4:-4]] for row in rows[4 : size - 4]]
    assert inside == [[bool(module) for module in row] for row in code.matrix]
    assert all(all(row) for row in (*rows[:4], *rows[size - 4 : size]))


def test_colours_are_named_for_every_line_and_given_back():
    for line, plain in zip(draw(TICKET, colours=True), draw(TICKET, colours=False), strict=True):
        begin, end = re.fullmatch(r"(\x1b\[[\d;]+m)[█▀▄ ]+(\x1b\[0m)", line).groups()
        assert "38;5;231" in begin
        assert "48;5;16" in begin
        assert line == begin + plain + end


def test_what_no_code_can_hold_is_refused():
    with pytest.raises(BadRequest):
        draw("x" * 3000, colours=False)


def test_without_a_terminal_it_is_drawn_without_colours(node, meshnode):
    *code, line = meshnode("invite", "--qr").stdout.splitlines()
    assert line == "meshnode join mesh1abc"
    assert code == draw("mesh1abc", colours=False)
    assert lines_of(meshnode("invite", "--qr", "--json")) == [{"ticket": "mesh1abc"}]


@pytest.mark.usefixtures("meshnode")
@pytest.mark.parametrize(("columns", "told"), [("80", False), ("20", True)])
def test_a_terminal_gets_colours_and_is_told_when_it_is_too_narrow(node, tmp_path, columns, told):
    leader, follower = pty.openpty()
    env = {
        **os.environ,
        "TERM": "xterm-256color",
        "COLUMNS": columns,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "meshnode.cli.main", "invite", "--qr", "--home", tmp_path]
    with subprocess.Popen(command, stdout=follower, stderr=follower, env=env) as process:
        os.close(follower)
        shown = b""
        try:
            while data := os.read(leader, 65536):
                shown += data
        except OSError:  # the other end is closed
            pass
    os.close(leader)
    assert process.returncode == 0
    text = shown.decode().replace("\r\n", "\n")
    assert text.startswith("\n".join(draw("mesh1abc", colours=True)))
    assert ("make it wider" in text) is told
