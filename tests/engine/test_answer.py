"""Answers leave in the right form: text at once, calls whole, every id once, nothing twice after a resume."""

import json

import pytest

pytest.importorskip("jsonschema", reason="schemas need jsonschema")

from meshnode.engine.worker.answer import Answer
from meshnode.engine.worker.calls import Style, call_id, read_calls
from meshnode.errors import BadRequest, EngineFailed
from meshnode.terms import FinishReason, Job, Output, Sampling, TokenLogprob, Tool, Wish

TOOLS = (
    Tool(name="add", parameters='{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'),
    Tool(name="now"),
)
ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
NOW = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'


def job(**more):
    stop = more.pop("stop", ())
    logprobs = more.pop("logprobs", False)
    return Job(id="j", wish=Wish(), turns=(), sampling=Sampling(stop=stop, logprobs=logprobs), **more)


class Play:
    """Feeds an answer pieces as tokens 0, 1, 2, …, and keeps what leaves."""

    def __init__(self, style=Style.HERMES, *, markers=None, **more):
        self.job = job(**more)
        self.answer = Answer(self.job, style, markers)
        self.fed = 0
        self.left = []

    def feed(self, *pieces):
        for piece in pieces:
            likely = TokenLogprob(piece.encode(), -1.0) if self.job.sampling.logprobs else None
            self._keep(self.answer.push(self.fed, piece.encode(), likely))
            self.fed += 1
        return self

    def end(self):
        self._keep(self.answer.flush())
        assert [index for release in self.left for index in release.ids] == list(range(self.first, self.fed))
        expected = self.first
        for release in self.left:
            assert release.first_index == expected
            expected += len(release.ids)
        return self

    first = 0

    def _keep(self, release):
        if release is not None:
            self.left.append(release)

    @property
    def text(self):
        return "".join(release.text for release in self.left)

    @property
    def calls(self):
        return [(call.name, json.loads(call.arguments)) for release in self.left for call in release.calls]


def characters(text):
    return list(text)


def test_text_leaves_at_once_and_a_call_whole():
    play = Play(tools=TOOLS).feed("Let", " me", " see.", "\n")
    assert play.text == "Let me see.\n"
    play.feed(*characters(ADD[:-1]))
    assert play.text == "Let me see.\n"
    assert play.calls == []
    play.feed(ADD[-1])
    assert play.calls == [("add", {"a": 1})]
    assert play.end().text == "Let me see.\n"
    assert play.answer.reason(FinishReason.STOP) is FinishReason.TOOL_CALLS


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 200])
def test_calls_are_found_however_the_text_is_cut_into_tokens(size):
    text = f"Hello <b>. {ADD}\n{NOW} \n{ADD}\n"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    play = Play(tools=TOOLS).feed(*pieces).end()
    assert play.calls == [("add", {"a": 1}), ("now", {}), ("add", {"a": 1})]
    assert play.text.strip() == "Hello <b>."
    ids = [call.id for release in play.left for call in release.calls]
    assert ids == [call_id("j", number) for number in range(3)]
    assert len(set(ids)) == 3


def test_only_what_may_begin_a_call_waits():
    play = Play(tools=TOOLS).feed("a <tool", "_", "box>")
    assert play.end().text == "a <tool_box>"
    assert [release.text for release in play.left] == ["a <tool_box>"]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "add", "arguments": {"a": </tool_call> and more',
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "argum',
        "<tool_call>[1, 2]</tool_call>",
        "<tool_call></tool_call>",
    ],
)
def test_what_is_no_call_is_text(text):
    play = Play(tools=TOOLS).feed(*characters(text)).end()
    assert (play.text, play.calls) == (text, [])
    assert play.answer.reason(FinishReason.STOP) is FinishReason.STOP


def test_a_call_without_its_closing_tag_counts_at_the_end():
    play = Play(tools=TOOLS).feed(*characters(ADD.removesuffix("\n</tool_call>"))).end()
    assert play.calls == [("add", {"a": 1})]


def test_without_tools_nothing_is_taken_for_a_call():
    assert Play().feed(ADD).end().text == ADD
    assert Play(tools=TOOLS, tool_choice="none").feed(ADD).end().text == ADD


def test_one_call_ends_an_answer_that_may_have_one():
    play = Play(tools=TOOLS, parallel_tool_calls=False).feed(*characters(ADD))
    assert play.answer.stopped
    assert play.end().calls == [("add", {"a": 1})]


def test_llamas_calls_are_the_whole_answer():
    play = Play(Style.LLAMA, tools=TOOLS).feed("\n", '{"name": "add", ', '"parameters": {"a": 1}}').end()
    assert (play.calls, play.text) == ([("add", {"a": 1})], "")
    assert Play(Style.LLAMA, tools=TOOLS).feed("See ", '{"name": "add", "parameters": {}}').end().calls == []
    assert Play(Style.LLAMA, tools=TOOLS).feed('{"a": ', "1}").end().text == '{"a": 1}'


