"""What a cell says of where a file is."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from framefetch.errors import InvalidRow, PlanError
from framefetch.table.addresses import AddressReader, basename, shown
from framefetch.urls import wire_url

CANARY = "c4n4ry5ecret"


def reader(base_url: str | None = None, schemes: tuple[str, ...] = ("http", "https")) -> AddressReader:
    return AddressReader(base_url, schemes)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/api/1085755199", "1085755199"),
        ("http://h/a/b.nwb?versionId=x/y#z/w", "b.nwb"),
        ("https://api.dandiarchive.org/api/assets/5dfc/download/", ""),
        ("http://h", ""),
        ("http://h?x=/a.nwb", ""),
        ("http://h/a%2Fb.nwb", "a%2Fb.nwb"),
        ("https://h/files/@@download/x.bigWig", "x.bigWig"),
    ],
)
def test_basenames(url: str, name: str) -> None:
    assert basename(url) == name


@pytest.mark.parametrize(
    ("cell", "mirrors"),
    [
        ("http://h/a", ("http://h/a",)),
        ("  https://h:8443/a b.nwb\n", ("https://h:8443/a b.nwb",)),
        ("HTTP://Host/a", ("HTTP://Host/a",)),
        ("http://api.brain-map.org//api/v2/7", ("http://api.brain-map.org//api/v2/7",)),
        ("http://a/x http://b/x\thttp://a/x", ("http://a/x", "http://b/x")),
        ("http://a/x.nwb, http://b/x.nwb; http://c/x.nwb", ("http://a/x.nwb", "http://b/x.nwb", "http://c/x.nwb")),
        (["http://a/x y", " http://b/x "], ("http://a/x y", "http://b/x")),
        (("http://a/x",), ("http://a/x",)),
        (np.array(["http://a/x", "http://b/x"], dtype=object), ("http://a/x", "http://b/x")),
        ("http://bücher.example/é?q=ü", ("http://bücher.example/é?q=ü",)),
        ("http://пример.рф/x", ("http://пример.рф/x",)),
        ("http://[::1]:80/x", ("http://[::1]:80/x",)),
        ("http://me:pw@h/x", ("http://me:pw@h/x",)),
        ("http://h/x?to=http://other/y", ("http://h/x?to=http://other/y",)),
        ("http://h/" + "a" * 16_375, ("http://h/" + "a" * 16_375,)),
    ],
)
def test_cells_that_are_urls(cell: Any, mirrors: tuple[str, ...]) -> None:
    assert reader().read(cell) == mirrors


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "expected a URL, but the cell is empty"),
        (float("nan"), "the cell is empty"),
        (pd.NA, "the cell is empty"),
        (pd.NaT, "the cell is empty"),
        ("", "the cell is empty"),
        (" \t", "the cell is empty"),
        ("nan", "the cell says 'nan'"),
        ("None", "the cell says 'None'"),
        (1085755199.0, "expected a URL as text, got float '1085755199.0'"),
        (np.int64(7), "expected a URL as text, got int64 '7'"),
        (b"http://h/a", "expected a URL as text, got bytes"),
        (Path("a/b"), "expected a URL as text, got PosixPath"),
        ({"url": 1}, "expected a URL as text, got dict"),
        ([], "expected a URL, got an empty list"),
        (["http://h/a", None], "the cell is empty"),
        ([["http://h/a"]], "expected a URL as text, got list"),
        ("ftp://h/a", "one of the schemes http, https, got 'ftp://h/a'"),
        ("s3://bucket/a", "one of the schemes"),
        ("file:///etc/passwd", "one of the schemes"),
        ("file for probe 773463023 not found", "such as https://host/file.nwb, got 'file for probe 773463023 not"),
        ("see http://h/a", "expected one URL, or several separated by blanks"),
        ("http://a/x and http://b/x", "expected one URL, or several separated by blanks"),
        ("['http://a/x', 'http://b/x']", "one of the schemes"),
        ("javascript:alert(1)", "expected a URL such as"),
        ("http:/h/a", "expected a URL such as"),
        ("/api/v2/7", "a base_url would complete it"),
        ("http:///a", "expected a URL with a host"),
        ("http://:80/a", "expected a URL with a host"),
        ("http://me:pw@/a", "expected a URL with a host"),
        ("http://h:99999/a", "a valid host and port, got 'http://h:99999/a'"),
        ("http://h:0/a", "a port from 1 to 65535"),
        ("http://h:x/a", "a valid host and port"),
        ("http://[::1/a", "a valid host and port"),
        ("http://exa mple/a", "a valid host and port"),
        ("http://{host}/a", "a valid host and port"),
        ("http://" + "ü" * 70 + ".de/a", "a valid host and port"),
        ("http://ho\u2100st/a", "a valid host and port"),
        ("http://h/a\u200b.nwb", "got one with ZERO WIDTH SPACE in it: 'http://h/a\\u200b.nwb'"),
        ("http://h/a.nwb\u00a0", "NO-BREAK SPACE"),
        ("http://h/a\x00", "U+0000"),
        ("http://h/a\nb", "U+000A"),
        ("http://h/" + "a" * 16_376, "at most 16384 characters, got 16385"),
        ("http://h/" + "a" * 96_000, "at most 16384 characters"),
    ],
)
def test_cells_that_are_no_urls_say_why(cell: Any, reason: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        reader().read(cell)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "cell",
    [
        f" https://me:{CANARY}@host:99999/a",
        f"https://me:{CANARY}/x@host/a.nwb",
        f"https://a/x ftp://me:{CANARY}@b/y?token={CANARY}",
        f"https://a/x?token={CANARY} and https://b/y?sig={CANARY}",
        f"b://me:{CANARY}@h/x",
        f"https://me:{CANARY}@h/x?sig={CANARY}".encode(),
        f"/api/x?token={CANARY}",
        f"me:{CANARY}@h/x.nwb",
        f"https://me:{CANARY}@ho\u2100st/x",
        [[f"https://me:{CANARY}@h/x"]],
        {"url": f"https://h/x?X-Amz-Signature={CANARY}"},
        f"https://me:{CANARY}@h/x\u200b?secret={CANARY}",
        f"https://me:{CANARY}@h/" + "a" * 17_000,
    ],
)
def test_no_secret_in_a_reason_nor_in_its_cause(cell: Any) -> None:
    with pytest.raises(InvalidRow) as caught:
        reader().read(cell)
    error: BaseException | None = caught.value
    while error is not None:
        if error is caught.value or not caught.value.__suppress_context__:
            assert CANARY not in str(error)
        error = error.__cause__
    assert CANARY not in shown(cell)


@pytest.mark.parametrize(
    ("base", "cell", "url"),
    [
        ("http://api.brain-map.org", "/api/v2/7", "http://api.brain-map.org/api/v2/7"),
        ("http://h/data/", "/api/7", "http://h/api/7"),
        ("http://h/data/", "sub/a b.nwb", "http://h/data/sub/a b.nwb"),
        ("http://h/data", "742008131/x.nwb", "http://h/data/742008131/x.nwb"),
        ("http://h/data", "sub:01.nwb", "http://h/data/sub:01.nwb"),
        ("https://h:80", "/a", "https://h:80/a"),
        ("http://h:443/x", "/a", "http://h:443/a"),
        ("https://me:pw@h/x", "/a", "https://me:pw@h/a"),
        ("http://[::1]:8080/x", "/a", "http://[::1]:8080/a"),
        ("http://h", "https://other/a", "https://other/a"),
    ],
)
def test_base_url_completes_what_has_no_host(base: str, cell: str, url: str) -> None:
    assert reader(base).read(cell) == (url,)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("file for probe 773463023 not found", "reads like a sentence"),
        ("nan", "the cell says 'nan'"),
        ("<NA>", "the cell says"),
        ("http:/h/a", "expected a URL such as"),
        ("mailto:me@h", "expected a URL such as"),
        ("//other/a", "or a path that base_url completes, got '//other/a'"),
        ("C:\\data\\a.nwb", "or a path that base_url completes"),
        ("\\\\server\\share\\a.nwb", "or a path that base_url completes"),
        (7.0, "expected a URL as text, got float"),
    ],
)
def test_base_url_does_not_complete_what_is_no_path(cell: Any, reason: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        reader("http://h/data").read(cell)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("localhost:8080", "base_url: expected a URL such as https://host/file.nwb, got 'localhost:8080'"),
        ("ftp://h/", "base_url: expected a URL with one of the schemes"),
        (f"https://h/c?sv=1&sig={CANARY}", "base_url: expected a URL without a query"),
        ("http://h:99999", "base_url: expected a URL with a valid host and port"),
    ],
)
def test_a_base_url_that_cannot_be_used_is_a_plan_error(base: str, reason: str) -> None:
    with pytest.raises(PlanError) as caught:
        reader(base)
    assert reason in str(caught.value)
    assert CANARY not in str(caught.value)


def test_other_sources_have_other_schemes() -> None:
    assert reader(schemes=("s3",)).read("s3://bucket/key.nwb") == ("s3://bucket/key.nwb",)
    with pytest.raises(InvalidRow, match="one of the schemes s3, got 'http://h/a'"):
        reader(schemes=("s3",)).read("http://h/a")


@given(
    st.sampled_from(["", "http://", "https://", "HTTP://h", "http://h/", "//", "/", "http://h:8/", "http://ü.de/"]),
    st.text(max_size=40),
)
@example("http://", "[")
@example("http://", "a]/")
@example("http://h", "@:\u2100/")
@example("http://", "\u3002/")
def test_any_text_is_read_or_refused_and_what_is_read_can_be_sent(head: str, tail: str) -> None:
    for base in (None, "http://base/x"):
        try:
            mirrors = reader(base).read(head + tail)
        except InvalidRow:
            continue
        for url in mirrors:
            assert wire_url(url.encode("utf-8", "replace").decode()).isascii()
            assert url.lower().startswith(("http://", "https://"))


@given(
    st.lists(
        st.sampled_from(
            (
                *("http://h/a", "https://h.example:8443/a/b@c.nwb", "http://h:1/", "http://h//a", "http://other/a"),
                *("http://h/a\nhttp://h/b", "http://h/a\n", "http://h/a b", "http://h/a?b=c", "http://h:99999/a"),
                *("http://h", "HTTP://h/a", "http://me@h/a", "http://xn--a/b", "http://..h/a", "ftp://h/a", "", "a"),
                *(None, float("nan"), 7, "http://h/" + "a" * 16_376),
            )
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_look_at_all_cells_finds_what_a_look_at_each_does(cells: list[Any]) -> None:
    if reader().takes_all(cells):
        assert [reader().read(cell) for cell in cells] == [(cell,) for cell in cells]
    else:
        assert not set(cells) <= {"http://h/a", "https://h.example:8443/a/b@c.nwb", "http://h:1/", "http://other/a"}


def test_plain_cells_are_taken_all_at_once() -> None:
    assert reader().takes_all([f"https://h:8443/a/{row:03}@x.nwb" for row in range(300)])
    assert reader().takes_all(["http://h/a", "https://h/b", "http://i/c"])
    assert not reader(schemes=("s3",)).takes_all(["http://h/a"])
    assert not reader().takes_all(["http://h/b", "http://h:99999/c", "http://i/d"])
    assert not reader().takes_all([])
