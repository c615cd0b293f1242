"""What the text of a URL says: what is secret in it, how it is sent, where it leads."""

import string
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from framefetch.urls import (
    checked_host_map,
    connection_url,
    credentials_of,
    excerpt,
    invisible_character,
    origin_of,
    redact,
    redact_text,
    wire_url,
)

CANARY = "c4n4ry5ecret"
SECRET_NAMES = (
    *("X-Amz-Signature", "x-amz-credential", "X-Amz-Security-Token", "X-Goog-Signature", "Signature", "sig", "token"),
    *("x-oss-signature", "X-Oss-Security-Token", "x-oss-credential", "security-token", "q-signature"),
    *("x-cos-security-token", "access_token", "id_token", "api_key", "apikey", "secret", "password", "auth"),
    *("Credential", "TOKEN", "%74oken"),
)
COMPANIONS = (
    *("Expires", "se", "sp", "st", "sv", "Policy", "Key-Pair-Id", "AWSAccessKeyId", "GoogleAccessId"),
    *("skt", "ske", "skoid", "sktid", "sks", "skv", "spr", "sip", "OSSAccessKeyId", "x-oss-date", "x-oss-expires"),
    *("q-ak", "q-sign-time", "q-key-time"),
)
#: What RFC 3986 lets stand in a path and a query as it is.
LEGAL = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/"

plain = st.text(LEGAL, max_size=30)
legal_url = st.builds(
    lambda scheme, host, port, path, query: f"{scheme}://{host}{port}/{path}{query}",
    st.sampled_from(["http", "https", "HTTP", "Https"]),
    st.sampled_from(["h", "Warehouse.example.org", "127.0.0.1", "[::1]", "a_b"]),
    st.sampled_from(["", ":80", ":9000"]),
    plain | st.sampled_from(["a%20b", "%2F%2f", "a+b%2Bc", "@@download/x.nwb"]),
    st.sampled_from(["", "?", "?versionId=Y3.Q_9&x=a%20b+c", "?a=b?c/d"]),
)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://warehouse", "http://warehouse:80"),
        ("HTTPS://User:pw@Warehouse.ORG/a?b", "https://warehouse.org:443"),
        ("http://warehouse:9000?x=/y", "http://warehouse:9000"),
        ("https://[FE80::1]:8443/a", "https://[fe80::1]:8443"),
        ("s3://bucket/key", "s3://bucket"),
    ],
)
def test_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_redact_masks_a_credential_and_keeps_what_names_the_file(name: str) -> None:
    url = f"https://me:{CANARY}@host/a%20b.nwb?id=7&{name}={CANARY}&part=2#{CANARY}"
    assert redact(url) == f"https://host/a%20b.nwb?id=7&{name}=***&part=2"


@pytest.mark.parametrize("name", COMPANIONS)
def test_companions_are_masked_only_beside_a_signature(name: str) -> None:
    assert redact(f"https://host/a?{name}=2020") == f"https://host/a?{name}=2020"
    for signature in ("Signature", "sig", "x-oss-signature", "q-signature"):
        signed = f"https://host/a?{name}=2020&{signature}=x"
        assert redact(signed) == redact_text(signed) == f"https://host/a?{name}=***&{signature}=***"


def test_md5_and_expires_together_are_a_signature() -> None:
    """So nginx's secure_link is documented; md5 alone names a file, expires alone says nothing."""
    link = f"https://host/a?id=7&MD5={CANARY}&expires=2020"
    assert redact(link) == "https://host/a?id=7&MD5=***&expires=***"
    assert redact_text(f"no such file: {link}") == "no such file: https://host/a?id=7&MD5=***&expires=***"
    for alone in ("https://host/a?md5=900150983cd24fb0", "https://host/a?expires=2020"):
        assert redact(alone) == redact_text(alone) == alone


def test_a_link_signed_anew_has_the_same_redacted_url() -> None:
    old = "https://b.s3.amazonaws.com/k?X-Amz-Date=20240101T0&X-Amz-Expires=60&X-Amz-Signature=aa&versionId=3"
    new = "https://b.s3.amazonaws.com/k?X-Amz-Date=20250505T1&X-Amz-Expires=90&X-Amz-Signature=bb&versionId=3"
    assert redact(old) == redact(new)
    assert redact(old).endswith("&versionId=3")


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (f"a=1;token={CANARY}", "a=1;token=***"),
        (f"a=1;token={CANARY};id=7", "a=1;token=***;id=7"),
        (f"a;token={CANARY};{CANARY};id=7;b", "a;token=***;id=7;b"),
        (f"se=1;id=7;sig={CANARY}", "se=***;id=7;sig=***"),
        (f"a=1;token={CANARY};id=7&b=2", "a=1;token=***;id=7&b=2"),
        (f"token={CANARY};id={CANARY}&b=2;c", "token=***&b=2;c"),
        (f"sig={CANARY}&se=1;id=7", "sig=***&se=***"),
        ("a=1;b=2&c;d", "a=1;b=2&c;d"),
    ],
)
def test_a_semicolon_may_stand_between_parameters(query: str, shown: str) -> None:
    """As W3C once recommended; between ampersands it may as well belong to a value."""
    assert redact(f"https://host/a?{query}") == f"https://host/a?{shown}"
    assert CANARY not in redact_text(f"see https://host/a?{query}")


