"""From the command to open a model to a loop that serves it. The first module here that needs llama.cpp."""

from collections.abc import Callable, Iterable, Sequence

from meshnode.engine.worker.cache import Cache
from meshnode.engine.worker.embedding import Embedder
from meshnode.engine.worker.frames import AnyCommand, Event, Loading, Open, Ready
from meshnode.engine.worker.llama import Model
from meshnode.engine.worker.loop import Loop
from meshnode.engine.worker.measure import Pace, Speed, measure
from meshnode.engine.worker.template import Template, usual_form
from meshnode.engine.worker.vocabulary import plain_tokens
from meshnode.terms import Feature

PROGRESS_STEP = 0.05  # of the whole; llama.cpp reports hundreds of steps

Emit = Callable[[Sequence[Event]], None]


def open_loop(opening: Open, commands: Callable[[bool], Iterable[AnyCommand]], emit: Emit) -> Loop:
    """Load, measure, report Ready. Raises EngineFailed when the model cannot be run."""
    model = Model(
        opening.path,
        slots=opening.slots,
        context=opening.context,
        threads=opening.threads,
        on_progress=_Progress(emit),
        plain=opening.plain,
        divided=opening.divided,
    )
    template = template_of(model)
    speed = measure(model)
    emit([_facts(model, speed, opening.threads)])
    pace, embedder = Pace(speed, model.slots), Embedder(model)
    cache = Cache(model, opening.shelf_bytes)
    return Loop(model, template, cache=cache, embedder=embedder, pace=pace, commands=commands, emit=emit)


def template_of(model: Model) -> Template:
    """The file's own chat template, or the usual one for its vocabulary. EngineFailed for an unusable one."""
    source = model.template() or usual_form(lambda mark: len(plain_tokens(model, mark, special=True)) == 1)
    return Template(source, bos=model.special_text("bos"), eos=model.special_text("eos"))


class _Progress:
    """Reports a load in steps that a person can follow."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._said = 0.0

    def __call__(self, done: float) -> None:
        if done >= self._said + PROGRESS_STEP:
            self._said = done
            self._emit([Loading(done)])


def _facts(model: Model, speed: Speed, threads: int) -> Ready:
    metadata = model.metadata()
    return Ready(
        metadata=metadata,
        file_type=int(metadata.get("general.file_type", -1)),
        parameters=model.parameters,
        weights_bytes=model.weights_bytes,
        context=model.context,
        slots=model.slots,
        threads=threads,
        prompt_tps=speed.prompt_tps,
        generate_tps=speed.generate_tps,
        batch_gain=speed.batch_gain,
        features=tuple(Feature),  # llama.cpp can do all of it with any model
    )
