"""Redaction: what is found and what is not, and that an answer gets it back, in parts of any size."""

import random

import msgspec
import pytest

from meshnode.engine.cloud.body import changed, changed_json
from meshnode.engine.cloud.redact import Recognisers, Redaction, Restorer
from meshnode.errors import ConfigInvalid
from meshnode.terms import Job, Sampling, Tool, ToolCall, Turn, Wish

RECOGNISERS = Recognisers("DE")

FOUND = {
    "write to ann.lee+x@mail.example.co.uk today": ("EMAIL", "ann.lee+x@mail.example.co.uk"),
    "jürgen@müller.de": ("EMAIL", "jürgen@müller.de"),
    "ring +44 20 7946 0958 now": ("PHONE", "+44 20 7946 0958"),
    "ruf 0170 1234567 an": ("PHONE", "0170 1234567"),
    "pay with 4111 1111 1111 1111, please": ("CARD", "4111 1111 1111 1111"),
    "amex 378282246310005.": ("CARD", "378282246310005"),
    "to DE89 3704 0044 0532 0130 00 by Friday": ("IBAN", "DE89 3704 0044 0532 0130 00"),
    "key sk-proj-abcdefghijklmnop1234 ok": ("SECRET", "sk-proj-abcdefghijklmnop1234"),
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789": ("SECRET", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
    "AKIAIOSFODNN7EXAMPLE it is": ("SECRET", "AKIAIOSFODNN7EXAMPLE"),
    "Authorization: Bearer abcdef0123456789abcdef": ("SECRET", "abcdef0123456789abcdef"),
    "password = hunter2!x": ("SECRET", "hunter2!x"),
    '{"api_key": "abc123def456"}': ("SECRET", "abc123def456"),
    "postgres://bob:s3cr3t@db/x": ("SECRET", "bob:s3cr3t"),
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcDEF123": (
        "SECRET",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcDEF123",
    ),
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY----- end": (
        "SECRET",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
    ),
}
LEFT = (
    "version 1.2.3.4 of 2024-05-06",
    "4111 1111 1111 1112 is no card",
    "DE00 3704 0044 0532 0130 00 is no account",
    "the token count is 12, user@ localhost",
    "a sketchy sk-short thing",
    "def f(x): return x[1:2] @ y",
    "1234567890123456789012345 digits of a number",
)


def redacted(text: str) -> tuple[str, Redaction]:
    redaction = Redaction(RECOGNISERS, text)
    return redaction.redact(text), redaction


@pytest.mark.parametrize("text", FOUND)
def test_what_has_a_form_is_found_and_comes_back(text):
    kind, value = FOUND[text]
    safe, redaction = redacted(text)
    assert safe == text.replace(value, f"<{kind}_1>")
    assert redaction.restore(safe) == text


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_is_left(text):
    assert redacted(text)[0] == text


def test_the_same_value_is_the_same_placeholder_and_others_are_others():
    safe, _ = redacted("a@b.example, c@d.example and a@b.example")
    assert safe == "<EMAIL_1>, <EMAIL_2> and <EMAIL_1>"


def test_a_placeholder_that_somebody_wrote_is_not_taken_for_one_of_ours():
    text = "what is <EMAIL_1>? ask a@b.example"
    safe, redaction = redacted(text)
    assert safe == "what is <EMAIL_1>? ask <EMAIL_2>"
    assert redaction.restore("<EMAIL_1> <EMAIL_2> <EMAIL_3>") == "<EMAIL_1> a@b.example <EMAIL_3>"


def test_an_answer_gets_its_values_back_however_it_is_cut():
    text = "Mail a@b.example or +44 20 7946 0958 <b>now</b> <, <EMAIL_ or <EMAIL_77> and x < 3 <"
    safe, redaction = redacted(text)
    assert "@" not in safe
    rng = random.Random(7)
    for _ in range(300):
        restorer, parts, at = Restorer(redaction), [], 0
        while at < len(safe):
            step = rng.randint(1, 6)
            parts.append(restorer.feed(safe[at : at + step]))
            at += step
        assert "".join([*parts, restorer.finish()]) == text


def test_nothing_waits_that_cannot_become_a_placeholder():
    restorer = Restorer(redacted("a@b.example")[1])
    assert [restorer.feed(part) for part in ("1 < 2", " <b", "<EMAIL", "_1", ">", "<EMAILS")] == [
        "1 < 2", " <b", "", "", "a@b.example", "<EMAILS",
    ]  # fmt: skip


def test_every_text_of_a_job_is_redacted_and_json_stays_json():
    call = ToolCall("c1", "send", '{"to":"a@b.example","note":"line\\n\\"x\\""}')
    job = Job(
        id="1",
        wish=Wish(),
        turns=(
            Turn(role="user", content="I am a@b.example", name="a-at-b"),
            Turn(role="assistant", content="", tool_calls=(call,)),
            Turn(role="tool", content="sent to a@b.example", name="send", tool_call_id="c1"),
        ),
        tools=(Tool("send", "as a@b.example", '{"enum":["a@b.example"]}'),),
        schema='{"const":"a@b.example"}',
        inputs=("a@b.example",),
        sampling=Sampling(stop=("a@b.example",)),
    )
    redaction = Redaction(RECOGNISERS, msgspec.json.encode(job).decode())
    safe = changed(job, redaction.redact)
    told = msgspec.json.encode(safe).decode()
    assert ("@" in told, "a-at-b" in told) == (False, False)
    assert safe.turns[1].tool_calls[0].arguments == '{"to":"<EMAIL_1>","note":"line\\n\\"x\\""}'
    assert (safe.turns[2].name, safe.tools[0].name) == ("send", "send")
    restored = changed_json(safe.turns[1].tool_calls[0].arguments, redaction.restore)
    assert msgspec.json.decode(restored) == msgspec.json.decode(call.arguments)


def test_a_value_with_quotes_and_lines_stays_json_in_a_call():
    secret = '-----BEGIN PRIVATE KEY-----\nab"c\n-----END PRIVATE KEY-----'
    _, redaction = redacted(secret)
    restored = changed_json('{"key":"<SECRET_1>"}', redaction.restore)
    assert msgspec.json.decode(restored) == {"key": secret}


def test_a_region_that_is_none_is_refused():
    with pytest.raises(ConfigInvalid, match="no region 'XX'"):
        Recognisers("XX")


def test_without_the_libraries_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(ConfigInvalid, match=r"pip install 'meshnode\[redact\]'"):
        Recognisers()
