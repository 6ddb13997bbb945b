"""Which URLs and addresses settings may name, and which of them are this machine. It reads no settings itself."""

import ipaddress
from urllib.parse import urlsplit

from meshnode.errors import ConfigInvalid
from meshnode.terms import CloudApi

_CLOUD_URL = "It looks like https://api.openai.com/v1."


def is_loopback(host: str) -> bool:
    """Whether a name or an address in a URL means this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_url(text: str, who: str, hint: str, param: str) -> tuple[str, str]:
    """Host and scheme. No message repeats the URL: somebody may have put a password into it."""
    try:
        url = urlsplit(text)
        host, _port = url.hostname or "", url.port
    except ValueError:
        raise ConfigInvalid(f"{who} has no usable URL.", hint=hint, param=param) from None
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment:
        raise ConfigInvalid(f"{who} has no usable URL.", hint=hint, param=param)
    if "@" in url.netloc:
        raise ConfigInvalid(
            f"{who} has a password in its URL.", hint="Name it with api_key_env instead.", param=param
        )
    return host, url.scheme


def check_loopback(host: str) -> None:
    """The API has no keys, so nothing but this machine may reach it."""
    if not is_loopback(host):
        raise ConfigInvalid(
            f"api_host {host} is not a loopback address, and the API has no keys yet.",
            hint="Use 127.0.0.1, and reach it from elsewhere through an SSH tunnel or another node.",
            param="api_host",
        )


def check_cloud(apis: tuple[CloudApi, ...]) -> None:
    """Each API has a name of its own, and none gets its key in the clear. Raises ConfigInvalid."""
    for api in apis:
        who = f"The commercial API {api.name}"
        host, scheme = checked_url(api.url, who, _CLOUD_URL, "cloud")
        if scheme != "https" and not is_loopback(host):
            raise ConfigInvalid(
                f"{who} would get its key in the clear.", hint="Use an https URL.", param="cloud"
            )
    names = [api.name for api in apis]
    if len(set(names)) < len(names):
        raise ConfigInvalid(
            "Two commercial APIs have one name.", hint="Each has a budget of its own.", param="cloud"
        )