def test_mistrals_marker_is_a_control_token_without_a_text():
    play = Play(Style.MISTRAL, tools=TOOLS, markers={0: b"[TOOL_CALLS]"})
    play.feed("", '[{"name": "add", "arguments": {"a": 1}}, ', '{"name": "now", "arguments": {}}]').end()
    assert play.calls == [("add", {"a": 1}), ("now", {})]
    assert play.text == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"name": "a", "arguments": {"x": 1}}', [("a", '{"x": 1}')]),
        ('{"function": {"name": "a", "arguments": "{\\"x\\": 1}"}}', [("a", '{"x": 1}')]),
        ('{"name": "a", "parameters": {}}; {"name": "b"}', [("a", "{}"), ("b", "{}")]),
        ('a[ARGS]{"x": "é"}', [("a", '{"x": "é"}')]),
        ('{"name": "a b", "arguments": {}}', []),
        ('{"name": "a", "arguments": [1]}', []),
        ("[" * 100_000, []),
        ("", []),
    ],
)
def test_calls_are_read_from_what_models_write(text, found):
    assert [(call.name, call.arguments) for call in read_calls(text, "j", 0)] == found


def test_logprobs_stay_with_their_ids():
    play = Play(tools=TOOLS, logprobs=True).feed("Hi ", *characters(NOW), " there").end()
    for release in play.left:
        assert len(release.logprobs) == len(release.ids)
    assert (
        b"".join(entry.token for release in play.left for entry in release.logprobs).decode()
        == f"Hi {NOW} there"
    )


@pytest.mark.parametrize("cut", range(12))
def test_a_resumed_answer_goes_on_and_repeats_nothing(cut):
    pieces = ["One", " two", " ST", "ART", " th", "ree", " S", "T", "O", "no ", "S", "TOP", "never"]
    whole = Play(stop=("STOP",), logprobs=True).feed(*pieces)
    written = [release for release in whole.left if release.first_index + len(release.ids) <= cut]
    ids = [index for release in written for index in release.ids]
    resumed = Play(stop=("STOP",), logprobs=True)
    resumed.answer.replay(ids, [pieces[index].encode() for index in ids])
    resumed.fed = resumed.first = len(ids)
    for piece in pieces[len(ids) :]:
        resumed.feed(piece)
    text = "".join(release.text for release in written) + resumed.text
    assert text == whole.text == "One two START three STOno "
    assert all(len(release.ids) == len(release.logprobs) for release in resumed.left)
    assert resumed.answer.stopped


def test_what_left_elsewhere_is_not_repeated_even_if_it_would_be_held_here():
    resumed = Play(stop=("STOP",), logprobs=True)
    resumed.answer.replay(range(2), [b"One", b" ST"])
    resumed.fed = resumed.first = 2
    resumed.feed("ART", " now").end()
    assert resumed.text == "ART now"
    assert [len(release.logprobs) for release in resumed.left] == [1, 1]


def test_resuming_after_a_call_numbers_the_next():
    resumed = Play(tools=TOOLS)
    resumed.answer.replay(range(2), [ADD.encode(), b"\n"])
    resumed.fed = resumed.first = 2
    resumed.feed(NOW).end()
    assert resumed.calls == [("now", {})]
    assert resumed.left[-1].calls[0].id == call_id("j", 1)
    assert resumed.answer.reason(FinishReason.STOP) is FinishReason.TOOL_CALLS


SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer", "maximum": 5}}, "required": ["n"]}'


@pytest.mark.parametrize(
    ("more", "text", "says"),
    [
        ({"output": Output.JSON_SCHEMA, "schema": SCHEMA}, '{"n": 6}', "does not fit the schema"),
        ({"output": Output.JSON_SCHEMA, "schema": SCHEMA}, '{"n": 5', "does not fit the schema"),
        ({"output": Output.JSON_OBJECT}, "[]", "does not fit the schema"),
        ({"tools": TOOLS, "tool_choice": "required"}, "No.", "without the tool call"),
        ({"tools": TOOLS, "tool_choice": "function:add"}, ADD.replace("1", '"one"'), "do not fit"),
    ],
)
def test_an_answer_that_is_not_what_was_promised_never_ends_as_if_it_were(more, text, says):
    play = Play(**more).feed(text).end()
    with pytest.raises(EngineFailed, match=says):
        play.answer.reason(FinishReason.STOP)
    assert play.answer.reason(FinishReason.LENGTH) is FinishReason.LENGTH


def test_an_answer_that_fits_ends_well_and_stop_strings_do_not_break_it():
    play = Play(output=Output.JSON_SCHEMA, schema=SCHEMA, stop=("3", "}")).feed('{"n": ', "3", "}").end()
    assert play.text == '{"n": 3}'
    assert play.answer.reason(FinishReason.STOP) is FinishReason.STOP


@pytest.mark.parametrize("choice", ["function:nobody", "required"])
def test_a_choice_of_no_tool_is_refused(choice):
    with pytest.raises(BadRequest) as refusal:
        Answer(job(tools=TOOLS if ":" in choice else (), tool_choice=choice), Style.HERMES)
    assert refusal.value.param == "tool_choice"
