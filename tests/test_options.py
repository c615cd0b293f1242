"""What options refuse, and in which words: before anything is sent, and without showing a secret."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from framefetch import MetadataCache, Options, PlanError, Progress, TableOptions, TransferOptions

TABLE = pd.DataFrame({"url": ["http://host/a"]})
CANARY = "c4n4ry5ecret"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("X-Api-Key", None, "header 'X-Api-Key': expected a name and a value as text, got str and NoneType"),
        ("X-Api-Key", 7, "got str and int"),
        ("X-Api-Key", CANARY.encode(), "got str and bytes"),
        (7, CANARY, "header 7: expected a name and a value as text, got int and str"),
        ("", CANARY, "header '' has characters that a header cannot hold in its name"),
        *((name, CANARY, "in its name") for name in ("X(", "X\t", "X:", "X Y", "X\x7f", "Schlüssel", "X\n")),
        *(("X", CANARY + end, "in its value") for end in ("č", "\v", "\x7f", "\0", "\r", "\n", "\x1f", "\ud800")),
        *(
            (name, CANARY, f"header '{name}': expected one that says nothing of what is sent")
            for name in ("Content-Length", "transfer-encoding", "RANGE", "If-Range")
        ),
    ],
)
def test_a_header_that_cannot_be_sent_as_meant_is_refused_without_its_value(name: Any, value: Any, words: str) -> None:
    with pytest.raises(PlanError) as refused:
        Options(headers={"Accept": "*/*", name: value})
    assert words in str(refused.value)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["Host", "User-Agent", "Accept", "Authorization", "Cookie", "x_lab.1~", "Accept-Encoding"]
)
@pytest.mark.parametrize("value", ["", "a b\tc", "Müller; é", "%7B'\"|}"])
def test_other_headers_are_taken(name: str, value: str) -> None:
    assert Options(headers={name: value}).headers == {name: value}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TableOptions(suffix=None), "suffix: expected text, got NoneType"),
        (lambda: TableOptions(url_template=5), "url_template: expected text, got int"),
        (lambda: TableOptions(path_template=b"{a}"), "path_template: expected text, got bytes"),
        (lambda: TableOptions(base_url=5), "base_url: expected text, got int"),
        (lambda: TableOptions(url_column=["a"]), "url_column: expected the name of a column, got list"),
        *(
            (lambda name=name: TableOptions(**{name: {}}), f"{name}: expected the name of a column, got dict")
            for name in ("key_column", "md5_column", "sha256_column", "digest_column", "size_column")
        ),
        (lambda: Options(refresh_url="x"), "refresh_url: expected a function, got str"),
        (lambda: Options(trust_env="no"), "trust_env: expected True or False, got str"),
        (lambda: Options(share_content=None), "share_content: expected True or False, got NoneType"),
        (lambda: TransferOptions(check_content=1), "check_content: expected True or False, got int"),
        (lambda: TransferOptions(block_private="yes"), "block_private: expected True or False, got str"),
        (
            lambda: Options(observers=[Progress]),
            "observers: expected an observer, got the class Progress; Progress() makes one",
        ),
        (lambda: MetadataCache(TABLE, "c", host_map="a=b"), "host_map: expected a mapping, got str"),
        (lambda: MetadataCache(TABLE, "c", host_map=[("a", "b")]), "host_map: expected a mapping, got list"),
        (lambda: MetadataCache(TABLE, "c", host_map=[]), "host_map: expected a mapping, got list"),
        (lambda: MetadataCache(TABLE, "c", engine="dask"), "engine: expected an Engine, got str"),
        (lambda: MetadataCache(TABLE, 5), "cache_dir: expected a path, got int"),
        (lambda: MetadataCache(None, "c"), "metadata_file: expected a path or a DataFrame, got NoneType"),
        (
            lambda: setattr(MetadataCache(TABLE, "c"), "dataframe", None),
            "dataframe: expected a DataFrame, got NoneType",
        ),
        (lambda: MetadataCache(TABLE, "c").verify("Stat"), "level: expected 'stat' or 'hash', got 'Stat'"),
        (lambda: MetadataCache(TABLE, "c").verify(0), "level: expected 'stat' or 'hash', got 0"),
        (lambda: MetadataCache(TABLE, "c").import_manifest(7), "source: expected a path, got int"),
    ],
)
def test_what_is_of_another_kind_is_refused_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError) as refused:
        make()
    assert message in str(refused.value)


def test_kinds_that_are_as_good_are_taken() -> None:
    assert TableOptions(url_column=0).url_column == 0, "columns of a file without a header"
    assert Options(trust_env=np.bool_(False), observers=[print, len]).observers == (print, len)
