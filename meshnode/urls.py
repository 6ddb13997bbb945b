"""Which URLs and addresses settings may name, and which of them are this machine. It reads no settings itself."""

import ipaddress
import re
from urllib.parse import urlsplit

from meshnode.errors import ConfigInvalid
from meshnode.terms import CloudApi
from meshnode.terms.serving import Serving

_ORIGIN = r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?"
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


def check_serving(settings: Serving) -> None:
    """Origins are such as a browser sends them, and profiles have names of their own. Raises ConfigInvalid."""
    for origin in settings.api_origins:
        if not re.fullmatch(_ORIGIN, origin):
            raise ConfigInvalid(
                f"api_origins has {origin!r}, which is no origin of a web page.",
                hint="It looks like https://chat.example or http://localhost:3000, in lower case, without a path.",
                param="api_origins",
            )
    names = [profile.name for profile in settings.profiles]
    if len(set(names)) < len(names):
        raise ConfigInvalid("Two profiles have one name.", hint="Keys go by it.", param="profiles")


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
