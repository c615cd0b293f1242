"""Proxy variables and .netrc, as values."""

from base64 import b64decode
from netrc import netrc
from pathlib import Path

import pytest

from framefetch.sources.environment import Environment, basic
from framefetch.urls import credentials_of


@pytest.mark.parametrize(
    ("no", "url", "direct"),
    [
        ("", "http://h/x", False),
        ("*", "http://h/x", True),
        ("h", "http://h:8080/x", True),
        ("h:8080", "http://h:8080/x", True),
        ("h:8080", "http://h/x", False),
        ("example.org", "http://data.example.org/x", True),
        (".example.org", "http://data.example.org/x", True),
        ("example.org", "http://notexample.org/x", False),
        ("127.0.0.0/8", "http://127.0.0.1:99/x", True),
        ("10.0.0.0/8, localhost", "http://LOCALHOST/x", True),
        ("::1", "http://[::1]/x", True),
        ("[::1]:8080", "http://[::1]:8080/x", True),
        ("[::1]:8080", "http://[::1]/x", False),
        ("*.example.org", "http://data.example.org/x", True),
        ("example.org", "http://example.org./x", True),
        ("example.org.", "http://data.example.org/x", True),
        ("example.org.:80", "http://example.org/x", True),
        ("2001:DB8:0:0::1", "http://[2001:db8::1]/x", True),
        ("[2001:db8::0:1]:80", "http://[2001:DB8::1]/x", True),
        ("2001:db8::/32", "http://[2001:DB8::1]/x", True),
        ("2001:db8::2", "http://[2001:db8::1]/x", False),
        ("::2", "http://[2001:db8::2]/x", False),
        ("bücher.example", "http://xn--bcher-kva.example/x", True),
        ("xn--bcher-kva.example", "http://data.Bücher.example/x", True),
        ("é..x, h", "http://h/x", True),
        ("h:²", "http://h/x", False),
        ("1.1", "http://10.1.1.1/x", False),
        (".1.1.1", "http://10.1.1.1/x", False),
        ("10.1.1.1", "http://10.1.1.1/x", True),
        (".", "http://h/x", False),
        ("[]", "http://h/x", False),
    ],
)
def test_no_proxy(no: str, url: str, direct: bool) -> None:
    environment = Environment({"http": "http://proxy:3128", "no": no})
    assert (environment.proxy_for(url) is None) is direct


def test_a_proxy_of_each_scheme_and_its_password() -> None:
    environment = Environment({"https": "http://me:can%40ry@proxy:3128/", "all": "fallback:1"})
    proxy = environment.proxy_for("https://h/x")
    assert (proxy.url, proxy.authorization) == ("http://proxy:3128", basic("me", "can@ry"))
    assert "canary" not in repr(proxy)
    assert environment.proxy_for("http://h/x").url == "http://fallback:1"
    assert Environment().proxy_for("http://h/x") is None


def test_logins_by_host(tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine data.org login me password secret\n")
    environment = Environment(logins=netrc(str(file)))
    assert environment.login_for("https://data.org/x") == basic("me", "secret")
    assert environment.login_for("https://other.org/x") is None


def test_a_login_is_sent_byte_for_byte_as_the_url_has_it() -> None:
    """Percent-encoded bytes need not be UTF-8: RFC 7617 leaves the coding to the server."""
    login = credentials_of("http://u%FC:p%E9%C3%A9é@host/a")
    assert login is not None
    assert b64decode(basic(*login).removeprefix("Basic ")) == b"u\xfc:p\xe9\xc3\xa9\xc3\xa9"
