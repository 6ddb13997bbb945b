"""Templates render as the model was trained, and hostile ones get nowhere."""

import pytest

from meshnode.engine.worker import template as template_module
from meshnode.engine.worker.template import SOURCE_MAX_CHARS, Template
from meshnode.errors import BadRequest, EngineFailed
from meshnode.terms import Turn

TURNS = (Turn(role="system", content="Be brief."), Turn(role="user", content="Hi"))


def test_without_a_template_turns_become_chatml():
    assert Template("").render(TURNS) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_special_tokens_and_names_are_there_and_developer_is_system():
    source = "{{ bos_token }}{% for m in messages %}{{ m.role }}/{{ m.name }}={{ m.content }};{% endfor %}"
    turns = (Turn(role="developer", content="a"), Turn(role="user", name="eve", content="b"))
    assert Template(source, bos="<s>").render(turns) == "<s>system/=a;user/eve=b;"


def test_a_template_may_refuse():
    with pytest.raises(BadRequest, match="roles must alternate") as refusal:
        Template("{{ raise_exception('roles must alternate') }}").render(TURNS)
    assert refusal.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append('x') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['signal'] }}",
        "{{ ('a' * 100000000) | length }}",
        "{{ (10 ** 1000000) % 7 }}",
        "{% for a in range(1000000) %}{% endfor %}",
        "{{ namespace.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_hostile_template_is_refused(source):
    with pytest.raises(BadRequest):
        Template(source).render(TURNS)


def test_a_template_that_never_ends_is_interrupted(monkeypatch):
    monkeypatch.setattr(template_module, "RENDER_MAX_S", 0.1)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(BadRequest, match="took over"):
        Template(loop).render(TURNS)


def test_output_is_bounded(monkeypatch):
    monkeypatch.setattr(template_module, "PROMPT_MAX_CHARS", 1000)
    with pytest.raises(BadRequest, match="1000 characters"):
        Template("{% for a in range(99999) %}xxxxxxxx{{ a }}{% endfor %}").render(TURNS)


@pytest.mark.parametrize("source", ["{% for %}", "x" * (SOURCE_MAX_CHARS + 1)])
def test_what_is_no_template_cannot_be_loaded(source):
    with pytest.raises(EngineFailed):
        Template(source)
