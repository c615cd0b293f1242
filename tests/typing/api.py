"""Never run: what a user writes, for the type checker to read."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from framefetch import (
    FetchFailed,
    FetchResult,
    FramefetchError,
    Limits,
    Link,
    MetadataCache,
    Options,
    Plan,
    Progress,
    RetryPolicy,
    TableOptions,
    Timeouts,
    TransferOptions,
)
from framefetch.events import BytesReceived, Event


def observer(event: Event) -> None:
    if isinstance(event, BytesReceived):
        print(event.total + 1)


def sign(links: Sequence[Link]) -> dict[str, str]:
    return {link.key: link.url + "&X-Amz-Signature=new" for link in links}


async def sign_later(links: Sequence[Link]) -> dict[str, str]:
    return sign(links)


async def notebook(table: pd.DataFrame) -> None:
    options = Options(
        limits=Limits(connections=8, per_host=4, bandwidth=1e6),
        retry=RetryPolicy(attempts=3),
        timeouts=Timeouts(stall=5),
        transfer=TransferOptions(check_content=False),
        verify="hash",
        headers={"Authorization": "Bearer x"},
        observers=(observer, Progress()),
        refresh_url=sign,
    )
    options = Options(refresh_url=sign_later, observers=[Progress(), observer])
    with MetadataCache("table.csv") as cache:
        cache.close()
    async with MetadataCache(
        table, Path("cache"), table=TableOptions(url_column="u"), host_map={"a:1": "b:2"}, options=options
    ) as cache:
        plan: Plan = cache.plan(table)
        held: int = plan.summary()["held"]
        result: FetchResult = await cache.fetch_all(table, file_version="v1")
        again: FetchResult = cache.mirror(table[~result.ok])
        try:
            again.raise_for_failures()
        except FetchFailed as error:
            print(error.frame["error"])
        except FramefetchError as error:
            print(error.result and error.result.summary())
        path: Path = await cache.fetch("http://host/1")
        files: dict[str, Path] = cache.get_all_files(table)
        same: Path = cache.get_file("http://host/1", "v0")
        would = cache.prune(table, dry_run=True).removed
        again_held: int = cache.rebuild().held
        print(
            would,
            again_held,
            held,
            path,
            files,
            same,
            result.frame,
            result.paths,
            cache.verify("stat"),
            cache.status().files,
        )
