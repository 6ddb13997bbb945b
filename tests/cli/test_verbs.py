"""Every verb through click's runner: what it prints, as text and as JSON, and what it exits with."""

from types import SimpleNamespace

import click
import msgspec
import pytest
import trio
import trio.lowlevel
from click.testing import CliRunner

from meshnode import errors
from meshnode.cli import exits, main, models, up
from meshnode.cli.program import program
from meshnode.control.models import Fit, Suggestion
from meshnode.errors import every_error
from meshnode.models.store import ModelStore
from meshnode.observe.snapshot import (
    CloudView,
    SharingView,
    Snapshot,
)
from tests.api.fakes import END, piece
from tests.cli.fake_node import SNAPSHOT, lines_of, stored
from tests.models.conftest import gguf_file

TICKET_ENV = "MESHNODE_TICKET"


def test_status_for_people_and_for_programs(node, meshnode):
    shown = meshnode("status").stdout
    assert "desk (abcdefgh)" in shown
    assert "home (closed, issuer)" in shown
    assert f"{node.snapshot.api_url}/v1" in shown
    (seen,) = lines_of(meshnode("status", "--json"))
    assert seen["node"] == SNAPSHOT.node
    assert seen["api_url"] == node.snapshot.api_url


def test_status_tells_what_is_left_of_a_budget(node, meshnode):
    paid = CloudView(
        name="openai",
        month="2026-11",
        monthly_usd=10.0,
        spent_usd=1.5,
        assumed_usd=0.25,
        left_usd=8.25,
        state="resting",
        detail="It is full.",
    )
    node.snapshot = msgspec.structs.replace(node.snapshot, cloud=(paid,))
    shown = meshnode("status").stdout
    assert "8.2500 of 10 USD left in 2026-11; 1.5000 spent, 0.2500 assumed spent; It is full." in shown
    (seen,) = lines_of(meshnode("status", "--json"))
    assert seen["cloud"][0]["left_usd"] == 8.25


def test_peers_cannot_move_the_cursor(node, meshnode):
    shown = meshnode("peers").stdout
    assert "\x1b" not in shown
    assert "at�[31mtic" in shown
    assert "1.2 ms" in shown
    assert lines_of(meshnode("peers", "--json"))[0]["peers"][0]["trust"] == "trusted"


def test_status_and_peers_tell_who_is_distrusted(node, meshnode):
    assert "distrusted" not in meshnode("status").stdout
    liar = msgspec.structs.replace(SNAPSHOT.peers[0], models=("a:1b@Q4", "b:1b@Q4"), distrusted=("a:1b@Q4",))
    node.snapshot = msgspec.structs.replace(node.snapshot, peers=(liar,))
    assert "distrusted       at�[31mtic (a:1b@Q4)" in meshnode("status").stdout
    assert "a:1b@Q4 (distrusted), b:1b@Q4" in meshnode("peers").stdout
    assert lines_of(meshnode("peers", "--json"))[0]["peers"][0]["distrusted"] == ["a:1b@Q4"]


def test_a_route_is_explained_with_terms_and_reasons(node):
    def explained(*args):
        result = CliRunner().invoke(program, ["route", "explain", "--home", str(node.home), *args])
        assert result.exit_code == 0, result.output
        return result

    options = ("--privacy", "public", "--prompt-tokens", "900", "--residency", "eu")
    shown = explained("smollm2:135m", *options).stdout
    assert "rtt 0.25 + decode 1.00 (measured)" in shown
    assert "another model" in shown
    assert "\x1b" not in shown
    ((_, wish),) = node.asked
    assert (wish.model, wish.privacy, wish.prompt_tokens, wish.residency) == (
        "smollm2:135m", "public", 900, ("eu",),
    )  # fmt: skip
    (seen,) = lines_of(explained("--json"))
    assert [one["place"] for one in seen["candidates"]] == [1, 0]


def test_models_are_listed(node, meshnode):
    assert "Q4_1" in meshnode("models").stdout
    assert lines_of(meshnode("models", "--json"))[0]["models"][0]["local"] is True


