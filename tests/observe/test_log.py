"""Logging: shape, bounds, and what never reaches it."""

import io
import json

import pytest
import structlog

from meshnode.errors import HomeUnusable
from meshnode.observe import log
from meshnode.terms import Job, Turn, Wish

SECRET = "the patient's name"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines():
    out = io.StringIO()
    log.configure(wall=lambda: 1_700_000_000.25, out=out, level="debug")
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    log.configure(wall=lambda: 0.0, level="warning")


def test_a_line_is_one_json_object(lines):
    log.get("net").info("link up", peer="abc", rtt_ms=1.5, path=["a", "b"])
    assert lines() == [
        {
            "event": "link up",
            "level": "info",
            "time": "2023-11-14T22:13:20.250+00:00",
            "room": "net",
            "peer": "abc",
            "rtt_ms": 1.5,
            "path": "a, b",
        }
    ]


def test_prompts_never_reach_the_log(lines):
    turn = Turn(role="user", content=SECRET)
    job = Job(id="1", wish=Wish(), turns=(turn,))
    log.get("serve").info(
        "asked", job=job, turn=turn, some=[turn], more={"x": SECRET}, prompt=SECRET, text=SECRET
    )
    assert SECRET not in json.dumps(lines())
    assert lines()[0]["job"] == "<Job>"
    assert lines()[0]["prompt"] == log.WITHHELD


def test_a_traceback_shows_no_local_variables(lines):
    def fail(_prompt):
        raise ValueError("broken")

    try:
        fail(SECRET)
    except ValueError:
        log.get("api").exception("failed")
    (line,) = lines()
    assert "ValueError: broken" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_before_anybody_configures_it_no_local_variable_is_shown_either(capsys):
    prompt = SECRET
    try:
        int(prompt and "no number")
    except ValueError:
        structlog.get_logger().exception("failed")
    shown = capsys.readouterr()
    assert "failed" in shown.err
    assert SECRET not in shown.err + shown.out


def test_fields_are_bounded_in_length_and_number(lines):
    log.get("net").info(
        "x" * 10_000, name="y" * 10_000, raw=b"z" * 10_000, **{f"f{i}": i for i in range(100)}
    )
    (line,) = lines()
    assert all(len(str(value)) <= log.FIELD_CHARACTERS_MAX for value in line.values())
    assert len(line) <= log.FIELDS_MAX + 4


def test_a_terminal_gets_lines_for_people():
    out = Terminal()
    log.configure(wall=lambda: 0.0, out=out)
    try:
        log.get("net").info("link up", peer="abc")
        log.get("net").debug("unseen")
    finally:
        log.configure(wall=lambda: 0.0, level="warning")
    assert "link up" in out.getvalue()
    assert "{" not in out.getvalue()
    assert "unseen" not in out.getvalue()


def test_the_file_is_private_and_rolls_over(tmp_path):
    file = log.RollingFile(tmp_path / "home" / "node.log", bytes_max=100)
    for _ in range(30):
        file.write("0123456789")
        file.flush()
    file.close()
    assert (tmp_path / "home" / "node.log").stat().st_mode & 0o777 == 0o600
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "home").iterdir()}
    assert sizes == {"node.log": 100, "node.log.1": 100}


def test_a_home_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable):
        log.to_file(tmp_path / "file")
