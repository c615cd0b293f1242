"""Case 52: signed links that expire, and who is asked for new ones."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import framefetch.engine.links
from framefetch import Link, MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.warehouse import Pace, Reply, Serve, Stop, WarehouseThread, endless, hdf5_file

CONTENT = hdf5_file(3000, seed=1)
EXPIRED = Reply(
    403,
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
    headers={"Content-Type": "application/xml"},
)
DENIED = Reply(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")

Note = Callable[[str, str, str, int], None]


def options(refresh: Any = None) -> Options:
    return Options(retry=RetryPolicy(base=0, cap=0), timeouts=Timeouts(connect=2, stall=0.4), refresh_url=refresh)


def signed_rows(warehouse: WarehouseThread, count: int, valid: Callable[[str], bool]) -> pd.DataFrame:
    """Store files that are answered only where the signature is valid; return their rows, signed with "old"."""

    def answer(record: Any) -> Any:
        return Serve() if valid(record.target.partition("X-Amz-Signature=")[2]) else EXPIRED

    for at in range(count):
        warehouse.add(f"/{at}.nwb", CONTENT)
    warehouse.script_all(answer)
    return pd.DataFrame({"url": [f"{warehouse.url(f'/{at}.nwb')}?id={at}&X-Amz-Signature=old" for at in range(count)]})


def signs_anew(asked: list[Sequence[Link]], *signatures: str) -> Callable[[Sequence[Link]], dict[str, str]]:
    """Return a function that signs everything it is given, each time with the next signature."""

    def refresh(links: Sequence[Link]) -> dict[str, str]:
        asked.append(links)
        signature = signatures[min(len(asked), len(signatures)) - 1]
        return {link.key: link.url.partition("X-Amz-Signature=")[0] + f"X-Amz-Signature={signature}" for link in links}

    return refresh


def test_one_call_serves_all_rows_of_a_host(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    asked: list[Sequence[Link]] = []
    table = signed_rows(warehouse, 400, lambda signature: signature == "new")
    # Nothing stalls here, and what is asked twice because the machine pauses for 0.4 s would be counted.
    patient = replace(options(signs_anew(asked, "new")), timeouts=Timeouts())
    with MetadataCache(table, tmp_path / "cache", options=patient) as cache:
        result = cache.mirror(table)
        again = cache.mirror(table)
        assert cache.verify("hash") == []
    assert set(result.frame["status"]) == {"downloaded"}
    assert len(asked) == 1
    assert sorted(link.url for link in asked[0]) == sorted(table["url"]), "all of them, as the table has them"
    assert warehouse.count() <= 400 + 16, "at most what was under way had asked with the old link"
    assert set(result.frame["attempts"]) == {1, 2}
    assert set(again.frame["status"]) == {"cached"}, "the key is not the link"
    assert result.frame["url"][0].endswith("?id=0&X-Amz-Signature=***")
    note("52", "400 links signed together: refreshed by one call", "downloaded", warehouse.count())


def test_links_that_expire_again_are_made_again(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    asked: list[Sequence[Link]] = []
    served: list[str] = []
    lock = threading.Lock()

    def valid(signature: str) -> bool:
        """Accept each signature for 50 requests."""
        with lock:
            good = signature != "old" and served.count(signature) < 50
            served.append(signature)
            return good

    table = signed_rows(warehouse, 120, valid)
    refresh = signs_anew(asked, "first", "second", "third", "fourth")
    with MetadataCache(table, tmp_path / "cache", options=options(refresh)) as cache:
        frame = cache.mirror(table).frame
    assert set(frame["status"]) == {"downloaded"}
    assert 3 <= len(asked) <= 4
    assert len(asked[0]) == 120
    assert len(asked[1]) <= 70, "only files that are still to come"
    note("52", "links that expire again after 50 files", "downloaded", warehouse.count())


def test_fresh_links_that_do_not_work_are_not_made_again(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    asked: list[Sequence[Link]] = []
    table = signed_rows(warehouse, 100, lambda _: False)
    with MetadataCache(table, tmp_path / "cache", options=options(signs_anew(asked, "new"))) as cache:
        frame = cache.mirror(table).frame
    assert set(frame["error_type"]) == {"StatusError"}
    assert frame["error"].str.contains("expired-url").all()
    assert frame["error"].str.contains("the links that refresh_url made have expired too").all()
    assert len(asked) == 1
    assert warehouse.count() <= 100 + 16
    note("52", "new links that have expired too", "StatusError", warehouse.count())


def test_a_coroutine_function_and_one_that_takes_its_time(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    """While links are made, other hosts run on; a slow function holds up no loop."""
    made: list[Sequence[Link]] = []
    healthy_done, threads = threading.Event(), []
    sign = signs_anew(made, "new")

    async def later(links: Sequence[Link]) -> dict[str, str]:
        await asyncio.sleep(0)
        return sign(links)

    def slowly(links: Sequence[Link]) -> dict[str, str]:
        threads.append(threading.current_thread().name)
        assert healthy_done.wait(10), "the other host was held up"
        return sign(links)

    with WarehouseThread() as healthy:
        table = signed_rows(warehouse, 40, lambda signature: signature == "new")
        good = pd.DataFrame({"url": [healthy.add(f"/good{at}.nwb", CONTENT) for at in range(60)]})
        both = pd.concat([table, good], ignore_index=True)
        healthy.script("/good59.nwb", lambda _: healthy_done.set() or Serve())
        for at, refresh in enumerate((slowly, later)):
            with MetadataCache(both, tmp_path / str(at), options=options(refresh)) as cache:
                assert set(cache.mirror(both).frame["status"]) == {"downloaded"}
    assert len(made) == 2
    assert threads == ["framefetch-aside"]
    note("52", "new links by a coroutine function", "downloaded", 40)


def _raises(_: Sequence[Link]) -> dict[str, str]:
    raise RuntimeError("canary: Bearer s3cr3t")


@pytest.mark.parametrize(
    ("refresh", "says"),
    [
        (_raises, "refresh_url raised RuntimeError"),
        (lambda _: None, "refresh_url gave NoneType; expected a mapping from key to URL"),
        (lambda _: {}, "refresh_url gave no new link for this file"),
        (lambda links: {link.key: link.url for link in links}, "refresh_url gave no new link for this file"),
        (lambda links: {link.key: "http://elsewhere.example/f" for link in links}, "gave no URL of http://127.0.0.1:"),
        (lambda links: {link.key: 7 for link in links}, "gave no URL of http://127.0.0.1:"),
    ],
    ids=["raises", "no-mapping", "nothing", "the-old-ones", "another-host", "no-text"],
)
def test_a_function_that_makes_no_links(
    refresh: Any, says: str, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    calls: list[int] = []

    def counted(links: Sequence[Link]) -> Any:
        calls.append(len(links))
        return refresh(links)

    table = signed_rows(warehouse, 40, lambda _: False)
    with MetadataCache(table, tmp_path / "cache", options=options(counted)) as cache:
        frame = cache.mirror(table).frame
    assert frame["error"].str.contains("expired-url").all()
    assert frame["error"].str.contains(says, regex=False).all(), frame["error"].tolist()
    assert not frame["error"].str.contains("canary").any()
    assert calls == [40]
    assert warehouse.count() == 40
    note("52", f"refresh_url: {says[:40]}", "StatusError", 40)


@pytest.mark.parametrize(
    "odd",
    [
        lambda url: f" {url}",
        lambda url: f"{url}&canary=\udc80",
        lambda url: url.replace("//", "//me:canary\udc80@"),
        lambda url: url.replace("http://", "http:"),
    ],
    ids=["a blank before it", "no text", "a login that is no text", "no host"],
)
def test_an_odd_link_fails_its_own_row(
    odd: Callable[[str], str], warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    sign = signs_anew([], "new")

    def refresh(links: Sequence[Link]) -> dict[str, str]:
        return {key: odd(url) if "/7.nwb" in url else url for key, url in sign(links).items()}

    table = signed_rows(warehouse, 40, lambda signature: signature == "new")
    with MetadataCache(table, tmp_path / "cache", options=options(refresh)) as cache:
        frame = cache.mirror(table).frame
    assert frame["status"].tolist() == ["downloaded"] * 7 + ["failed"] + ["downloaded"] * 32
    assert "[refresh_url gave no new link for this file]" in frame["error"][7]
    assert "canary" not in frame["error"][7]
    note("52", "refresh_url: one link that is none", "StatusError", warehouse.count())


def test_a_link_whose_host_cannot_be_encoded_fails_its_own_row(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    """The same host in capitals, which IDNA makes "ss" of; that is too long."""
    sign, host = signs_anew([], "new"), "ß" * 40 + ".example"

    def refresh(links: Sequence[Link]) -> dict[str, str]:
        return {key: url.replace("ß", "ẞ") if "/7.nwb" in url else url for key, url in sign(links).items()}

    table = signed_rows(warehouse, 10, lambda signature: signature == "new")
    table["url"] = table["url"].str.replace("127.0.0.1", host)
    mapped = {host: f"127.0.0.1:{warehouse.port}"}
    with MetadataCache(table, tmp_path / "cache", options=options(refresh), host_map=mapped) as cache:
        frame = cache.mirror(table).frame
    assert frame["status"].tolist() == ["downloaded"] * 7 + ["failed"] + ["downloaded"] * 2
    assert "[refresh_url gave no new link for this file]" in frame["error"][7]
    note("52", "refresh_url: one link to a host that is none", "StatusError", warehouse.count())


def test_no_more_than_a_batch_is_asked_for(
    warehouse: WarehouseThread, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framefetch.engine.links, "BATCH", 30)
    asked: list[Sequence[Link]] = []
    table = signed_rows(warehouse, 100, lambda signature: signature == "new")
    table.loc[len(table)] = [warehouse.add("/unsigned.nwb", CONTENT)]
    warehouse.script("/unsigned.nwb", Serve())
    with MetadataCache(table, tmp_path / "cache", options=options(signs_anew(asked, "new"))) as cache:
        assert set(cache.mirror(table).frame["status"]) == {"downloaded"}
    assert max(map(len, asked)) == 30
    assert len(asked) <= 5
    assert not any("unsigned" in link.key for links in asked for link in links)
    note("52", "100 links, 30 at a time", "downloaded", warehouse.count())


PAST = "X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=a"


@pytest.mark.parametrize(
    ("what", "query", "answer", "says"),
    [
        ("XML that says so", "?X-Amz-Signature=a", EXPIRED, "the server says that the link has expired"),
        ("a date in the link", f"?{PAST}", Reply(403), "the link was valid until 2020-01-01 00:01:00 UTC"),
        ("a date in the link, 400", f"?{PAST}", Reply(400), "valid until"),
        ("a date in the link, 401", "?se=2020-01-01&sig=a", Reply(401), "valid until"),
        ("a date in the link, 410", "?Expires=1&Signature=a", Reply(410), "valid until"),
        ("chunked XML", "?sig=a", Reply(403, EXPIRED.body, framing="chunked"), "the server says"),
        ("XML that stalls", "?sig=a", Serve(status=403, content=EXPIRED.body * 9, stop=Stop(900, "hang")), "says"),
    ],
)
def test_without_a_function_the_failure_says_what_to_do(
    what: str, query: str, answer: Any, says: str, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    table = pd.DataFrame({"url": [warehouse.url("/1.nwb") + query]})
    warehouse.script("/1.nwb", answer)
    with MetadataCache(table, tmp_path / "cache", options=options()) as cache:
        frame = cache.mirror(table).frame
    assert frame[["error_type", "attempts"]].values.tolist() == [["StatusError", 1]]
    assert "expired-url: " in frame["error"][0]
    assert says in frame["error"][0]
    assert "Options(refresh_url=...)" in frame["error"][0]
    note("52", f"an expired link: {what}", "StatusError", warehouse.count())


@pytest.mark.parametrize(
    ("what", "query", "answer"),
    [
        ("denied for another reason", "?sig=a", DENIED),
        ("no signature at all", "", EXPIRED),
        ("404", f"?{PAST}", Reply(404)),
        ("an endless refusal", "?sig=a", Reply(403, endless(b"expired "), framing="close")),
        ("a dripping refusal", "?sig=a", Reply(403, b"x" * 9999, pace=Pace(1, 0.02))),
        ("a silent refusal", "?sig=a", Reply(403, b"x" * 9999, stop=Stop(0, "hang"))),
    ],
)
def test_what_is_no_expiry(
    what: str, query: str, answer: Any, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    """The body of a refusal is read within bounds: 64 KiB, and the stall timeout in all."""
    table = pd.DataFrame({"url": [warehouse.url("/1.nwb") + query]})
    warehouse.script("/1.nwb", answer)
    with MetadataCache(table, tmp_path / "cache", options=options(lambda _: pytest.fail("asked"))) as cache:
        began = time.monotonic()
        result = cache.mirror(table)
        took = time.monotonic() - began
    assert "expired-url" not in result.frame["error"][0]
    assert result.frame["attempts"][0] == 1
    assert result.summary()["bytes"] <= 65_536 + 262_144, "one read more than is looked at"
    assert took < 5
    note("52", f"no expired link: {what}", "StatusError", warehouse.count())


async def test_a_function_that_hangs_holds_up_no_cancellation(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hangs(_: Sequence[Link]) -> dict[str, str]:
        asked.set()
        answer.wait(30)
        return {}

    table = signed_rows(warehouse, 20, lambda _: False)
    try:
        async with MetadataCache(table, tmp_path / "cache", options=options(hangs)) as cache:
            running = asyncio.create_task(cache.fetch_all(table))
            await asyncio.to_thread(asked.wait, 10)
            began = time.monotonic()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert time.monotonic() - began < 2
    finally:
        answer.set()
    note("52", "refresh_url hangs and is cancelled", "cancelled", warehouse.count())
