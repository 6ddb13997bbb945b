"""What a job may have of a worker's context, counted before anything is computed."""

from types import SimpleNamespace

import pytest

from meshnode.engine.worker import intake
from meshnode.engine.worker.frames import Run
from meshnode.errors import ContextExceeded
from tests.engine.fake_model import FakeModel

PROMPT = "1 2 3 4 5 6"


@pytest.fixture
def limit_of(monkeypatch):
    """The most answer tokens of a job with these settings, in a context of ten."""
    monkeypatch.setattr(intake, "Sequence", lambda _run, _prompt, limit, _model, _style: limit)

    def limit(job):
        template = SimpleNamespace(render=lambda _job: PROMPT, style=None)
        return intake.take_in(Run(1, job), FakeModel(context=10), template)

    return limit


def test_an_answer_has_what_is_asked_for_or_all_that_is_left(limit_of, job):
    assert [limit_of(job(max_tokens=asked)) for asked in (0, 3, 4)] == [4, 3, 4]
    with pytest.raises(ContextExceeded, match="5 more"):
        limit_of(job(max_tokens=5))


def test_one_that_may_be_shorter_is_not_refused_for_its_length(limit_of, job):
    assert [limit_of(job(max_tokens=asked, shorten=True)) for asked in (3, 5, 4000)] == [3, 4, 4]
