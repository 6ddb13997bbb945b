"""The verbs pull and status, over fakes."""

from types import SimpleNamespace

import pytest
import trio
import trio.lowlevel

from meshnode.control.pull import PROGRESS_WAITING, PullResult, pull_verb
from meshnode.control.status import status_verb
from meshnode.errors import BadRequest, DownloadFailed
from meshnode.observe.snapshot import Snapshot

MODEL = SimpleNamespace(
    name="smollm2:135m",
    digest=b"\xab" * 32,
    size_bytes=98,
    source="smollm2:135m",
    licence="Apache-2.0",
    parts=(),
)


def fetching(steps, error=None):
    async def pull(arguments, report):
        for done in range(steps):
            report(
                SimpleNamespace(
                    step="fetching", done=done, total=steps, bytes_per_s=done * 1.5, left_s=2.25, peers=0
                )
            )
            await trio.lowlevel.checkpoint()
        if error is not None:
            raise error
        return MODEL

    return pull


async def run(verb, args):
    events = []

    async def emit(event):
        events.append(event)

    return await verb(args, emit), events


async def test_a_pull_reports_and_ends_with_the_model():
    result, events = await run(pull_verb(fetching(3)), {"source": "smollm2:135m"})
    assert result == PullResult("smollm2:135m", "ab" * 32, 98, "smollm2:135m", "Apache-2.0")
    begun = {"event": "progress", "step": "fetching", "done": 0, "total": 3}
    assert events[0] == begun
    assert events[2] == {**begun, "done": 2, "bytes_per_s": 3, "left_s": 2.2}


async def test_a_pull_that_fails_raises_the_error_itself():
    with pytest.raises(DownloadFailed):
        await run(pull_verb(fetching(1, DownloadFailed("offline"))), {"source": "x"})


async def test_progress_that_nobody_takes_is_skipped_and_not_heaped():
    taken = []

    async def emit(event):
        taken.append(event)
        await trio.sleep(0.001)

    async def burst(arguments, report):
        for done in range(10_000):
            report(SimpleNamespace(step="fetching", done=done, total=1, bytes_per_s=0, left_s=0, peers=0))
        await trio.lowlevel.checkpoint()
        return MODEL

    await pull_verb(burst)({"source": "x"}, emit)
    assert len(taken) <= PROGRESS_WAITING


@pytest.mark.parametrize(
    ("args", "param"),
    [
        ({}, ""),
        ({"source": 3}, "source"),
        ({"source": "x", "sha256": "zz"}, "sha256"),
        ({"source": "x", "y": 1}, ""),
    ],
)
async def test_wrong_arguments_are_refused_by_name(args, param):
    with pytest.raises(BadRequest) as caught:
        await run(pull_verb(fetching(0)), args)
    assert caught.value.param == param


async def test_status_takes_a_picture_when_asked():
    snapshot = Snapshot(node="abc", name="desk", state="ready")
    verb = status_verb(lambda: snapshot)
    assert (await run(verb, {}))[0] is snapshot
    with pytest.raises(BadRequest):
        await run(verb, {"frob": 1})
