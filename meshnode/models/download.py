"""One file over HTTP into a place: goes on where an earlier try stopped, and waits out what passes by itself.

Ranges with `If-Range` (RFC 9110, sections 13 and 14), so a file that changed on the server begins anew. It
knows no model and verifies nothing: it gives the digest of what is there now.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import httpx2
import trio

from meshnode.errors import BadRequest, DownloadFailed, MeshError, ModelNotFound
from meshnode.models.digest import STEP_BYTES
from meshnode.models.place import Place, State, check_space, writing
from meshnode.models.progress import Meter
from meshnode.seams import Blocking

REDIRECTS_MAX = 5
WRITE_BYTES = 256 * 1024  # or what has come in WRITE_EVERY_S: a kill costs no more than that
WRITE_EVERY_S = 0.25
RETRY_AFTER_MAX_S = 30.0
CONNECT_S = 15.0
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = (408, 425, 429)  # these, and all from 500 on, may be over soon


class Patience(NamedTuple):
    """How long a silent server is waited for, and how often and after what pause it is asked again.

    The pause doubles with each try that brought nothing; a try that brought something begins anew.
    """

    stall_s: float = 30.0
    tries: int = 6
    pause_s: float = 1.0


PATIENCE = Patience()


class Fetched(NamedTuple):
    """A whole file that is still to be judged. One that is not `ours` stays as it is, and is only linked."""

    path: Path
    digest: bytes
    ours: bool = True


class Wanted(NamedTuple):
    """What to fetch: the address, what to send along, and what is known: 0 and False where nothing is.

    `promised` says that the digest will be checked, so parts may be joined without a validator. Plain HTTP is
    refused unless `plain`.
    """

    url: str
    headers: Mapping[str, str] = MappingProxyType({})
    size_bytes: int = 0
    promised: bool = False
    plain: bool = False


class _Broken(Exception):
    """A try that failed and may work the next time."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


async def download(
    wanted: Wanted, place: Place, blocking: Blocking, meter: Meter, patience: Patience
) -> Fetched:
    """Fetch it into `place.part`. Raises DownloadFailed (run it again to go on), ModelNotFound, BadRequest."""
    fetching = _Download(wanted, place, blocking, meter)
    await fetching.take_up()
    async with _client(wanted, patience) as client:
        await _persist(fetching, client, patience)
    return Fetched(place.part, fetching.digest())


async def _persist(fetching: "_Download", client: httpx2.AsyncClient, patience: Patience) -> None:
    """Try until it is done, or until too many tries in a row brought nothing."""
    vain = 0
    while True:
        before = fetching.done
        try:
            await fetching.attempt(client)
        except _Broken as broken:
            vain = 0 if fetching.done > before else vain + 1
            if vain >= patience.tries:
                raise fetching.given_up(str(broken)) from broken
            fetching.meter.begin("retrying", fetching.done, fetching.total)
            await trio.sleep(broken.wait_s or patience.pause_s * 2 ** max(0, vain - 1))
        else:
            return


def _client(wanted: Wanted, patience: Patience) -> httpx2.AsyncClient:
    async def refuse_plain(request: httpx2.Request) -> None:
        if request.url.scheme != "https" and not wanted.plain:
            raise DownloadFailed(f"{request.url.host} would be reached without encryption; that is refused")

    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(patience.stall_s, connect=min(CONNECT_S, patience.stall_s)),
        follow_redirects=True,
        max_redirects=REDIRECTS_MAX,
        trust_env=not wanted.plain,
        event_hooks={"request": [refuse_plain]},
    )


