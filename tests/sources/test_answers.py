"""The gate for answers, without a socket."""

import traceback
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.errors import PolicyRefused, ProtocolError, RedirectError
from framefetch.sources.answers import body_length, redirect_target, refuse_status, retry_after
from framefetch.sources.wire import Head
from framefetch.urls import origin_of, wire_url

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Sat, 21 Nov 2026 12:00:05 GMT", 5.0),
        ("Saturday, 21-Nov-26 12:00:05 GMT", 5.0),
        ("Sat Nov 21 12:00:05 2026", 5.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("1" * 400, float("inf")),
    ],
)
def test_retry_after_in_every_legal_form(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_a_refused_status_says_what_to_do() -> None:
    denied = refuse_status(Head(403, "Forbidden", {}, keep_alive=True), with_login=False)
    assert str(denied) == "expected status 200, got 403 Forbidden: the server refuses access; no credentials were sent"
    assert (denied.status, denied.retryable) == (403, False)
    busy = refuse_status(Head(503, "", {"retry-after": ["7"]}, keep_alive=True), with_login=False)
    assert (busy.retry_after, busy.retryable) == (7.0, True)


@pytest.mark.parametrize("locations", [[], [""], ["  "], ["/a", "/b"]])
def test_a_redirect_needs_one_target(locations: list[str]) -> None:
    with pytest.raises(RedirectError, match="expected one Location header with status 302"):
        redirect_target(302, "http://h/x", locations)


@pytest.mark.parametrize(
    ("current", "location", "target"),
    [
        ("http://h/a/b", "c?sig=ab%2Fcd%3D", "http://h/a/c?sig=ab%2Fcd%3D"),
        ("http://h/a", "//other/x", "http://other/x"),
        ("http://h/a", "https://h:8443/%7Ex+y", "https://h:8443/%7Ex+y"),
        ("https://h/a", "https://h/a?q=1", "https://h/a?q=1"),
        ("http://h/a", "http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://h/a", "http://a_b.example.:/x", "http://a_b.example.:/x"),
        # Raw bytes, which the head is not read as: UTF-8 where they can be, also where they end like a blank does.
        ("http://h/a", "http://b\xc3\xbccher.example/\xc3\xa0", "http://bücher.example/à"),
        ("http://h/a", "/\xe9", "http://h/\xe9"),
        # Whatever is empty is a part of what was signed, too.
        ("http://h/a", "http://other/f?", "http://other/f?"),
        ("http://h/a", "http://other/f;", "http://other/f;"),
        ("http://h/a", "http://other//f/./../g", "http://other//f/./../g"),
        ("http://h/a", "HTTP://H/f", "HTTP://H/f"),
        ("http://h/a", "//other//f?", "http://other//f?"),
        ("http://h/a", "/f?", "http://h/f?"),
        ("http://h/a", "/f;?x/../y", "http://h/f;?x/../y"),
        ("http://h/a", "f;/../g;?", "http://h/g;?"),
        ("http://h/a/b?old", "?", "http://h/a/b?"),
        ("http://h/a/b;?old", "?x", "http://h/a/b;?x"),
        ("http://h/a/b?old", "#end", "http://h/a/b?old#end"),
        ("http://h/a//b/c?old/x", "../d//e", "http://h/a//d//e"),
        ("http://h/a/b", "../../../c/./d/..", "http://h/c/"),
        ("http://h/a/b", ".", "http://h/a/"),
        ("http://h/a/b", "..f/.g/h.", "http://h/a/..f/.g/h."),
        ("http://h/a/b", ";x", "http://h/a/;x"),
        ("http://h/a/b", "1:2", "http://h/a/1:2"),
        ("http://me:p@h?old", "f", "http://me:p@h/f"),
        ("http://h?old", "?x", "http://h?x"),
    ],
)
def test_redirect_targets_stay_byte_for_byte(current: str, location: str, target: str) -> None:
    assert redirect_target(302, current, [location]) == target


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://h/x", "data:,x", "gopher://h", "javascript:1"])
def test_a_redirect_elsewhere_is_refused(location: str) -> None:
    with pytest.raises(PolicyRefused, match="nothing was opened"):
        redirect_target(302, "http://h/a", [location])


@pytest.mark.parametrize(
    "location",
    [
        "http://\x80x/f",
        "http://\xe9..x/f",
        "http://\xc3\xa9..x/f",
        "http://a..x/f",
        f"http://{'a' * 64}/f",
        f"http://{'ß' * 63}/f",
        "http://h:99999/f",
        "http://h:0/f",
        "http://h:port/f",
        "http://me:canary/canary@h/f",
        "http://me:canary@h:port/f?token=canary",
        "http://[::1/f",
        "http://[h]/f",
        "http://a[::1]/f",
        "http://[::1]b/f",
        "http://a b/f",
        "http://{host}/f",
        "http://a%20b/f",
        "https://a\tb/f",
        "https:\t//h/f",
        "ht\ttps://h/f",
        "http://:80/f",
        "https:///f",
    ],
)
def test_a_redirect_to_no_host_is_refused_and_shows_no_secret(location: str) -> None:
    with pytest.raises(RedirectError, match="expected a redirect to a URL with a valid host and port") as failure:
        redirect_target(302, "http://h/a", [location])
    told = "".join(traceback.format_exception(failure.value, chain=not failure.value.__suppress_context__))
    assert "canary" not in told


located = st.lists(
    st.sampled_from(
        ["http:", "https:", "//", "/", "h", "b\xc3\xbc", "\x80", "\xe9", ".", ":", ":80", "[::1]", "@", "%"]
    )
    | st.text(st.characters(max_codepoint=255), max_size=3),
    max_size=8,
).map("".join)


@given(located)
def test_where_a_redirect_leads_can_be_asked_or_is_refused(location: str) -> None:
    try:
        target = redirect_target(302, "http://h/a", [location])
    except (RedirectError, PolicyRefused):
        return
    sent = urlsplit(wire_url(target))
    assert sent.hostname
    assert sent.port != 0
    assert sent.hostname.encode("idna").decode().isprintable()
    assert origin_of(wire_url(target)) == wire_url(origin_of(target)).lower()


def test_a_downgrade_is_refused_and_shows_no_secret() -> None:
    with pytest.raises(PolicyRefused, match=r"from https to plain http is not followed: 'http://h/x\?token=\*\*\*'"):
        redirect_target(302, "https://h/a", ["http://u:canary@h/x?token=canary"])


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("7", 7), ("9" * 18, int("9" * 18)), (None, None)])
def test_length(value: str | None, length: int | None) -> None:
    assert body_length([] if value is None else [value]) == length


@pytest.mark.parametrize("value", ["-1", "7 8", "0x10", "1e5", "9" * 23, "", "+7"])
def test_a_length_that_is_none(value: str) -> None:
    with pytest.raises(ProtocolError, match="expected one Content-Length in bytes"):
        body_length([value])
    with pytest.raises(ProtocolError, match="expected one Content-Length in bytes"):
        body_length(["7", "7"])
