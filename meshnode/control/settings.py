"""A node's settings as its owner looks at them and changes them in its file. It knows no running node.

What a value may be is decided by the code that reads the file when a node starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from meshnode.config import (
    ENV_HOME,
    ENV_PREFIX,
    FILE_NAME,
    NAMES,
    Config,
    Setting,
    every_setting,
    from_env,
    settled,
)
from meshnode.errors import BadRequest, ConfigInvalid, MeshError
from meshnode.toml_file import held, parse_toml, read_bytes, read_toml, replace_file

Source = Literal["default", "file", "environment", "command line"]
HIDDEN = "***"
HOME = "home"
_PASSWORD = re.compile(r"(?<=://)[^/@\s\"]+(?=@)")
_QUERY = re.compile(r"(://[^\s?\"]*\?)[^\s\"]+")
_LITERAL = ("[", "{")


class SettingView(msgspec.Struct, frozen=True, kw_only=True):
    """A setting as a node that starts now would have it.

    `source` says who has decided it: default, file, environment or, for the home alone, command line; `where` is the
    file or the variable. Passwords in URLs are shown as `***`.
    """

    name: str
    value: Any
    source: Source
    where: str = ""


class SettingChange(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a setting in the file `path`: its value there `before` and `after`, None where it is not there.

    `variable` is the variable of the environment that outweighs the file, if there is one; `restart` says that a node
    runs which goes on with what it was started with.
    """

    name: str
    path: str
    before: Any = None
    after: Any = None
    changed: bool = False
    variable: str = ""
    restart: bool = False


class SettingsFile(msgspec.Struct, frozen=True):
    """Where the settings of a home are written, and whether that file is there."""

    path: str
    exists: bool


# --- Looking ---


def file_of(home: Path) -> SettingsFile:
    """Where this home's settings are written."""
    path = home / FILE_NAME
    return SettingsFile(str(path), path.exists())


def settings_of(home: Path, env: Mapping[str, str], *, named: bool = False) -> tuple[SettingView, ...]:
    """Every setting in force for a home; `named` says that it was named on the command line.

    Raises ConfigInvalid for the first that is not usable, HomeUnusable.
    """
    written, told = read_toml(home / FILE_NAME), from_env(env)
    config = settled(home, written, {}, env)
    own = tuple(
        _view(setting, config, home, written, told) for setting in every_setting() if setting.name != HOME
    )
    return (_home_view(home, env, named=named), *own)


def setting_of(name: str, home: Path, env: Mapping[str, str], *, named: bool = False) -> SettingView:
    """One of them. Raises ConfigInvalid, also where there is none of that name."""
    views = {view.name: view for view in settings_of(home, env, named=named)}
    if name not in views:
        raise _unknown(name, home)
    return views[name]


def text_of(value: object) -> str:
    """A value as TOML has it, on one line."""
    return msgspec.json.encode(value).decode()


def _view(
    setting: Setting, config: Config, home: Path, written: Mapping[str, object], told: Mapping[str, object]
) -> SettingView:
    source: Source = "default"
    where = ""
    if setting.name in told:
        source, where = "environment", _variable(setting.name)
    elif setting.name in written:
        source, where = "file", str(home / FILE_NAME)
    value = masked(msgspec.to_builtins(getattr(config, setting.name)))
    return SettingView(name=setting.name, value=value, source=source, where=where)


def _home_view(home: Path, env: Mapping[str, str], *, named: bool) -> SettingView:
    if named:
        return SettingView(name=HOME, value=str(home), source="command line", where="--home")
    if env.get(ENV_HOME):
        return SettingView(name=HOME, value=str(home), source="environment", where=ENV_HOME)
    return SettingView(name=HOME, value=str(home), source="default")


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def masked(value: Any) -> Any:
    """The value without the passwords that somebody may have put into its URLs."""
    if isinstance(value, str):
        return _QUERY.sub(rf"\1{HIDDEN}", _PASSWORD.sub(HIDDEN, value))
    if isinstance(value, list | tuple):
        return [masked(each) for each in value]
    if isinstance(value, Mapping):
        return {name: masked(each) for name, each in value.items()}
    return value


