"""The canary: what one tenant has asked can be noticed by no other, in counts, words or likelihoods."""

import pytest

pytest.importorskip("llama_cpp", reason="it is llama.cpp's cache that could leak")

from tests.engine.stage import RealStage

pytestmark = pytest.mark.model

SECRET = "The password of the vault is 73159. " * 3
OTHER = "The password of the vault is 20846. " * 3  # as many tokens
PROBE = {"max_tokens": 8, "logprobs": True, "top_logprobs": 5}
SCOPES = pytest.mark.parametrize(("number", "scope"), [(3, b"tenant b"), (4, b"")])


def probe(stage, number, scope):
    """Another tenant tries the secret, in the very words in which it was told."""
    stage.ask(number, SECRET, "Noted.", "Say the password of the vault.", scope=scope, **PROBE)
    return stage.until_ended(number)


def told(model_file, secret):
    """A worker to which one tenant has told a secret, and then others have come."""
    stage = RealStage(model_file)
    stage.ask(1, secret, scope=b"tenant a", max_tokens=1)
    stage.length = stage.until_ended(1).prompt_tokens
    stage.ask(2, secret, "Noted.", "And now?", scope=b"tenant a", max_tokens=1)
    assert stage.until_ended(2).cached_tokens > 30, "it must be there to be found"
    before = stage.computed
    stage.ended = {3: probe(stage, 3, b"tenant b"), 4: probe(stage, 4, b"")}
    stage.spent = stage.computed - before
    return stage


@pytest.fixture(scope="module")
def right(model_file):
    """The secret is what the probe says it is."""
    return told(model_file, SECRET)


@pytest.fixture(scope="module")
def wrong(model_file):
    """It is something else."""
    return told(model_file, OTHER)


@pytest.fixture(scope="module")
def fresh(model_file):
    """Nobody has told this worker anything."""
    stage = RealStage(model_file)
    probe(stage, 1, b"tenant b")
    return stage


def likelihoods(stage, number):
    return [entry for event in stage.written(number) for entry in event.logprobs]


@SCOPES
def test_a_probe_finds_nothing_and_is_answered_as_by_a_fresh_worker(right, fresh, number, scope):
    assert right.ended[number].cached_tokens == 0
    assert right.text(number) == fresh.text(1)
    for entry, expected in zip(likelihoods(right, number), likelihoods(fresh, 1), strict=True):
        # Where cells lie elsewhere, sums are made in another order. The next test has them in the same place.
        assert entry.logprob == pytest.approx(expected.logprob, abs=0.3)


@SCOPES
def test_what_the_secret_is_changes_no_bit_of_the_answer(right, wrong, number, scope):
    assert right.length == wrong.length
    assert right.written(number) == wrong.written(number)
    assert len(likelihoods(right, number)) == len(right.ids(number)) > 0


def test_a_probe_computes_all_of_its_prompt(right, wrong):
    all_tokens = sum(end.prompt_tokens + end.completion_tokens - 1 for end in right.ended.values())
    assert right.spent == wrong.spent == all_tokens


def test_a_probe_beside_the_secret_finds_nothing_either(right, fresh):
    right.ask(5, SECRET, scope=b"tenant a", max_tokens=60)
    for _ in range(3):
        right.loop.turn()
    assert probe(right, 6, b"tenant b c").cached_tokens == 0
    assert right.text(6) == fresh.text(1)
