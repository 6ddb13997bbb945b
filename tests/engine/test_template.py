"""Templates render jobs as their models were trained, or in words that they know."""

import json

import msgspec
import pytest

pytest.importorskip("jinja2", reason="templates need jinja2")

from meshnode.engine.worker.calls import Style
from meshnode.engine.worker.template import CHATML, Template, usual_form
from meshnode.errors import BadRequest
from meshnode.terms import Job, Tool, ToolCall, Turn, Wish

TURNS = (Turn(role="system", content="Be brief."), Turn(role="user", content="Hi"))
WEATHER = Tool(
    name="get_weather",
    description="Tells the <weather>",
    parameters='{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}',
)
CALL = ToolCall("call_0123456789abcdef", "get_weather", '{"city": "Zürich"}')
ASKED = (
    Turn(role="user", content="Weather?"),
    Turn(role="assistant", content="", tool_calls=(CALL,)),
    Turn(role="tool", content="rain", name="get_weather", tool_call_id=CALL.id),
)
QWEN = (
    "{%- if tools %}{{- '<|im_start|>system\n# Tools\n<tools>' }}"
    "{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}"
    "{%- endfor %}{{- '\n</tools>\n<tool_call></tool_call><|im_end|>\n' }}{%- endif %}{%- for m in messages %}"
    "{%- if m.role == 'tool' %}{{- '<tool_response>' + m.content + '</tool_response>' }}"
    "{%- elif m.tool_calls %}{%- for c in m.tool_calls %}{{- '<tool_call>' + (c.function.arguments | tojson) }}"
    "{%- endfor %}{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{%- endif %}"
    "{%- endfor %}"
)
MISTRAL = (
    "{% if tools is not none %}[AVAILABLE_TOOLS]{{ tools|tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}"
    "{% if m.tool_calls is defined %}[TOOL_CALLS]{% for c in m.tool_calls %}{% if c.id|length != 9 %}"
    "{{ raise_exception('ids must be 9 long') }}{% endif %}{{ c.id }}{% endfor %}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def job(turns=TURNS, **more):
    return Job(id="job", wish=Wish(), turns=turns, **more)


@pytest.mark.parametrize(
    ("marks", "prompt"),
    [
        (
            {"<|im_start|>"},
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            {"<start_of_turn>"},
            "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
        ),
        (set(), "<bos>system: Be brief.\n\nuser: Hi\n\nassistant:"),
    ],
)
def test_without_a_template_turns_take_the_form_that_the_vocabulary_knows(marks, prompt):
    assert Template(usual_form(marks.__contains__), bos="<bos>").render(job()) == prompt


def test_special_tokens_and_names_are_there_and_developer_is_system():
    source = "{{ bos_token }}{% for m in messages %}{{ m.role }}/{{ m.name }}={{ m.content }};{% endfor %}"
    turns = (Turn(role="developer", content="a"), Turn(role="user", name="eve", content="b"))
    assert Template(source, bos="<s>").render(job(turns)) == "<s>system/=a;user/eve=b;"


def test_a_template_may_refuse():
    with pytest.raises(BadRequest, match="roles must alternate") as refusal:
        Template("{{ raise_exception('roles must alternate') }}").render(job())
    assert refusal.value.param == "messages"


@pytest.mark.parametrize(
    ("source", "style"),
    [
        (QWEN, Style.HERMES),
        (MISTRAL, Style.MISTRAL),
        ("{% if tools %}<|python_tag|>{% endif %}", Style.LLAMA),
        ('{{ tools }}{"name": x, "parameters": y}', Style.LLAMA),
        ("{{ messages }}", Style.HERMES),
        ("", Style.HERMES),
    ],
)
def test_the_form_of_calls_is_read_from_the_template(source, style):
    assert Template(source).style is style


def test_a_template_that_knows_tools_gets_them_with_arguments_as_a_mapping():
    shown = Template(QWEN).render(job(ASKED, tools=(WEATHER,)))
    described = json.loads(shown.split("<tools>\n")[1].split("\n</tools>")[0])
    assert described["function"]["parameters"]["required"] == ["city"]
    assert "Tells the <weather>" in shown  # as JSON has it, not escaped for HTML
    assert '<tool_call>{"city": "Zürich"}' in shown
    assert "<tool_response>rain</tool_response>" in shown


def test_tools_that_may_not_be_called_are_not_shown():
    assert "get_weather" not in Template(QWEN).render(job(tools=(WEATHER,), tool_choice="none"))


def test_a_named_function_is_the_only_one_shown():
    other = Tool(name="other")
    shown = Template(QWEN).render(job(tools=(WEATHER, other), tool_choice="function:other"))
    assert "other" in shown
    assert "get_weather" not in shown


def test_arguments_stay_text_for_templates_that_want_text():
    calls = "{% for c in m.tool_calls or [] %}{{ '' + c.function.arguments }}{% endfor %}"
    source = "{# tools #}{% for m in messages %}" + calls + "{% endfor %}"
    assert Template(source).render(job(ASKED)) == '{"city": "Zürich"}'


def test_mistral_gets_ids_of_nine_characters():
    assert Template(MISTRAL).render(job(ASKED, tools=(WEATHER,))).endswith("789abcdefrain")


def test_a_template_without_tools_describes_them_in_the_systems_words():
    shown = Template(CHATML).render(job((*TURNS[:1], *ASKED), tools=(WEATHER,), tool_choice="required"))
    system, user, assistant, response = shown.split("<|im_end|>\n")[:4]
    assert system.startswith("<|im_start|>system\nBe brief.\n\nYou can call functions.")
    assert '"name": "get_weather"' in system
    assert "You must call a function now." in system
    assert user == "<|im_start|>user\nWeather?"
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>' in assistant
    assert response == "<|im_start|>user\n<tool_response>\nrain\n</tool_response>"


def test_a_template_without_a_system_role_hears_it_from_the_user():
    assert Template(GEMMA).render(job()) == "<user>Be brief.\n\nHi"
    shown = Template(GEMMA).render(job((*TURNS[:1], *ASKED), tools=(WEATHER,)))
    assert shown.startswith("<user>Be brief.\n\nYou can call functions.")
    assert shown.endswith("<user><tool_response>\nrain\n</tool_response>")


def test_what_a_template_refuses_in_every_form_is_told_as_it_said_first():
    turns = (Turn(role="assistant", content="a"), *TURNS)
    with pytest.raises(BadRequest, match="Roles must alternate"):
        Template(GEMMA).render(job(turns))


def test_what_hugging_faces_templates_use_is_there():
    source = (
        "{% generation %}{{ strftime_now('%Y')|length }}{% endgeneration %}{% for m in messages %}"
        "{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m['content'].split(' ')[-1]|trim|upper }}{% endfor %}"
        "{% set ns = namespace(found=false) %}{% set ns.found = true %}{{ ns.found }}{{ [1, 2][::-1]|join(',') }}"
        "{{ {'a': none}|tojson(indent=2) }}{{ (1, 2)|list|length }}{{ 'a' ~ 1 }}{{ {'k': 1}.items()|list }}"
    )
    assert Template(source).render(job()) == "4BRIEF.True2,1{\n  \"a\": null\n}2a1[('k', 1)]"


TEXT = Turn(role="text", content="<|fim_prefix|>def f():\n  ")


@pytest.mark.parametrize("source", [QWEN, GEMMA, "{{ strftime_now('%Y') }}{{ raise_exception('never') }}"])
def test_a_bare_text_is_the_prompt_as_it_is_whatever_the_template(source):
    assert Template(source).render(job((TEXT,))) == TEXT.content
    assert Template(source).render(job((msgspec.structs.replace(TEXT, content=""),))) == ""


@pytest.mark.parametrize(
    ("turns", "more", "param"),
    [
        ((TURNS[1], TEXT), {}, "messages"),
        ((TEXT, TEXT), {}, "messages"),
        ((TEXT,), {"tools": (WEATHER,)}, "tools"),
    ],
)
def test_a_bare_text_stands_alone(turns, more, param):
    with pytest.raises(BadRequest) as caught:
        Template(CHATML).render(job(turns, **more))
    assert caught.value.param == param
