"""An upstream's API key, from the environment or from a file that nobody else may read; it is never logged."""

import stat
from collections.abc import Mapping
from pathlib import Path

from meshnode.config import Upstream
from meshnode.errors import ConfigInvalid

KEY_BYTES_MAX = 4096
PARAM = "upstreams"


def read_key(upstream: Upstream, env: Mapping[str, str]) -> str:
    """The key that the settings name, empty if they name none. Raises ConfigInvalid, which never shows it."""
    if upstream.api_key_env:
        return _checked(env.get(upstream.api_key_env, ""), f"the variable {upstream.api_key_env}")
    if upstream.api_key_file:
        return _checked(_read(Path(upstream.api_key_file).expanduser()), upstream.api_key_file)
    return ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            open_to_others = stat.S_IMODE(path.stat().st_mode) & 0o077
            content = file.read(KEY_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigInvalid(
            f"The API key file {path} cannot be read: {error.strerror}.", param=PARAM
        ) from error
    if open_to_others:
        raise ConfigInvalid(
            f"The API key file {path} is open to others.", hint=f"chmod 600 {path}", param=PARAM
        )
    return content.decode("latin-1").strip()


def _checked(key: str, where: str) -> str:
    """A key that a header can carry."""
    if not key:
        raise ConfigInvalid(f"There is no API key in {where}.", param=PARAM)
    if len(key) > KEY_BYTES_MAX or not (key.isascii() and key.isprintable()):
        raise ConfigInvalid(f"What {where} holds cannot be an API key.", param=PARAM)
    return key