def test_an_invitation_is_a_line_to_paste(node, meshnode):
    assert meshnode("invite").stdout == "meshnode join mesh1abc\n"
    assert lines_of(meshnode("invite", "--expires", "2h", "--json")) == [{"ticket": "mesh1abc"}]
    assert node.asked == [("invite", {"expires_s": 86_400}), ("invite", {"expires_s": 7200})]
    meshnode("invite", "--expires", "soon", code=exits.USAGE)


def test_a_node_is_paused_and_resumed(node, meshnode):
    assert meshnode("pause").stdout == "paused: paused by its owner\n"
    assert "2 h" in meshnode("pause", "--all", "--for", "2h").stdout
    assert node.asked == [("pause", False, 0), ("pause", True, 7200)]
    assert lines_of(meshnode("pause", "--json"))[0]["why"] == ["paused by its owner"]
    assert "accepting; this system does not tell what spare_idle_s needs" in meshnode("resume").stdout
    meshnode("pause", "--for", "soon", code=exits.USAGE)
    node.snapshot = Snapshot(
        **{**node._fields(), "sharing": SharingView(state="paused", why=("on battery",))}
    )
    assert "paused: on battery" in meshnode("status").stdout


def test_pull_shows_progress_and_resolves_paths(node, meshnode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").write_text("")
    result = meshnode("pull", "m.gguf")
    assert "98 MB" in result.stdout
    assert "fetching 50% (2 MB/s, 1 min 1 s left)" in result.stderr
    assert "Its licence: Apache-2.0" in result.stdout
    meshnode("pull", "smollm2:135m", "--sha256", "ab" * 32, "--name", "tiny")
    meshnode("pull", "hf:a/b:c.gguf")
    assert node.asked == [
        ("pull", str(tmp_path / "m.gguf"), "", ""),
        ("pull", "smollm2:135m", "ab" * 32, "tiny"),
        ("pull", "hf:a/b:c.gguf", "", ""),
    ]
    *progress, done = lines_of(meshnode("pull", "smollm2:135m", "--json"))
    step = {"event": "progress", "step": "fetching", "done": 1, "total": 2}
    assert progress == [{**step, "bytes_per_s": 2e6, "left_s": 61.0}]
    assert done["digest"] == "01" * 32
    meshnode("pull", "x", "--sha256", "zz", code=exits.USAGE)


def test_pull_works_without_a_node(meshnode, monkeypatch, tmp_path):
    async def fetch(source, store, *, blocking, on_progress, sha256, name):
        on_progress(SimpleNamespace(step="fetching", done=2, total=2, bytes_per_s=0, left_s=0, peers=0))
        return stored(source, 5)

    monkeypatch.setattr(models, "fetch", fetch)
    assert lines_of(meshnode("pull", "smollm2:135m", "--json"))[-1]["name"] == "smollm2:135m"


@pytest.fixture
def small_model(tmp_path, monkeypatch):
    """The file of a small model, outside the home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "elsewhere" / "tiny.gguf"
    path.parent.mkdir()
    facts = {
        "general.architecture": "llama",
        "general.basename": "Tiny",
        "general.size_label": "1M",
        "general.license": "mit",
    }
    path.write_bytes(gguf_file(facts=facts, elements=1 << 20))
    return path


def test_a_model_comes_is_shown_and_goes_without_a_node(meshnode, small_model, tmp_path):
    pulled = meshnode("pull", str(small_model)).stdout
    assert "tiny:1m is here: 4 MB" in pulled
    assert "Its licence: mit" in pulled
    assert "tiny:1m" in meshnode("models").stdout
    (listed,) = lines_of(meshnode("models", "--local", "--json"))
    assert listed["models"] == []
    assert (listed["local"][0]["name"], listed["local"][0]["source"]) == ("tiny:1m", str(small_model))
    shown = meshnode("show", "TINY:1m").stdout
    assert "unknown, tier 6" in shown
    assert "no: it continues text" in shown
    (facts,) = lines_of(meshnode("show", "tiny:1m", "--json"))
    assert (facts["parameters"], facts["bits_per_weight"], facts["licence"]) == (1 << 20, 32.0, "mit")
    assert facts["memory_bytes"] > facts["size_bytes"]
    assert "tiny:1m is gone; freed: 4 MB." in meshnode("rm", "tiny:1m").stdout
    assert ModelStore(tmp_path / "models").models() == []
    missing = meshnode("show", "tiny:1m", code=exits.TABLE["model_not_found"])
    assert "There is none yet" in missing.stderr
    meshnode("rm", "tiny:1m", code=exits.TABLE["model_not_found"])


def test_a_file_that_two_homes_have_is_freed_by_the_last(meshnode, small_model, tmp_path):
    meshnode("pull", str(small_model))
    other = CliRunner().invoke(program, ["pull", "--home", str(tmp_path / "other"), str(small_model)])
    assert other.exit_code == 0
    assert "nothing, for the file has other users" in meshnode("rm", "tiny:1m").stdout
    assert len(list((tmp_path / "cache").rglob("sha256-*"))) == 1
    last = CliRunner().invoke(program, ["rm", "--home", str(tmp_path / "other"), "--json", "tiny:1m"])
    assert lines_of(last) == [{"name": "tiny:1m", "freed_bytes": small_model.stat().st_size}]
    assert not list((tmp_path / "cache").rglob("sha256-*"))


def test_a_running_node_is_asked_to_give_a_model_up(node, meshnode):
    assert "freed: 98 MB" in meshnode("rm", "smollm2:135m", "--force").stdout
    assert node.asked == [("rm", "smollm2:135m", True)]


def test_what_fits_here_is_suggested_with_the_command_to_get_it(meshnode, monkeypatch):
    room = Fit(
        free_bytes=8_000_000_000,
        largest_file_bytes=6_000_000_000,
        suggestions=(
            Suggestion(name="tiny:1m", size_bytes=5_000_000, memory_bytes=9_000_000, about="a toy (MIT)"),
        ),
    )
    lines = models.suggestion_lines(room, set())
    assert lines[0] == "8.0 GB of memory are free. Fits here:"
    assert "meshnode pull tiny:1m   5 MB; a toy (MIT)" in lines[1]
    assert "up to about 6.0 GB" in lines[2]
    assert models.suggestion_lines(room, {"tiny:1m"}) == lines[2:]
    assert "meshnode pull" in meshnode("models").stdout


TICKET = "mesh1" + "a" * 40


@pytest.fixture
def any_ticket(monkeypatch):
    monkeypatch.setattr("meshnode.cli.join.parse_target", lambda text: text)


@pytest.mark.usefixtures("any_ticket")
@pytest.mark.parametrize("source", ["argument", "stdin", "file", "env"])
def test_a_ticket_comes_from_anywhere(node, meshnode, tmp_path, monkeypatch, source):
    (tmp_path / "ticket").write_text(TICKET + "\n")
    if source == "env":
        monkeypatch.setenv(TICKET_ENV, TICKET)
    given = {
        "argument": [TICKET],
        "stdin": ["-"],
        "file": ["--ticket-file", str(tmp_path / "ticket")],
        "env": [],
    }
    result = meshnode("join", *given[source], stdin=TICKET + "\n")
    assert "Joined: home." in result.stdout
    assert node.asked == [("join", {"target": TICKET, "leave": False, "via": ""})]


@pytest.mark.usefixtures("any_ticket")
def test_a_refused_ticket_says_why_and_what_to_do(node, meshnode):
    node.refusal = errors.TicketUsed("Another device has it.", hint="Ask for a new one.")
    result = meshnode("join", TICKET, "--leave", code=exits.TABLE["ticket_used"])
    assert result.stderr.splitlines()[-2:] == ["error: Another device has it.", "hint: Ask for a new one."]
    assert node.asked[0][1]["leave"] is True
    failed = lines_of(meshnode("join", TICKET, "--json", code=13))[-1]
    assert failed["error"]["code"] == "ticket_used"


def test_no_ticket_two_tickets_and_no_ticket_at_all_are_usage_errors(meshnode, tmp_path):
    (tmp_path / "ticket").write_text(TICKET)
    assert "no ticket" in meshnode("join", code=exits.USAGE).stderr
    meshnode("join", TICKET, "--ticket-file", str(tmp_path / "ticket"), code=exits.USAGE)
    meshnode("join", "--ticket-file", str(tmp_path / "missing"), code=exits.USAGE)
    meshnode("join", "-", stdin="x" * 10_000, code=exits.USAGE)
    meshnode("join", "hello", code=exits.TABLE["ticket_invalid"])


@pytest.mark.usefixtures("any_ticket")
def test_join_starts_a_node_when_none_runs(meshnode, monkeypatch, tmp_path):
    begun = []

    async def run_node(config, *, join, via, on_event, stop):
        begun.append((config.home, config.api_port, config.engine, join, via))

    monkeypatch.setattr(up, "run_node", run_node)
    meshnode("join", TICKET, "--api-port", "0", "--engine", "none", "--via", "ws://a:1")
    assert begun == [(tmp_path, 0, "none", TICKET, "ws://a:1")]


EVENTS = [
    {"event": "api", "url": "http://127.0.0.1:8420"},
    {"event": "progress", "step": "loading", "done": 1, "total": 2},
    {"event": "ticket", "ticket": "mesh1abc"},
    {"event": "mesh", "addresses": ["ws://10.0.0.1:8421"]},
    {"event": "joined", "mesh": "home"},
    {"event": "loading", "model": "smollm2:135m", "detail": "40%"},
    {"event": "loading", "model": "smollm2:135m", "detail": "40%"},
    {"event": "ready", "model": "smollm2:135m"},
    {"event": "error", "message": "the engine failed", "hint": "see the log"},
]


@pytest.fixture
def short_node(monkeypatch):
    seen = []

    async def run_node(config, *, join, via, on_event, stop):
        seen.append(config)
        for event in EVENTS:
            on_event(event)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(up, "run_node", run_node)
    return seen


@pytest.mark.parametrize("name", ["up", "serve"])
def test_up_prints_where_everything_is(meshnode, short_node, name):
    shown = meshnode(name, "--engine", "none", "--open", "--bootstrap", "a:1,b:2").stdout
    assert "OPENAI_BASE_URL    http://127.0.0.1:8420/v1" in shown
    assert "Dashboard          http://127.0.0.1:8420/\n" in shown
    assert "meshnode join mesh1abc" in shown
    assert shown.count("Loading smollm2:135m") == 1
    assert "Ready to answer with smollm2:135m." in shown
    assert "smollm2:135m is for trying things out." in shown
    assert "fits here: meshnode pull hf:OWNER/REPO:QUANT" in shown
    assert "Joined home." in shown
    assert "error: the engine failed" in shown
    (config,) = short_node
    assert (config.engine, config.open_mesh, config.bootstrap) == ("none", True, ("a:1", "b:2"))
    assert (config.model, config.api_port) == ("smollm2:135m", 8420)


def test_up_gives_programs_the_events_as_they_are(meshnode, short_node):
    assert lines_of(meshnode("up", "--json")) == EVENTS


def test_up_refuses_a_bad_setting_by_name(meshnode, monkeypatch):
    monkeypatch.setenv("MESHNODE_API_ORIGINS", "*")
    result = meshnode("up", code=exits.USAGE)
    assert "api_origins" in result.stderr


def test_a_second_up_prints_where_the_first_one_is(node, meshnode):
    result = meshnode("up", code=exits.TABLE["home_in_use"])
    assert node.snapshot.api_url in result.stdout


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.PortInUse("taken", hint="choose"), 6),
        (ExceptionGroup("n", [ExceptionGroup("m", [errors.PortInUse("taken")])]), 6),
        (KeyboardInterrupt(), exits.INTERRUPTED),
        (BaseExceptionGroup("n", [KeyboardInterrupt()]), exits.INTERRUPTED),
    ],
)
def test_what_ends_a_node_becomes_an_exit_code(meshnode, monkeypatch, raised, code):
    async def run_node(config, *, join, via, on_event, stop):
        raise raised

    monkeypatch.setattr(up, "run_node", run_node)
    result = meshnode("up", code=code)
    assert "Traceback" not in result.output


def test_a_bug_keeps_its_traceback(meshnode, monkeypatch):
    async def run_node(config, *, join, via, on_event, stop):
        raise ZeroDivisionError

    monkeypatch.setattr(up, "run_node", run_node)
    with pytest.raises(ExceptionGroup):
        meshnode("up")


@pytest.mark.parametrize("args", [["status"], ["peers"], ["invite"], ["run", "m", "hi"]])
def test_without_a_node_every_verb_says_how_to_start_one(meshnode, args):
    result = meshnode(*args, code=exits.TABLE["not_running"])
    assert "hint: Start one with `meshnode up`" in result.stderr


def test_run_streams_an_answer(node, meshnode):
    answered = meshnode("run", "smollm2:135m", "why?")
    assert answered.stdout == "Hello ☺\n"
    assert "[answered by " in answered.stderr
    meshnode("run", "smollm2:135m", "--privacy", "local", "--max-tokens", "3", stdin="from stdin")
    job = node.doors.jobs[-1]
    assert (job.turns[0].content, job.wish.privacy, job.sampling.max_tokens) == ("from stdin", "local", 3)
    *texts, end = lines_of(meshnode("run", "smollm2:135m", "why?", "--json"))
    assert "".join(text["text"] for text in texts) == end["text"] == "Hello ☺"
    assert end["usage"]["total_tokens"] == 10


def test_an_answer_cannot_move_the_cursor(node, meshnode):
    node.doors.steps = (piece(0, "a\x1b[2J\n\tb"), END)
    assert meshnode("run", "m", "hi").stdout == "a�[2J\n\tb\n"


@pytest.mark.parametrize(
    ("steps", "refusal", "code"),
    [
        ((), errors.ModelNotFound("no such model"), "model_not_found"),
        ((piece(0, "x"), errors.Interrupted("the peer left")), None, "interrupted"),
        ((piece(0, "x"),), None, "interrupted"),
    ],
)
def test_run_exits_with_what_the_api_says(node, meshnode, steps, refusal, code):
    node.doors.steps, node.doors.refusal = steps, refusal
    meshnode("run", "m", "hi", code=exits.TABLE[code])


def test_run_without_a_prompt_is_a_usage_error(node, meshnode):
    meshnode("run", "m", stdin=" ", code=exits.USAGE)
    meshnode("run", "m", "hi", "--privacy", "secret", code=exits.USAGE)


def test_version(meshnode):
    assert meshnode("version").stdout.startswith("meshnode ")
    assert lines_of(meshnode("version", "--json"))[0]["version"]


def test_a_misspelt_verb_gets_a_suggestion():
    result = CliRunner().invoke(program, ["statsu"])
    assert result.exit_code == exits.USAGE
    assert "Did you mean 'status'?" in result.output


def every_command(group=program):
    for command in group.commands.values():
        yield from every_command(command) if isinstance(command, click.Group) else (command,)


def test_every_verb_has_json_and_home():
    for command in every_command():
        names = {name for param in command.params if isinstance(param, click.Option) for name in param.opts}
        assert {"--json", "--home"} <= names, command.name


def test_every_code_of_the_tree_has_an_exit_code():
    own = {code for code, kind in every_error().items() if kind.__module__ == "meshnode.errors"}
    assert own == set(exits.TABLE)


def test_windows_is_sent_to_wsl_at_once(capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(platform="win32")
    assert "WSL2" in str(caught.value)
