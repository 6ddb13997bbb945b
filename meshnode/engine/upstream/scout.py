"""Asks an upstream what it offers, in OpenAI's way and in the own ways of those servers that tell more.

Only the list of models must be there; what else is asked for and not got stays unknown. Which server it is
shows in the `owned_by` of its models, so that none is asked for what only another has.
"""

from typing import Any, TypeVar

import msgspec

from meshnode.engine.upstream import offer
from meshnode.engine.upstream.client import Client
from meshnode.engine.upstream.offer import Facts
from meshnode.errors import EngineFailed, MeshError

MODELS_MAX = 64
LOOK_WITHIN_S = 10.0
LISTING_BYTES_MAX = 4 * 1024 * 1024
USUAL_CONTEXT = 4096  # what Ollama and LM Studio load a model with that was not set up otherwise
EMBED_MARKS = ("embed", "bge-", "minilm")

S = TypeVar("S", bound=msgspec.Struct)


class Meta(msgspec.Struct, frozen=True):
    """What llama-server says of a model."""

    n_ctx: int = 0
    n_ctx_train: int = 0
    n_params: int = 0
    ftype: str = ""


class Entry(msgspec.Struct, frozen=True):
    """One model in the list; whoever tells its context has another name for it."""

    id: str
    owned_by: str | None = None
    meta: Meta | None = None
    max_model_len: int | None = None
    context_length: int | None = None


class Listing(msgspec.Struct, frozen=True):
    """The answer of `GET /v1/models`."""

    data: list[Entry]


class Generation(msgspec.Struct, frozen=True):
    """How llama-server is set up for each slot."""

    n_ctx: int = 0


class Props(msgspec.Struct, frozen=True):
    """The answer of llama-server's `GET /props`."""

    default_generation_settings: Generation = Generation()


class Embedded(msgspec.Struct, frozen=True):
    """An answer to a request for an embedding, as far as it shows that there is one."""

    data: list[Any] = []


class Details(msgspec.Struct, frozen=True):
    """Ollama's summary of a model."""

    quantization_level: str = ""


class Shown(msgspec.Struct, frozen=True):
    """The answer of Ollama's `POST /api/show`."""

    details: Details = Details()
    model_info: dict[str, Any] = {}
    capabilities: list[str] | None = None
    parameters: str = ""


class Loaded(msgspec.Struct, frozen=True):
    """A model that Ollama holds in memory, and the context that it gave it."""

    name: str = ""
    context_length: int = 0


class Running(msgspec.Struct, frozen=True):
    """The answer of Ollama's `GET /api/ps`."""

    models: list[Loaded] = []


class Studied(msgspec.Struct, frozen=True):
    """One model as LM Studio lists it."""

    id: str
    type: str = ""
    quantization: str = ""
    max_context_length: int = 0
    loaded_context_length: int = 0


class Study(msgspec.Struct, frozen=True):
    """The answer of LM Studio's `GET /api/v0/models`."""

    data: list[Studied] = []