def test_an_at_sign_in_the_path_is_no_login() -> None:
    url = "https://www.encodeproject.org/files/ENCFF409RWY/@@download/ENCFF409RWY.bigWig"
    assert redact(url) == url
    assert redact("https://h/a?mail=me@x.org") == "https://h/a?mail=me@x.org"


@example("http://h:x/", "sig", "@", False)
@example("http://h/", "token", "@", True)
@given(legal_url, st.sampled_from(SECRET_NAMES), st.text(LEGAL.replace("&", ""), max_size=20), st.booleans())
def test_no_canary_survives_redaction(url: str, name: str, noise: str, login: bool) -> None:
    scheme, _, rest = url.partition("://")
    user = f"me:{CANARY}@" if login else ""
    mark = "&" if "?" in rest else "?"
    secret = f"{scheme}://{user}{rest}{mark}{name}={CANARY}{noise}{CANARY}&z=1#{CANARY}"
    shown = redact(secret)
    assert CANARY not in shown
    assert redact(shown) == shown
    assert CANARY not in redact_text(secret)
    assert CANARY not in redact_text(f"see {secret}, or [{secret!r}]")


@given(legal_url)
def test_redact_leaves_a_url_without_secrets_alone(url: str) -> None:
    assert redact(url) == url


@given(st.text(max_size=60))
@example("http://a@b@c/?token")
@example("x://y://u@h?sig=1&sig")
def test_redact_is_idempotent(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        f"//me:{CANARY}@host/a",
        f"me:{CANARY}@host/a.nwb",
        f"https://me:{CANARY}/x@host/a.nwb",
        f"https://me:{CANARY}?x@host/a.nwb",
        f"https://me:{CANARY}?sig=1@host/a.nwb?token=b@{CANARY}",
        f"https://me:{CANARY}#x@host/a.nwb",
        f"  https://me:{CANARY}@host:99999/a",
        f"https://a/x https://me:{CANARY}@b/y?token={CANARY}",
        f"/api/v2/7?token={CANARY}",
        f"b'https://me:{CANARY}@h/x?sig={CANARY}&se={CANARY}'",
        f"['https://h/x?X-Amz-Signature={CANARY}', 'https://h/y?a=1&access%5Ftoken={CANARY}']",
        f"https://h/x#access_token={CANARY} and https://h/y#{CANARY}",
    ],
)
def test_text_that_is_no_url_is_redacted_too(text: str) -> None:
    assert CANARY not in redact_text(text)


def test_redacting_text_leaves_sentences_readable() -> None:
    for text in ("file for probe 773463023 not found", "https://h:8080/a@b/c?id=7", "session #5: see notes"):
        assert redact_text(text) == text


@given(legal_url)
def test_wire_url_leaves_a_legal_url_byte_for_byte(url: str) -> None:
    assert wire_url(url) == url


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://me:pw@host/a b.nwb#part", "http://host/a%20b.nwb"),
        ("http://host/ü/%C3%BC/a+b?q=é", "http://host/%C3%BC/%C3%BC/a+b?q=%C3%A9"),
        ("http://Bücher.example:80/ä", "http://xn--bcher-kva.example:80/%C3%A4"),
        ("http://пример.рф?ключ=1", "http://xn--e1afmkfd.xn--p1ai?%D0%BA%D0%BB%D1%8E%D1%87=1"),
        ("http://host?q=é", "http://host?q=%C3%A9"),
        ("http://[::1]:80/é", "http://[::1]:80/%C3%A9"),
        ("http://faß.de/a", "http://xn--fa-hia.de/a"),
        ('http://host/<a>"b"|c\\d{e}', "http://host/%3Ca%3E%22b%22%7Cc%5Cd%7Be%7D"),
    ],
)
def test_wire_url_encodes_only_what_cannot_be_sent(url: str, sent: str) -> None:
    assert wire_url(url) == sent
    assert wire_url(sent) == sent


@given(legal_url, st.text(max_size=20))
def test_what_is_sent_is_ascii_and_goes_to_the_same_host(url: str, tail: str) -> None:
    sent = wire_url(f"{url}{tail.encode('utf-8', 'ignore').decode()}")
    assert sent.isascii()
    assert not set(sent) & set(' "<>\\^`{|}\r\n\t')
    assert urlsplit(sent).netloc == urlsplit(url).netloc


