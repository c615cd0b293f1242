"""Which column says what; digests and sizes, made uniform or refused."""

import base64
import hashlib
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.errors import InvalidRow, PlanError
from framefetch.options import TableOptions
from framefetch.table.columns import choose_columns, parse_digest, read_digests, read_sizes
from framefetch.table.rows import FrameRows, column_values

MD5 = hashlib.md5(b"x").hexdigest()
SHA256 = hashlib.sha256(b"x").hexdigest()


def chosen(columns: list[str], **options: str) -> Any:
    return choose_columns(FrameRows(pd.DataFrame(columns=columns, dtype=object)), TableOptions(**options))


def test_well_known_names_are_found_and_noted() -> None:
    columns = chosen(["size", "md5sum", "download_url", "sha256"])
    assert (columns.url, columns.size) == ("download_url", "size")
    assert columns.digests == (("md5", "md5sum"), ("sha256", "sha256"))
    assert columns.notes == (
        "URLs from column 'download_url'",
        "md5 from column 'md5sum'",
        "sha256 from column 'sha256'",
        "sizes from column 'size'",
    )


def test_the_first_well_known_name_wins_and_an_option_over_all() -> None:
    assert chosen(["url", "wkf", "link"]).url == "wkf"
    columns = chosen(["url", "wkf", "link"], url_column="link")
    assert (columns.url, columns.notes) == ("link", ())
    assert chosen(["URL", "x"], url_template="http://h/{x}").url is None


@pytest.mark.parametrize("option", ["url_column", "key_column", "md5_column", "digest_column", "size_column"])
def test_a_named_column_must_be_there(option: str) -> None:
    with pytest.raises(PlanError, match="the table has no column 'nope'; it has: url, b"):
        chosen(["url", "b"], **{option: "nope"})


def test_without_any_url_the_candidates_are_named() -> None:
    with pytest.raises(PlanError, match="no column of URLs: expected one named wkf or url or .*; the table has: a, b"):
        chosen(["a", "b"])
    with pytest.raises(PlanError, match="no column of URLs"):
        choose_columns(FrameRows(pd.DataFrame(index=[0, 1])), TableOptions())
    assert choose_columns(FrameRows(pd.DataFrame()), TableOptions()).url is None


@pytest.mark.parametrize("index", ["url", ["n", "url"]])
def test_urls_that_are_the_index_are_told_from_none(index: object) -> None:
    table = pd.DataFrame({"url": ["http://h/a"], "n": [1], "x": [2]}).set_index(index)
    with pytest.raises(PlanError, match=r"are the URLs its index\? df.reset_index\(\) makes columns of that$"):
        choose_columns(FrameRows(table), TableOptions())
    assert choose_columns(FrameRows(table.reset_index()), TableOptions()).url == "url"


def test_many_columns_are_not_all_listed() -> None:
    with pytest.raises(PlanError, match=r"c38, c39, …$"):
        chosen([f"c{at}" for at in range(50)])


def test_columns_of_several_levels_are_refused() -> None:
    table = pd.DataFrame([["http://h/a"]], columns=pd.MultiIndex.from_tuples([("url", "x")]))
    with pytest.raises(PlanError, match="expected columns of one level, got 2"):
        choose_columns(FrameRows(table), TableOptions())


def test_a_column_name_that_is_there_twice_is_refused() -> None:
    table = pd.DataFrame([["http://h/a", "http://h/b"]], columns=["url", "url"])
    with pytest.raises(PlanError, match="the table has 2 columns named 'url'; expected one"):
        choose_columns(FrameRows(table), TableOptions(url_column="url"))


@pytest.mark.parametrize(
    ("text", "algorithm", "expected"),
    [
        (MD5, "md5", ("md5", MD5)),
        (f"  {MD5.upper()} \n", "md5", ("md5", MD5)),
        (f"md5:{MD5}", "md5", ("md5", MD5)),
        (f"MD5: {MD5}", "", ("md5", MD5)),
        (f"SHA-256:{SHA256}", "", ("sha256", SHA256)),
        (MD5, "", ("md5", MD5)),
        (SHA256, "", ("sha256", SHA256)),
        (hashlib.sha1(b"x").hexdigest(), "", ("sha1", hashlib.sha1(b"x").hexdigest())),
        (f"blake2b:{'ab' * 64}", "", ("blake2b", "ab" * 64)),
        (base64.b64encode(bytes.fromhex(MD5)).decode(), "md5", ("md5", MD5)),
        (f"sha256:{base64.b64encode(bytes.fromhex(SHA256)).decode()}", "", ("sha256", SHA256)),
    ],
)
def test_digests_are_made_uniform(text: str, algorithm: str, expected: tuple[str, str]) -> None:
    assert parse_digest(text, algorithm) == expected