class _Download:
    def __init__(self, wanted: Wanted, place: Place, blocking: Blocking, meter: Meter) -> None:
        self.meter = meter
        self.done = 0
        self.total = wanted.size_bytes
        self._wanted = wanted
        self._place = place
        self._blocking = blocking
        self._hash = hashlib.sha256()
        self._validator = ""
        self._written_at = 0.0

    def digest(self) -> bytes:
        """The SHA-256 of all that is there."""
        return self._hash.digest()

    async def take_up(self) -> None:
        """Read what an earlier pull left, unless nothing says what it is a part of."""
        state = self._place.recall()
        if state is None or not (state.validator or self._wanted.promised):
            return
        held = self._place.held()
        self._validator, self.total = state.validator, self.total or state.total
        if not held:
            return
        self.meter.begin("checking", 0, held)
        with self._place.part.open("rb") as file:
            while found := await self._blocking(lambda: file.read(STEP_BYTES)):
                await self._blocking(lambda found=found: self._hash.update(found))  # type: ignore[misc]
                self.done += len(found)
                self.meter.at(self.done, held)

    async def attempt(self, client: httpx2.AsyncClient) -> None:
        """One request, to the end of the file. Raises _Broken if it is worth another."""
        if self.done and self.done == self.total:
            return
        try:
            async with client.stream("GET", self._wanted.url, headers=self._headers()) as response:
                await self._accept(response)
                await self._receive(response)
        except httpx2.TransportError as error:
            raise _Broken(_words(error)) from error
        except httpx2.TooManyRedirects as error:
            raise DownloadFailed(f"more than {REDIRECTS_MAX} redirects") from error
        except httpx2.InvalidURL as error:
            raise BadRequest(f"that is no address: {error}", param="source") from error

    def given_up(self, why: str) -> DownloadFailed:
        """What to say when the patience is over."""
        of = f" of {self.total / 1e6:.0f}" if self.total else ""
        return DownloadFailed(
            f"the download broke off, again and again, the last time because {why}",
            hint=f"{self.done / 1e6:.0f}{of} MB are kept; run it again to go on from there.",
        )

    def _headers(self) -> dict[str, str]:
        headers = {**self._wanted.headers, "Accept-Encoding": "identity"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if self._validator:
                headers["If-Range"] = self._validator
        return headers

    async def _accept(self, response: httpx2.Response) -> None:
        """Make ready for the body. Raises what the status means."""
        match response.status_code:
            case 206 if found := _RANGE.fullmatch(response.headers.get("Content-Range", "")):
                if int(found[1]) != self.done:
                    await self._restart()
                    raise _Broken("the server sent another part than was asked for")
                self.total = int(found[2]) if found[2] != "*" else self.total
            case 200:
                await self._restart()
                self.total = int(response.headers.get("Content-Length") or 0) or self._wanted.size_bytes
            case 416 if self.done:
                await self._restart()
                raise _Broken("the file on the server is shorter than what was fetched of it")
            case status:
                raise _refusal(status, response)
        self._check_size()
        await self._blocking(lambda: self._begin(response))

    def _check_size(self) -> None:
        expected = self._wanted.size_bytes
        if expected and self.total and self.total != expected:
            raise DownloadFailed(f"the server has {self.total} bytes where {expected} were announced")

    def _begin(self, response: httpx2.Response) -> None:
        check_space(self._place.directory, max(0, self.total - self.done))
        self._validator = _validator(response) or self._validator
        with writing(self._place.directory):
            self._place.remember(State(self._validator, self.total))

    async def _restart(self) -> None:
        self._hash = hashlib.sha256()
        self.done = 0
        self._validator = ""
        await self._blocking(lambda: self._place.part.unlink(missing_ok=True))

    async def _receive(self, response: httpx2.Response) -> None:
        self.meter.begin("fetching", self.done, self.total)
        with writing(self._place.directory):
            part = self._place.part.open("ab", buffering=0)
        with part:
            await self._copy(response, part.fileno())
            await self._blocking(lambda: os.fsync(part.fileno()))
        if self.total and self.done < self.total:
            raise _Broken("the connection ended before the file did")

    async def _copy(self, response: httpx2.Response, part: int) -> None:
        """The body to the disk. What has come is kept, however it ends.

        A failure to write ends the reading by cancelling it: raised into the loop, it would leave the client's
        own generators to the garbage collector.
        """
        failure: MeshError | None = None
        held, self._written_at = bytearray(), trio.current_time()
        with trio.CancelScope() as reading:
            try:
                async for piece in response.aiter_raw():
                    held += piece
                    if len(held) < WRITE_BYTES and trio.current_time() < self._written_at + WRITE_EVERY_S:
                        continue
                    try:
                        await self._write(part, held)
                    except MeshError as error:
                        failure = failure or error
                        reading.cancel()
            finally:
                if failure is None:
                    await self._write(part, held)
        if failure is not None:
            raise failure

    async def _write(self, part: int, held: bytearray) -> None:
        """Move what is held to the disk. A write is never left half done behind a cancellation."""
        piece = bytes(held)
        held.clear()
        if not piece:
            return

        def put() -> None:
            check_space(self._place.directory, len(piece))
            with writing(self._place.directory):
                _write_all(part, piece)
            self._hash.update(piece)

        with trio.CancelScope(shield=True):
            await self._blocking(put)
        self.done += len(piece)
        self._written_at = trio.current_time()
        self.meter.at(self.done, self.total)


def _write_all(file: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(file, view) :]


def _validator(response: httpx2.Response) -> str:
    """What identifies these very bytes; weak ones do not (RFC 9110, section 13.1.5)."""
    tag: str = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    return str(response.headers.get("Last-Modified", ""))


def _refusal(status: int, response: httpx2.Response) -> Exception:
    host = response.url.host
    if status in _PASSING or status >= 500:
        return _Broken(f"{host} answered {status}", _retry_after(response))
    if status in (401, 403):
        return DownloadFailed(
            f"{host} answered {status}: it wants to know who asks, or does not let them have the file",
            hint="Check the address; for a model behind a licence, accept it there and set HF_TOKEN.",
        )
    if status in (404, 410):
        return ModelNotFound(f"{host} has no such file ({status})", hint="Check the name for mistakes.")
    return DownloadFailed(f"{host} answered {status}")


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), RETRY_AFTER_MAX_S) if text.isascii() and text.isdigit() else 0.0


def _words(error: httpx2.TransportError) -> str:
    match error:
        case httpx2.ReadTimeout():
            return "no byte came for a long time"
        case httpx2.ConnectTimeout() | httpx2.ConnectError():
            return f"the server could not be reached ({str(error) or 'no answer'})"
        case _:
            return str(error) or type(error).__name__