def test_credentials_are_decoded() -> None:
    assert credentials_of("https://me%40x:p%3Aw@host/") == ("me@x", "p:w")
    assert credentials_of("https://me@host/") == ("me", "")
    assert credentials_of("https://host/a@b") is None


@pytest.mark.parametrize(
    ("url", "host_map", "expected"),
    [
        (
            "http://testwarehouse:9000/a?b=1#c",
            {"testwarehouse:9000": "localhost:8080"},
            "http://localhost:8080/a?b=1#c",
        ),
        ("http://testwarehouse:9001/a", {"testwarehouse:9000": "localhost:8080"}, "http://testwarehouse:9001/a"),
        ("http://TestWarehouse/a", {"testwarehouse:80": "localhost:8080"}, "http://localhost:8080/a"),
        ("https://testwarehouse:7/a", {"TESTWAREHOUSE": "localhost"}, "https://localhost/a"),
        ("http://me:pw@h:1/a@b", {"h": "l:2"}, "http://l:2/a@b"),
        ("http://[::1]:80/a", {"[::1]:80": "localhost:8080"}, "http://localhost:8080/a"),
        ("http://h?x=http://testwarehouse/", {"testwarehouse": "l"}, "http://h?x=http://testwarehouse/"),
        ("http://h/a", {}, "http://h/a"),
    ],
)
def test_host_map_changes_only_the_connection(url: str, host_map: dict[str, str], expected: str) -> None:
    assert connection_url(url, host_map) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a\u200bb", "ZERO WIDTH SPACE"),
        ("a\x00", "U+0000"),
        ("a\n", "U+000A"),
        ("\ufeffhttp", "ZERO WIDTH NO-BREAK SPACE"),
        ("a\u202eb", "RIGHT-TO-LEFT OVERRIDE"),
        ("a\u00a0", "NO-BREAK SPACE"),
        ("a\u2028", "LINE SEPARATOR"),
        ("12\u200d", "ZERO WIDTH JOINER"),
        ("a\u3000", "IDEOGRAPHIC SPACE"),
        ("👩\u200d🔬\u3000日本", None),
        ("a b-é日本", None),
        ("", None),
    ],
)
def test_characters_that_cannot_be_seen_are_named(text: str, name: str | None) -> None:
    assert invisible_character(text) == name


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"SSH-2.0-OpenSSH", "'SSH-2.0-OpenSSH'"),
        (b"\x89HDF\r\n", r"'\x89HDF\r\n'"),
        (b"<title>/f?token=canary</title>", "'<title>/f?token=***'"),
        (b"http://me:canary@host/f", "'http://host/f'"),
        (b"Authorization: Bearer canary.canary", "'Authorization: Bearer ***'"),
        ("Größe: basic Y2FuYXJ5", "'Größe: basic ***'"),
        (b"x" * 200, repr("x" * 100)),
    ],
)
def test_what_a_server_says_is_quoted_without_what_it_repeats(said: bytes | str, shown: str) -> None:
    assert excerpt(said) == shown


@pytest.mark.parametrize(
    ("given", "checked"),
    [
        ({"testwarehouse:9000": "localhost:8080"}, {"testwarehouse:9000": "localhost:8080"}),
        ({" h ": "127.0.0.1:1/"}, {"h": "127.0.0.1:1"}),
        ({"https://h/": "https://[::1]:8080"}, {"h": "[::1]:8080"}),
        ({"http://h": "b:2"}, {"h": "b:2"}),
    ],
)
def test_a_host_map_may_have_schemes(given: dict[str, str], checked: dict[str, str]) -> None:
    assert checked_host_map(given) == checked


@pytest.mark.parametrize(
    "new",
    ["localhost:abc", "localhost:99999", "localhost:-1", "localhost:0", "[::1", "", " ", "/x", "h/x", "u@h", "ftp://h",
     "https://h", 18765, None, "a b", "*"],
)  # fmt: skip
def test_a_host_map_that_maps_to_no_host_is_refused(new: object) -> None:
    with pytest.raises(
        ValueError, match="expected hosts such as testwarehouse:9000 and localhost:8080, got 'http://h' and"
    ):
        checked_host_map({"http://h": new})


@pytest.mark.parametrize("side", [f"http://me:{CANARY}@h/", f"me:{CANARY}@h", f"http://h/?token={CANARY}"])
def test_a_host_map_that_is_refused_shows_no_login(side: str) -> None:
    for host_map in ({side: "localhost:8080"}, {"http://h": side}):
        with pytest.raises(ValueError, match="expected hosts such as testwarehouse:9000") as refused:
            checked_host_map(host_map)
        assert CANARY not in str(refused.value)