@pytest.mark.parametrize(
    ("text", "algorithm", "reason"),
    [
        (f"{MD5}-1", "md5", "expected the 32 hex digits of a md5 digest"),
        (f'"{MD5}"', "md5", "expected the 32 hex digits"),
        (SHA256, "md5", "expected the 32 hex digits of a md5 digest"),
        (f"sha256:{SHA256}", "md5", "expected md5 digits"),
        ("nan", "md5", "got 'nan'"),
        (MD5[:-1], "md5", "expected the 32 hex digits"),
        (f"{MD5[:16]} {MD5[16:]}", "md5", "expected the 32 hex digits"),
        ("٣" * 32, "md5", "expected the 32 hex digits"),
        ("crc32:abcd", "", "expected algorithm:hex with one of md5, sha1"),
        ("ab" * 64, "", "expected algorithm:hex"),
        (f"sha256:{MD5}", "", "expected the 64 hex digits of a sha256"),
        (7, "md5", "expected a digest as text, got 7"),
        (b"x", "md5", "expected a digest as text"),
        ("x" * 1000, "md5", "xxx'"),
    ],
)
def test_what_is_no_digest_is_refused(text: Any, algorithm: str, reason: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        parse_digest(text, algorithm)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=100), st.sampled_from(["md5", "sha1", "sha256", "sha512"]))
def test_every_way_to_write_a_digest_means_the_same(data: bytes, algorithm: str) -> None:
    digest = hashlib.new(algorithm, data)
    for text in (digest.hexdigest(), digest.hexdigest().upper(), base64.b64encode(digest.digest()).decode()):
        assert parse_digest(text, algorithm) == (algorithm, digest.hexdigest())
        assert parse_digest(f" {algorithm.upper()}:{text} ") == (algorithm, digest.hexdigest())


def test_cells_of_digests_by_position() -> None:
    cells = np.array([MD5, None, float("nan"), " ", pd.NA, MD5.upper(), "bad", 5], dtype=object)
    found = list(read_digests(cells, "md5"))
    assert found[:2] == [(0, "md5", MD5), (5, "md5", MD5)]
    assert [position for position, *_ in found[2:]] == [6, 7]
    assert all(isinstance(error, InvalidRow) for _, error, *_ in found[2:])


@pytest.mark.parametrize(
    ("series", "sizes", "wrong"),
    [
        (pd.Series([5, 0, -1]), [5, 0, -1], [2]),
        (pd.Series([5, 2**62, 2**62 + 1, 2**64 - 1], dtype="uint64"), [5, 2**62, -1, -1], [2, 3]),
        (pd.Series([200, 0], dtype="uint8"), [200, 0], []),
        (pd.Series([-3, 7], dtype="int8"), [-1, 7], [0]),
        (pd.Series([5.0, None, 2.5, float("inf"), -1.0, 9.9e9]), [5, -1, -1, -1, -1, 9_900_000_000], [2, 3, 4]),
        (pd.Series([7, None], dtype="Int64"), [7, -1], []),
        (pd.Series([2**53 + 1, None], dtype="Int64"), [2**53 + 1, -1], []),
        (pd.Series(["36804772", " 5 ", "5.0", "1e3", "", None]), [36_804_772, 5, 5, 1000, -1, -1], []),
        (pd.Series(["1,000", "12 kB", "-5", "nan", "1_0", "٣", "0x10", "5.5", "1e400"]), [-1] * 9, list(range(9))),
        (pd.Series([True, False]), [-1, -1], [0, 1]),
        (pd.Series([True, 3, np.float32(4.0), Decimal(5), Decimal("NaN"), [6]], dtype=object),
         [-1, 3, 4, 5, -1, -1], [0, 5]),
        (pd.Series(pd.to_datetime(["2020-01-01", None])), [-1, -1], [0]),
        (pd.Series([], dtype=object), [], []),
        (pd.Series([4, 5], dtype="category"), [4, 5], []),
        (pd.Series([1.0, None], dtype="float32"), [1, -1], []),
    ],
)  # fmt: skip
def test_sizes(series: "pd.Series[Any]", sizes: list[int], wrong: list[int]) -> None:
    values = column_values(pd.DataFrame({"size": series}), "size")
    assert values is not None
    read, refused = read_sizes(values)
    assert read.dtype == np.int64
    assert (read.tolist(), refused) == (sizes, wrong)
