"""Cookies as text: for which paths they are, and when they end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.sources.cookies import LONGEST, MOST, cookies_for, with_cookies

NOW = 1_800_000_000.0  # in January 2027


@pytest.mark.parametrize(
    ("line", "asked", "sent"),
    [
        ("a=1", "/api/next", "a=1"),
        ("a=1", "/api/", "a=1"),
        ("a=1", "/api", "a=1"),
        ("a=1", "/apis", ""),
        ("a=1", "/other/api/", ""),
        ("a=1; Path=/", "/other", "a=1"),
        ("a=1; Path=", "/other", ""),
        ("a=1; Path=x", "/other", ""),
        ("a=1; path=/b", "/b?x=/", "a=1"),
        ("a=1; path=/b", "/bc", ""),
        ("a=1; path=/b; Path=/c", "/c/d", "a=1"),
        ("a = 1=2 ; HttpOnly; Secure", "/api/x", "a=1=2"),
        ("a=; Path=/", "/", "a="),
        ("a", "/api/x", ""),
        ("=1", "/api/x", ""),
        ("a=1; Max-Age=60", "/api/x", "a=1"),
        ("a=1; Max-Age=0", "/api/x", ""),
        ("a=1; max-age=-1", "/api/x", ""),
        ("a=1; Max-Age=soon", "/api/x", "a=1"),
        ("a=1; Max-Age=" + "9" * 5000, "/api/x", "a=1"),
        ("a=1; Expires=Thu, 01-Jan-1970 00:00:00 GMT", "/api/x", ""),
        ("a=1; Expires=Wed, 01 Jan 2025 00:00:00 GMT", "/api/x", ""),
        ("a=1; Expires=Fri, 01 Jan 2100 00:00:00 GMT", "/api/x", "a=1"),
        ("a=1; Expires=Wed, 01 Jan 2025 00:00:00 GMT; Max-Age=60", "/api/x", "a=1"),
        ("a=1; Expires=some day", "/api/x", "a=1"),
    ],
)
def test_a_cookie_goes_where_it_belongs(line: str, asked: str, sent: str) -> None:
    assert cookies_for(with_cookies((), [line], "/api/login?next=/x/", NOW), asked, NOW) == sent


def test_cookies_end_when_it_is_said() -> None:
    jar = with_cookies((), ["a=1; Max-Age=60", "b=2", "c=3; Path=/x"], "/login", NOW)
    assert cookies_for(jar, "/x/y", NOW + 59) == "c=3; a=1; b=2", "those of longer paths come first"
    assert cookies_for(jar, "/", NOW + 60) == "b=2"
    assert cookies_for(with_cookies(jar, ["a=4", "b=; Max-Age=0"], "/logout", NOW), "/", NOW) == "a=4"
    assert len(with_cookies(jar, ["b=; Max-Age=0", "c=; Path=/x; Max-Age=0"], "/", NOW + 60)) == 0


def test_no_more_are_kept_than_are_worth_it() -> None:
    jar = with_cookies((), [f"{at}={at}" for at in range(MOST + 7)], "/", NOW)
    assert [cookie.name for cookie in jar] == [str(at) for at in range(7, MOST + 7)]
    assert len(with_cookies(jar, ["more=1"], "/", NOW)) == MOST
    assert with_cookies((), ["a=" + "x" * LONGEST], "/", NOW) == ()
    assert len(with_cookies((), ["a=" + "x" * (LONGEST - 1)], "/", NOW)) == 1
    assert "canary" not in repr(with_cookies((), ["a=canary"], "/", NOW))


@given(st.lists(st.text("aAdeEhimnPpstxX-=;/,: 0199GMTJan\xe9") | st.text(), max_size=4).map("; Expires=".join))
def test_whatever_a_server_says_is_taken(line: str) -> None:
    jar = with_cookies((), [line], "/", NOW)
    assert len(jar) <= 1
    assert (cookies_for(jar, "/", NOW) == "") or jar
