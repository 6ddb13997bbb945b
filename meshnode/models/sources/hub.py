"""`hf:OWNER/REPO[@REVISION][:QUANT|:FILE]`: GGUF files on a Hugging Face hub, or a mirror named by HF_ENDPOINT.

`huggingface_hub` finds the file, its digest and who is asking (HF_TOKEN); the bytes come through the same
resumable download as any other address, since that client's own does not survive a kill.
"""

import os
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import httpx2

from meshnode.errors import BadRequest, DownloadFailed, MeshError, ModelNotFound
from meshnode.models.download import PATIENCE, Fetched, Patience, Wanted, download
from meshnode.models.sources.base import SHA256, Offer, Work
from meshnode.seams import Blocking

USUAL_QUANT = "Q4_K_M"  # what publishers recommend and most repositories have
FILES_LISTED_MAX = 10_000
FILES_NAMED = 12
_FORM = re.compile(r"(?P<repo>[^/@:]+/[^/@:]+)(?:@(?P<revision>[^@:]+))?(?::(?P<which>.+))?")
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


class HubFile(NamedTuple):
    """A file of a repository; the digest is hex, empty where the hub has none."""

    path: str
    size_bytes: int
    sha256: str


class HubSource:
    """A repository, and which of its files."""

    def __init__(self, text: str, patience: Patience = PATIENCE) -> None:
        found = _FORM.fullmatch(text)
        if found is None:
            raise BadRequest(
                f"hf:{text[:80]} is not of the form hf:OWNER/REPO[@REVISION][:QUANT|:FILE].", param="source"
            )
        self._repo, self._revision = found["repo"], found["revision"] or "main"
        self._which = found["which"] or ""
        self._endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        self._patience = patience
        self._wanted = Wanted("")

    async def find(self, blocking: Blocking) -> Offer:
        """The file that is meant, with the digest that the hub has of it."""
        return await blocking(self._look)

    async def fetch(self, _offer: Offer, work: Work) -> Fetched:
        """The file."""
        return await download(self._wanted, work.place, work.blocking, work.meter, self._patience)

    def _look(self) -> Offer:
        hub = _client()
        try:
            return self._ask(hub)
        except hub.utils.HFValidationError as error:
            raise BadRequest(f"that is no repository: {error}", param="source") from error
        except (httpx2.HTTPError, OSError) as error:
            raise _translated(hub, error, self._repo) from error

    def _ask(self, hub: ModuleType) -> Offer:
        api = hub.HfApi(endpoint=self._endpoint)
        listed = api.list_repo_tree(self._repo, recursive=True, revision=self._revision)
        chosen = choose(
            [_hub_file(item) for item, _ in zip(listed, range(FILES_LISTED_MAX), strict=False)], self._which
        )
        url = hub.hf_hub_url(self._repo, chosen.path, revision=self._revision, endpoint=self._endpoint)
        known = hub.get_hf_file_metadata(url, token=hub.get_token(), endpoint=self._endpoint)
        sha256 = chosen.sha256 or (known.etag if SHA256.fullmatch(known.etag or "") else "")
        self._wanted = Wanted(
            url,
            hub.utils.build_hf_headers(token=hub.get_token()),
            size_bytes=known.size or chosen.size_bytes,
            promised=bool(sha256),
            plain=url.startswith("http://"),
        )
        return Offer(
            source=f"hf:{self._repo}{_at(self._revision)}:{chosen.path}",
            otherwise=chosen.path.rsplit("/", 1)[-1].removesuffix(".gguf"),
            sha256=sha256,
            size_bytes=known.size or chosen.size_bytes,
        )


def choose(files: Sequence[HubFile], which: str) -> HubFile:
    """The file that is meant: named by its path, by its quantisation, or the usual one of several.

    Raises ModelNotFound, which lists what there is, and BadRequest for models in several files.
    """
    models = sorted(file for file in files if file.path.lower().endswith(".gguf"))
    named = [file for file in models if file.path == which]
    chat = [file for file in models if "mmproj" not in file.path.lower()]
    found = named or [file for file in chat if _has_word(file.path, which or USUAL_QUANT)]
    if not found and not which:
        found = chat
    if len(found) == 1 and not _SPLIT.search(found[0].path):
        return found[0]
    if found and all(_SPLIT.search(file.path) for file in found):
        raise BadRequest(
            f"{found[0].path} is one of several files that make up a model; only whole ones can be pulled.",
            hint="Choose a smaller quantisation that is one file, or join them with llama-gguf-split --merge.",
            param="source",
        )
    names = ", ".join(file.path for file in (found or models)[:FILES_NAMED])
    if not names:
        raise ModelNotFound(
            "that repository has no GGUF file.", hint="Look for one whose name ends in -GGUF."
        )
    raise ModelNotFound(
        f"{which or 'which file'}: {'several files match' if found else 'there is no such file'}",
        hint=f"Add : and one of these: {names}",
    )


def _has_word(path: str, word: str) -> bool:
    """Whether a file's name has the quantisation as a word of its own: Q4_K is not in Q4_K_M."""
    return re.search(rf"(?<![a-z0-9_]){re.escape(word.lower())}(?![a-z0-9_])", path.lower()) is not None


def _hub_file(item: Any) -> HubFile:
    lfs = getattr(item, "lfs", None)
    sha256 = lfs.sha256 if lfs is not None and SHA256.fullmatch(lfs.sha256) else ""
    return HubFile(item.path, getattr(item, "size", 0), sha256)


def _at(revision: str) -> str:
    return "" if revision == "main" else f"@{revision}"


def _client() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise BadRequest(
            "hf: sources need the package huggingface_hub.",
            hint="pip install 'meshnode[hub]'",
            param="source",
        ) from error
    return huggingface_hub


def _translated(hub: ModuleType, error: Exception, repo: str) -> MeshError:
    """The hub's refusal in our words."""
    match error:
        case hub.errors.GatedRepoError():
            return DownloadFailed(
                f"{repo} is only for those who accepted its licence.",
                hint="Accept it on the model's page, and set HF_TOKEN to a token of yours.",
            )
        case hub.errors.RepositoryNotFoundError() | hub.errors.RevisionNotFoundError():
            return ModelNotFound(
                f"the hub has no repository {repo} in that revision, or does not show it to you.",
                hint="Check the name for mistakes; for a private one set HF_TOKEN.",
            )
        case hub.errors.EntryNotFoundError():
            return ModelNotFound(f"{repo} has no such file.")
        case hub.errors.OfflineModeIsEnabled():
            return DownloadFailed("HF_HUB_OFFLINE forbids asking the hub.", hint="Unset it and pull again.")
        case hub.errors.HfHubHTTPError():
            return DownloadFailed(f"the hub refused: {str(error).splitlines()[0]}", hint="Try again later.")
        case _:
            return DownloadFailed(
                f"the hub cannot be reached: {error}", hint="Check the network and HF_ENDPOINT."
            )
