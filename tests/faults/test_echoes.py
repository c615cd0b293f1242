"""A server that says again all it was told, in every place that a message quotes: nothing of it is shown."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

from framefetch import MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.events import FileFinished
from framefetch.urls import redact_text
from framefetch.warehouse import Raw, Reply, WarehouseThread

CANARY = "c4n4ry"
SECRETS = [f"{CANARY}-{name}/+=" for name in ("key", "session", "bearer", "password", "token")]
KEY, SESSION, BEARER, PASSWORD, TOKEN = SECRETS
HEADERS = {"X-Api-Key": KEY, "Cookie": f"session={SESSION}"}

WORDS: dict[str, Callable[[str], str]] = {
    "alone": lambda secret: f"no {secret} here",
    "a header": lambda secret: f"X-Api-Key: {secret}",
    "a scheme": lambda secret: f"Authorization: ApiKey {secret}",
    "JSON": lambda secret: json.dumps({"said": secret}),
    "a token in JSON": lambda secret: json.dumps({"token": secret}),
    "a field": lambda secret: f"token: {secret}",
    "percent-encoded": lambda secret: quote(secret, safe=""),
    "percent-encoded twice": lambda secret: quote(quote(secret), safe=""),
    "cut": lambda secret: "x" * 43 + secret,
}
ANSWERS: dict[str, Callable[[str], Any]] = {
    "reason": lambda words: Reply(403, reason=words),
    "body": lambda words: Reply(200, words.encode()),
    "title": lambda words: Reply(200, f"<html><title>{words}</title></html>".encode()),
    "large body": lambda words: Reply(200, words.encode() + b" " * (1 << 21)),
    "no HTTP": lambda words: Raw(words.encode() + b"\r\n\r\n", end="close"),
    "length": lambda words: Reply(200, headers={"Content-Length": words}),
    "elsewhere": lambda words: Reply(302, headers={"Location": f"ftp://host/{words}"}),
}


def _chain(error: BaseException | None) -> str:
    return "" if error is None else f"{error!r} {_chain(error.__cause__)} {_chain(error.__context__)}"


@pytest.mark.parametrize("stated", [False, True], ids=["", "with a digest"])
@pytest.mark.parametrize("login", [False, True], ids=["headers", "a login in the URL"])
def test_a_server_that_says_what_it_was_told_is_quoted_without(
    login: bool, stated: bool, warehouse: WarehouseThread, tmp_path: Path
) -> None:
    urls = []
    for word, answer, secret in product(WORDS.values(), ANSWERS.values(), SECRETS):
        path = f"/{len(urls)}.nwb"
        warehouse.script(path, then=answer(word(secret)))
        urls.append(warehouse.url(f"{path}?token={quote(TOKEN, safe='')}"))
    headers = dict(HEADERS)
    if login:
        urls = [url.replace("://", f"://{quote(PASSWORD, safe='')}:{quote(BEARER, safe='')}@") for url in urls]
    else:
        headers |= {"Authorization": f"ApiKey {BEARER}", "X-Password": PASSWORD}
    table = pd.DataFrame({"url": urls})
    if stated:
        table["md5"] = "0" * 32
    errors = []

    def listen(event: object) -> None:
        if isinstance(event, FileFinished):
            errors.append(event.outcome.error)

    options = Options(retry=RetryPolicy(attempts=1), timeouts=Timeouts(stall=2), headers=headers, observers=(listen,))
    with MetadataCache(table, tmp_path / "cache", options=options) as cache:
        frame = cache.mirror(table).frame
    assert set(frame["status"]) == {"failed"}
    assert not frame["error"].str.contains(CANARY[:5]).any(), frame["error"][
        frame["error"].str.contains(CANARY[:5])
    ].iloc[0]
    assert len(errors) == len(urls)
    assert CANARY[:5] not in "".join(map(_chain, errors))
    assert frame["error"].str.contains(r"\*\*\*", regex=True).mean() > 0.9


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"id": 7, "token": "c4n4ry"}', '{"id": 7, "token": "***'),
        ("{'api_key':'c4n4ry'}", "{'api_key':'***"),
        ("no such token: c4n4ry", "no such token: ***"),
        ("X-Amz-Security-Token : c4n4ry", "X-Amz-Security-Token : ***"),
        ("http://token:8080/a, http://auth:80/", "http://token:8080/a, http://auth:80/"),
        ("http://token:c4n4ry@host/a", "http://host/a"),
        ("a token, and: more", "a token, and: more"),
    ],
)
def test_a_credential_is_known_by_its_name_also_before_a_colon(text: str, shown: str) -> None:
    assert redact_text(text) == shown