class Scout:
    """Looks at one upstream again and again. `wanted` are the ids to offer; empty offers all."""

    def __init__(self, client: Client, wanted: tuple[str, ...]) -> None:
        self._client, self._wanted = client, wanted
        self._shown: dict[str, Shown] = {}
        self._embeds: dict[str, bool] = {}

    async def look(self) -> list[Facts]:
        """What it offers now, at least one model. Raises MeshError when it cannot be asked, or has none."""
        try:
            return await self._detailed(await self._listed())
        except MeshError:
            self._shown, self._embeds = {}, {}  # it may come back as another
            raise

    async def _listed(self) -> list[Facts]:
        fetched = await self._client.fetch("models", most_bytes=LISTING_BYTES_MAX, within_s=LOOK_WITHIN_S)
        listing = _read(fetched, Listing)
        if listing is None:
            raise EngineFailed("The upstream server sent something that is no list of models.")
        entries = [one for one in listing.data if one.id in self._wanted or not self._wanted][:MODELS_MAX]
        if not entries:
            only = f" of {', '.join(self._wanted)}" if self._wanted else ""
            raise EngineFailed(f"The upstream server offers no model{only}.")
        return [_facts(entry) for entry in entries]

    async def _detailed(self, facts: list[Facts]) -> list[Facts]:
        match facts[0].owner:
            case offer.LLAMA_SERVER:
                return await self._from_llama_server(facts)
            case offer.LM_STUDIO:
                study = await self._ask("/api/v0/models", Study())
                return [_studied(fact, study) for fact in facts]
            case offer.OLLAMA:
                return await self._from_ollama(facts)
            case _:
                return facts

    async def _from_llama_server(self, facts: list[Facts]) -> list[Facts]:
        """Whether it embeds is a flag that it was started with, and shows only when it is tried."""
        context = facts[0].context
        if not context:
            context = (await self._ask("/props", Props())).default_generation_settings.n_ctx
        for model in [fact.id for fact in facts if fact.id not in self._embeds]:
            trial = await self._ask("embeddings", Embedded(), {"model": model, "input": "a"})
            self._embeds[model] = bool(trial.data)
        return [
            _with(fact, context=fact.context or max(0, context), embeds=self._embeds[fact.id])
            for fact in facts
        ]

    async def _from_ollama(self, facts: list[Facts]) -> list[Facts]:
        running = await self._ask("/api/ps", Running())
        loaded = {model.name: model.context_length for model in running.models}
        self._shown = {fact.id: await self._show(fact.id) for fact in facts}
        return [_shown(fact, self._shown[fact.id], loaded.get(fact.id, 0)) for fact in facts]

    async def _show(self, model: str) -> Shown:
        known = self._shown.get(model, Shown())
        return known if known != Shown() else await self._ask("/api/show", Shown(), {"model": model})

    async def _ask(self, path: str, unknown: S, body: object = None) -> S:
        """One of a server's own ways; `unknown` when it has it not, or otherwise than thought here."""
        try:
            fetched = await self._client.fetch(
                path, body, most_bytes=LISTING_BYTES_MAX, within_s=LOOK_WITHIN_S
            )
        except MeshError:
            return unknown
        return _read(fetched, type(unknown)) or unknown


def _read(decoded: Any, kind: type[S]) -> S | None:
    try:
        return msgspec.convert(decoded, kind)
    except msgspec.ValidationError:
        return None


def _facts(entry: Entry) -> Facts:
    meta = entry.meta or Meta()
    return Facts(
        id=entry.id,
        owner=entry.owned_by or "",
        context=max(0, meta.n_ctx or entry.max_model_len or entry.context_length or 0),
        quant=meta.ftype,
        parameters=max(0, meta.n_params),
        chats=not _named_for_vectors(entry.id),
        embeds=_named_for_vectors(entry.id),
    )


def _named_for_vectors(model_id: str) -> bool:
    """The models that only embed say so in their names, mostly."""
    return any(mark in model_id.lower() for mark in EMBED_MARKS)


def _with(fact: Facts, **more: Any) -> Facts:
    return msgspec.structs.replace(fact, **more)


def _shown(fact: Facts, shown: Shown, loaded_context: int) -> Facts:
    """Ollama's facts. A model that is not loaded will get the context of its parameters, or the usual one."""
    told = [int(words[1]) for line in shown.parameters.splitlines() if _sets_context(words := line.split())]
    trained = [value for key, value in shown.model_info.items() if key.endswith(".context_length")]
    most = next((value for value in trained if isinstance(value, int) and value > 0), USUAL_CONTEXT)
    capabilities = shown.capabilities
    return _with(
        fact,
        context=loaded_context or min(most, told[0] if told else USUAL_CONTEXT),
        quant=shown.details.quantization_level,
        tools=None if capabilities is None else "tools" in capabilities,
        chats=fact.chats if capabilities is None else "completion" in capabilities,
        embeds=fact.embeds if capabilities is None else "embedding" in capabilities,
    )


def _sets_context(words: list[str]) -> bool:
    return len(words) == 2 and words[0] == "num_ctx" and words[1].isdecimal()


def _studied(fact: Facts, study: Study) -> Facts:
    found = next((one for one in study.data if one.id == fact.id), None)
    if found is None:
        return fact
    return _with(
        fact,
        context=max(0, found.loaded_context_length or min(found.max_context_length, USUAL_CONTEXT)),
        quant=found.quantization,
        chats=found.type != "embeddings",
        embeds=found.type == "embeddings",
    )
