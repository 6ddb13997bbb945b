"""An upstream's API key, from the environment or from a file that nobody else may read; it is never logged."""

import stat
from collections.abc import Mapping
from pathlib import Path

from meshnode.config import Upstream
from meshnode.errors import ConfigInvalid
from meshnode.terms import CloudApi

KEY_BYTES_MAX = 4096
PARAM = "upstreams"


def read_key(upstream: Upstream | CloudApi, env: Mapping[str, str], param: str = PARAM) -> str:
    """The key that the settings name, empty if they name none. Raises ConfigInvalid, which never shows it."""
    if upstream.api_key_env:
        return _checked(env.get(upstream.api_key_env, ""), f"the variable {upstream.api_key_env}", param)
    if upstream.api_key_file:
        return _checked(_read(Path(upstream.api_key_file).expanduser(), param), upstream.api_key_file, param)
    return ""


def _read(path: Path, param: str) -> str:
    try:
        with path.open("rb") as file:
            open_to_others = stat.S_IMODE(path.stat().st_mode) & 0o077
            content = file.read(KEY_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigInvalid(
            f"The API key file {path} cannot be read: {error.strerror}.", param=param
        ) from error
    if open_to_others:
        raise ConfigInvalid(
            f"The API key file {path} is open to others.", hint=f"chmod 600 {path}", param=param
        )
    return content.decode("latin-1").strip()


def _checked(key: str, where: str, param: str) -> str:
    """A key that a header can carry."""
    if not key:
        raise ConfigInvalid(f"There is no API key in {where}.", param=param)
    if len(key) > KEY_BYTES_MAX or not (key.isascii() and key.isprintable()):
        raise ConfigInvalid(f"What {where} holds cannot be an API key.", param=param)
    return key
