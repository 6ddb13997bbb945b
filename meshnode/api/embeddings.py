"""POST /v1/embeddings: texts in, one vector for each out, in OpenAI's shapes."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from meshnode.api.endpoint import Endpoint
from meshnode.api.exchange import Exchange
from meshnode.api.flow import Items
from meshnode.api.options import MeshBody, read_body, wished
from meshnode.errors import BadRequest, MeshError
from meshnode.serve.vectors import FLOAT_BYTES, floats
from meshnode.terms import Answer, End, Job, Vector, Wish
from meshnode.terms.job import INPUTS_MAX


class EmbeddingsBody(MeshBody, frozen=True, kw_only=True):
    """The body of POST /v1/embeddings."""

    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class EmbeddingShape(msgspec.Struct, frozen=True, kw_only=True):
    """One vector: numbers, or the base64 of its 32-bit floats."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: tuple[float, ...] | str


class EmbeddingsUsage(msgspec.Struct, frozen=True):
    """Tokens read; none are written."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, in the order of the input."""

    object: Literal["list"] = "list"
    data: tuple[EmbeddingShape, ...]
    model: str
    usage: EmbeddingsUsage


class Embeddings(Endpoint[EmbeddingsBody]):
    """The endpoint, as an ASGI application."""

    def read(self, body: bytes, headers: Iterable[tuple[str, str]]) -> EmbeddingsBody:
        """Decode and check a request, see read_embeddings."""
        return read_embeddings(body, headers)

    def jobs(self, asked: EmbeddingsBody, job_id: str, tenant_tag: bytes) -> tuple[Job, ...]:
        """The one job, see embeddings_job."""
        return (embeddings_job(asked, job_id, tenant_tag),)

    async def respond(
        self, exchange: Exchange, asked: EmbeddingsBody, _jobs: tuple[Job, ...], items: Items
    ) -> None:
        """Write the vectors once there are all of them."""
        await _respond(items, exchange, asked)


def read_embeddings(body: bytes, headers: Iterable[tuple[str, str]] = ()) -> EmbeddingsBody:
    """Decode and check a request. Raises BadRequest whose `param` names the field at fault."""
    return read_body(body, headers, EmbeddingsBody)


def embeddings_job(asked: EmbeddingsBody, job_id: str, tenant_tag: bytes = b"") -> Job:
    """The Job that the walk takes. Raises BadRequest for input that is no text."""
    job = Job(id=job_id, wish=Wish(), turns=(), inputs=_texts(asked.input), tenant_tag=tenant_tag)
    return wished(job, asked, "input")


def _texts(given: str | list[Any]) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not 0 < len(texts) <= INPUTS_MAX:
        raise BadRequest(f"Send between 1 and {INPUTS_MAX} texts.", param="input")
    for text in texts:
        if isinstance(text, int | list):
            raise BadRequest("Arrays of tokens are not supported.", hint="Send the text.", param="input")
        if not isinstance(text, str) or not text:
            raise BadRequest("Every input must be a text that is not empty.", param="input")
    return tuple(texts)


async def _respond(items: Items, exchange: Exchange, body: EmbeddingsBody) -> None:
    vectors: list[bytes] = []
    model = ""
    async for _, item in items:
        if isinstance(item, Answer):
            exchange.served_by(item)
            model = item.model
        elif isinstance(item, Vector):
            vectors.append(item.values)
        elif isinstance(item, End):
            await _finish(exchange, body, model, vectors, item)
            return
        elif isinstance(item, MeshError):
            await exchange.refuse(item)
            return


async def _finish(
    exchange: Exchange, body: EmbeddingsBody, model: str, vectors: list[bytes], end: End
) -> None:
    try:
        _check_dimensions(body.dimensions, vectors)
        shapes = tuple(_shape(index, values, body.encoding_format) for index, values in enumerate(vectors))
    except MeshError as error:
        await exchange.refuse(error)
        return
    exchange.counted(end.usage)
    usage = EmbeddingsUsage(end.usage.prompt_tokens, end.usage.prompt_tokens)
    await exchange.respond(msgspec.json.encode(EmbeddingList(data=shapes, model=model, usage=usage)))


def _check_dimensions(wanted: int | None, vectors: list[bytes]) -> None:
    """Vectors cannot be shortened: that takes a model that was trained for it."""
    for values in vectors:
        found = len(values) // FLOAT_BYTES
        if wanted not in (None, found):
            raise BadRequest(f"This model's vectors have {found} dimensions.", param="dimensions")


def _shape(index: int, values: bytes, encoding: str | None) -> EmbeddingShape:
    numbers = floats(values)
    plain = encoding != "base64"
    return EmbeddingShape(index=index, embedding=numbers if plain else base64.b64encode(values).decode())
