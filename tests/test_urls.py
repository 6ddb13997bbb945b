"""Which URLs settings may name."""

import pytest

from meshnode.errors import ConfigInvalid
from meshnode.urls import checked_url, is_loopback


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.0.0.9", True), ("::1", True), ("10.0.0.1", False), ("", False)],
)
def test_this_machine_is_told_from_others(host: str, here: bool) -> None:
    assert is_loopback(host) is here


def test_a_url_gives_its_host_and_scheme() -> None:
    assert checked_url("https://api.example:8443/v1", "It", "Name it.", "cloud") == ("api.example", "https")


@pytest.mark.parametrize(
    "text", ["ftp://x", "http://", "http://x?a=b", "http://x#y", "http://u:secret@x", "http://x:y"]
)
def test_what_is_no_plain_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        checked_url(text, "It", "Name it.", "cloud")
    assert text not in str(caught.value)
    assert caught.value.param == "cloud"