def _unknown(name: str, home: Path) -> ConfigInvalid:
    """The error that reading a file with this setting would give, which has the nearest name for a hint."""
    hint = ""
    try:
        settled(home, {name: ""}, {}, {})
    except ConfigInvalid as error:
        hint = error.hint
    return ConfigInvalid(f"There is no setting {name[:64]!r}.", hint=hint, param=name[:64])


# --- Changing ---


def set_setting(name: str, text: str, home: Path, env: Mapping[str, str]) -> SettingChange:
    """Write a setting into the file of a home, of which nothing else changes, comments included.

    `text` is as in an environment variable, several values separated by commas; lists may also be written as TOML has
    them. Raises ConfigInvalid where the value, or the file with it, is not usable; then the file stays as it was.
    """
    value = _value(name, text, home)

    def put(document: Any) -> None:
        document[name] = value

    return _change(name, value, put, home, env)


def unset_setting(name: str, home: Path, env: Mapping[str, str]) -> SettingChange:
    """Take a setting out of the file of a home, also one that does not exist.

    Raises ConfigInvalid where the file was usable and would not be without it.
    """
    if name not in NAMES and name not in read_toml(home / FILE_NAME):
        raise _unknown(name, home)
    return _change(name, None, lambda document: document.pop(name, None), home, env)


def _value(name: str, text: str, home: Path) -> Any:
    """What is to stand in the file. Raises ConfigInvalid."""
    if name == HOME:
        raise BadRequest(
            "The home is not written in its own file.", hint=f"Use --home, or {ENV_HOME}.", param=HOME
        )
    if name not in NAMES:
        raise _unknown(name, home)
    default = next((one.default for one in every_setting() if one.name == name), "")
    if default.startswith("[") and text.strip().startswith(_LITERAL):
        literal = parse_toml(f"value = {text.strip()}".encode(), Path(name))
        if len(literal) > 1:
            raise ConfigInvalid(f"{name} takes one value, and this is TOML with more in it.", param=name)
        value = literal["value"]
        settled(home, {name: value}, {}, {})
        return value
    typed = getattr(settled(home, {name: text}, {}, {}), name)
    return msgspec.json.decode(msgspec.json.encode(typed))  # plain, with lists for tuples


def _change(
    name: str, value: Any, edit: Callable[[Any], object], home: Path, env: Mapping[str, str]
) -> SettingChange:
    path = home / FILE_NAME
    with held(home):
        raw = read_bytes(path)
        written = parse_toml(raw, path)
        expected = {key: each for key, each in written.items() if key != name}
        if value is not None:
            expected[name] = value
        if expected != written:
            _check(home, written, expected, must_be_usable=value is not None)
            replace_file(path, _edited(raw, edit, expected, path))
    variable = _variable(name) if name in from_env(env) else ""
    return SettingChange(
        name=name,
        path=str(path),
        before=masked(written.get(name)),
        after=masked(value),
        changed=expected != written,
        variable=variable,
    )


def _check(
    home: Path, written: Mapping[str, Any], expected: Mapping[str, Any], *, must_be_usable: bool
) -> None:
    """Whether a node could start with this file; one that was not usable before may lose a setting all the same."""
    try:
        settled(home, expected, {}, {})
    except ConfigInvalid:
        if must_be_usable or _usable(home, written):
            raise


def _usable(home: Path, written: Mapping[str, Any]) -> bool:
    try:
        settled(home, written, {}, {})
    except ConfigInvalid:
        return False
    return True


def _edited(raw: bytes, edit: Callable[[Any], object], expected: Mapping[str, Any], path: Path) -> bytes:
    """The file's text after the edit; what it then says is compared with what it should say."""
    import tomlkit  # late: only an edit needs it

    document = tomlkit.parse(raw.decode())
    edit(document)
    edited: bytes = tomlkit.dumps(document).encode()
    if parse_toml(edited, path) != expected:
        raise MeshError(
            f"{path} is written in a way that this command cannot change.", hint="Change it in an editor."
        )
    return edited
