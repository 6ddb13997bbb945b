"""Model files that mean harm, from their bytes to an answer that never comes, through the engine itself."""

import hashlib
import struct
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from meshnode.engine.base import EngineState
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.engine.sandbox import Sandbox
from meshnode.errors import EngineFailed, MeshError, ModelFileInvalid
from meshnode.models.verify import verify
from meshnode.terms import Piece

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sandboxes are for Linux so far")
FORGED = {
    "a flipped byte": lambda sound: sound[:-1] + bytes([sound[-1] ^ 1]),
    "a truncated file": lambda sound: sound[: len(sound) // 2],
    "a forged count": lambda sound: sound[:8] + struct.pack("<Q", 2**63 - 1) + sound[16:],
    "no model at all": lambda _sound: b"#!/bin/sh\n" * 20,
    "an empty file": lambda _sound: b"",
}
ESCAPES = "{{ ''.__class__.__mro__[1].__subclasses__() }}"  # as in CVE-2024-34359
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x"
FLOODS = "{% for a in range(99999) %}" + "x" * 200 + "{% endfor %}"


@pytest.fixture
async def serving():
    """Starts engines; everything is stopped at the end."""
    async with trio.open_nursery() as nursery:

        async def start(path, digest, **settings):
            async def check(file):
                await trio.to_thread.run_sync(partial(verify, Path(file.path), file.digest, file.name))

            model = ModelFile(path=str(path), digest=digest, name="evil:1b")
            engine = LlamaEngine(model, verify=check, context=512, slots=1, thread_count=1, **settings)
            await nursery.start(engine.serve)
            return engine

        yield start
        nursery.cancel_scope.cancel()


def sound_file():
    """The smallest file that is a model by its form: one entry, one tensor of 32 numbers."""

    def text(value):
        return struct.pack("<Q", len(value)) + value

    entry = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    tensor = text(b"w") + struct.pack("<IQIQ", 1, 32, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + entry + tensor
    return header + bytes(-len(header) % 32) + bytes(128)


@pytest.mark.parametrize("how", FORGED)
async def test_a_file_that_is_not_what_it_was_is_never_opened(tmp_path, serving, until, how, stand_in):
    path, sound = tmp_path / "model.gguf", sound_file()
    path.write_bytes(sound)
    verify(path, hashlib.sha256(sound).digest())
    path.write_bytes(FORGED[how](sound))
    command = stand_in("say(READY)")
    engine = await serving(path, hashlib.sha256(sound).digest(), command=command, sandbox=Sandbox("none"))
    await until(engine, EngineState.FAILED)
    assert str(path) in engine.detail
    assert "Fetch" in engine.detail
    assert not Path(command[1]).with_suffix(".started").exists()


@pytest.mark.parametrize("how", ["a truncated file", "a forged count", "no model at all", "an empty file"])
def test_a_file_that_was_forged_from_the_first_is_told_by_its_header(tmp_path, how):
    path, forged = tmp_path / "model.gguf", FORGED[how](sound_file())
    path.write_bytes(forged)
    with pytest.raises(ModelFileInvalid):
        verify(path, hashlib.sha256(forged).digest())


async def test_a_file_is_looked_at_before_each_start(tmp_path, serving, until, stand_in, job):
    path, sound = tmp_path / "model.gguf", sound_file()
    path.write_bytes(sound)
    command = stand_in("say(READY) if isinstance(command, Open) else sys.exit(1)")
    engine = await serving(path, hashlib.sha256(sound).digest(), command=command, sandbox=Sandbox("none"))
    await until(engine, EngineState.READY)
    path.write_bytes(FORGED["a flipped byte"](sound))
    with pytest.raises(EngineFailed):
        async with engine.run(job()) as emitted:
            await anext(emitted)
    await until(engine, EngineState.FAILED)
    assert "meshnode pull evil:1b" in engine.detail


def with_template(model_file, target, template):
    """A copy of the real model with another template of the same length."""
    content = model_file.read_bytes()
    at = content.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 4
    length = struct.unpack_from("<Q", content, at)[0]
    evil = template.encode().ljust(length)
    assert len(evil) == length, "the template is longer than the one it takes the place of"
    target.write_bytes(content[: at + 8] + evil + content[at + 8 + length :])


@pytest.mark.model
@pytest.mark.parametrize("template", [ESCAPES, LOOPS, FLOODS], ids=["escapes", "loops", "floods"])
async def test_a_hostile_template_gets_nowhere_and_others_are_served_on(
    tmp_path, model_file, serving, until, job, template
):
    path = tmp_path / "evil.gguf"
    with_template(model_file, path, template)
    key = tmp_path / "identity.key"
    key.write_text("secret")
    digest = hashlib.sha256(path.read_bytes()).digest()
    engine = await serving(path, digest, sandbox=Sandbox(private=(key,)))
    await until(engine, EngineState.READY)
    pid = engine.pid
    with pytest.raises(MeshError) as refused, trio.fail_after(20):
        async with engine.run(job("Hello")) as emitted:
            said = "".join([item.text async for item in emitted if isinstance(item, Piece)])
            pytest.fail(f"it answered: {said}")
    assert "template" in str(refused.value)
    assert engine.state is EngineState.READY
    assert engine.pid == pid


@LINUX
@pytest.mark.model
@pytest.mark.parametrize("kind", ["auto", "landlock"])
async def test_the_real_worker_is_contained_and_answers(tmp_path, model_file, serving, until, job, kind):
    key = tmp_path / "identity.key"
    key.write_text("secret")
    digest = bytes.fromhex(model_file.name.removeprefix("sha256-"))
    engine = await serving(model_file, digest, sandbox=Sandbox(kind, private=(key,)))
    await until(engine, EngineState.READY)
    assert engine.posture.contained, engine.posture
    async with engine.run(job("Why is the sky blue?", max_tokens=30)) as emitted:
        assert "light" in "".join([item.text async for item in emitted if isinstance(item, Piece)]).lower()


@LINUX
async def test_where_the_strongest_sandbox_cannot_be_had_the_next_one_is_taken(
    tmp_path, monkeypatch, serving, until, stand_in
):
    monkeypatch.setattr("meshnode.engine.sandbox._bubblewraps", lambda: ["/bin/false"])
    path, sound = tmp_path / "model.gguf", sound_file()
    path.write_bytes(sound)
    answers = "say(Confined(Posture(kind=command.wall.kind)), Confined(Posture(kind='forged')), READY)"
    engine = await serving(
        path,
        hashlib.sha256(sound).digest(),
        command=stand_in(f"from meshnode.terms import Posture\n{answers}"),
        sandbox=Sandbox(readable=(tmp_path,)),
    )
    await until(engine, EngineState.READY)
    assert engine.posture.kind == "landlock"
    assert "bubblewrap: it left with code 1" in engine.posture.why
