"""The models of this device: which there are, what is known of one, and giving one up.

It works on the store alone, so it serves a device whose node does not run as well.
"""

from collections.abc import Awaitable, Callable

import msgspec

from meshnode.control.verbs import Arguments, Emit, RemoveArguments, Verb, read_arguments
from meshnode.engine.footprint import CONTEXT_AUTO_MAX, Shape, footprint_bytes
from meshnode.errors import ModelFileInvalid, ModelNotFound
from meshnode.models import catalog
from meshnode.models.facts import ModelFacts
from meshnode.models.signed import statement_of
from meshnode.models.store import ModelStore, Removed, StoredModel

Remove = Callable[[str, bool], Awaitable[Removed]]


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on this device. `digest` is hex; `memory_bytes` is about what it takes to run, with a context of
    `memory_context` tokens; `signer` is the key in hex that vouches for the weights; `problem` says what is wrong
    with its file. Both are empty when there is none.
    """

    name: str
    size_bytes: int
    digest: str
    source: str
    path: str
    licence: str = ""
    quant: str = ""
    tier: int = 0
    bits_per_weight: float = 0.0
    parameters: int = 0
    architecture: str = ""
    context: int = 0
    layers: int = 0
    vocabulary: int = 0
    template: bool = False
    memory_bytes: int = 0
    memory_context: int = 0
    signer: str = ""
    problem: str = ""


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """A model that fits into this machine's memory and can be had by its name."""

    name: str
    size_bytes: int
    memory_bytes: int
    about: str


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine has room for: models known by name, and how large a file of any other may be."""

    free_bytes: int
    largest_file_bytes: int
    suggestions: tuple[Suggestion, ...]


def local_models(store: ModelStore, *, slots: int) -> tuple[LocalModel, ...]:
    """Every model on this device, by name. Reads files; `slots` is how many requests would run at once."""
    return tuple(_described(store, model, slots) for model in store.models())


def show(store: ModelStore, name: str, *, slots: int) -> LocalModel:
    """What is known of one model, named or by `sha256:…`. Raises ModelNotFound, ModelFileInvalid."""
    model = store.find(name)
    if model is None:
        raise _missing(store, name)
    return _described(store, model, slots)


def remove(store: ModelStore, name: str) -> Removed:
    """Give a model up. Raises ModelNotFound."""
    removed = store.remove(name)
    if removed is None:
        raise _missing(store, name)
    return removed


def remove_verb(give_up: Remove) -> Verb:
    """The verb `rm`, over a function that takes a name and whether to do it even while the model answers."""

    async def run(given: Arguments, _emit: Emit) -> Removed:
        arguments = read_arguments(RemoveArguments, given)
        return await give_up(arguments.name, arguments.force)

    return run


def fit(free_bytes: int) -> Fit:
    """What to run on a machine with so much memory free."""
    return Fit(
        free_bytes=free_bytes,
        largest_file_bytes=catalog.largest_file_bytes(free_bytes),
        suggestions=tuple(
            Suggestion(
                name=entry.name,
                size_bytes=entry.size_bytes,
                memory_bytes=catalog.memory_bytes(entry.size_bytes),
                about=f"{entry.about} ({entry.licence})",
            )
            for entry in catalog.fitting(free_bytes)
        ),
    )


def _described(store: ModelStore, model: StoredModel, slots: int) -> LocalModel:
    try:
        facts, problem = store.facts(model), ""
    except ModelFileInvalid as error:
        facts, problem = ModelFacts(), error.message
    context = min(CONTEXT_AUTO_MAX, facts.context or CONTEXT_AUTO_MAX)
    statement = statement_of(store, model.digest)
    shape = Shape(facts.weights_bytes, facts.kv_elements, facts.vocabulary, facts.context)
    return LocalModel(
        name=model.name,
        size_bytes=model.size_bytes,
        digest=model.digest.hex(),
        source=model.source,
        path=str(model.path),
        licence=facts.licence,
        quant=facts.quant,
        tier=facts.tier,
        bits_per_weight=facts.bits_per_weight,
        parameters=facts.parameters,
        architecture=facts.architecture,
        context=facts.context,
        layers=facts.layers,
        vocabulary=facts.vocabulary,
        template=facts.template,
        memory_bytes=0 if problem else footprint_bytes(shape, context=context, slots=slots),
        memory_context=0 if problem else context,
        signer=statement.signer.hex() if statement else "",
        problem=problem,
    )


def _missing(store: ModelStore, name: str) -> ModelNotFound:
    names = ", ".join(model.name for model in store.models())
    return ModelNotFound(
        f"There is no model {name} on this device.",
        hint=f"There are: {names}." if names else "There is none yet; `meshnode pull` fetches one.",
    )
