"""Fetch a table with obstore: ``fetch_obstore.py TABLE DIR connections=16 splits=1``; all files on one server."""

import asyncio
import csv
import os
import sys

from obstore.store import HTTPStore

PART = 8 << 20


async def main() -> None:
    table, folder, *settings = sys.argv[1:]
    numbers = {name: int(value) for name, value in (setting.split("=") for setting in settings)}
    with open(table, newline="") as file:  # noqa: ASYNC230 - nothing else runs yet
        rows = list(csv.DictReader(file))
    base = rows[0]["url"].removesuffix(rows[0]["path"])
    options = {"allow_http": True, "timeout": "600s"}
    if os.environ.get("SSL_CERT_FILE"):  # its own list of authorities is built in
        options["allow_invalid_certificates"] = True
    store = HTTPStore.from_url(base, client_options=options)
    waiting = iter(rows)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(numbers["connections"], len(rows))):
            group.create_task(fetch_all(store, waiting, folder, numbers["splits"]))


async def fetch_all(store, waiting, folder, splits):
    for row in waiting:
        path, size = os.path.join(folder, row["path"]), int(row["size"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:  # noqa: ASYNC230 - as quick as handing it over
            if splits > 1 and size > PART:
                await fetch_split(store, row["path"], size, file, splits)
                continue
            answer = await store.get_async(row["path"])
            async for piece in answer.stream():
                file.write(piece)


async def fetch_split(store, name, size, file, splits):
    starts = iter(range(0, size, PART))

    async def work():
        for start in starts:
            piece = await store.get_range_async(name, start=start, end=min(size, start + PART))
            os.pwrite(file.fileno(), piece, start)

    async with asyncio.TaskGroup() as group:
        for _ in range(splits):
            group.create_task(work())


if __name__ == "__main__":
    asyncio.run(main())
    # All is fetched and closed; its threads sometimes abort the process where the interpreter ends in order.
    os._exit(0)
