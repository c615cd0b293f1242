"""A real Jupyter kernel: await, the blocking twin inside the running loop, an interrupt, and a next call that works."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pandas as pd
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager, start_new_async_kernel

from framefetch.warehouse import Serve, WarehouseThread, hdf5_file, hold

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the kernel client's own sockets
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.fixture
async def kernel(tmp_path) -> AsyncIterator[tuple[AsyncKernelManager, AsyncKernelClient]]:
    manager, client = await start_new_async_kernel(kernel_name="python3", cwd=str(tmp_path))
    yield manager, client
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


async def run(client: AsyncKernelClient, code: str) -> str:
    """Run a cell to its end and return what it printed; its error is raised."""
    printed: list[str] = []

    def take(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])

    reply = await client.execute_interactive(code, timeout=40, output_hook=take)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed).strip()


async def test_in_a_kernel(kernel, tmp_path, warehouse: WarehouseThread) -> None:
    manager, client = kernel
    urls = [warehouse.add(str(at), hdf5_file(3000, seed=at)) for at in range(6)]
    pd.DataFrame({"wkf": urls}).to_csv(tmp_path / "table.csv", index=False)
    await run(
        client,
        "from framefetch import MetadataCache; cache = MetadataCache('table.csv', 'cache'); df = cache.dataframe",
    )
    assert "downloaded=3" in await run(client, "print(await cache.fetch_all(df.head(3)))")
    assert await run(client, "print(len(cache.get_all_files(df.head(5))))") == "5"

    warehouse.script("5", hold())
    cell = "try:\n    cache.get_all_files(df)\nexcept KeyboardInterrupt as stopped:\n    print(stopped.result)"
    running = asyncio.create_task(run(client, cell))
    await asyncio.to_thread(warehouse.wait_for, "5")
    await manager.interrupt_kernel()
    assert "rows=6, files=6, cached=5, cancelled=1" in await asyncio.wait_for(running, 10)

    # A loop that sleeps until something comes is not woken by the kernel's interrupt.
    cell = "import asyncio\ntry:\n    await cache.fetch_all(df)\nexcept asyncio.CancelledError:\n    print('cancelled')"
    warehouse.clear_log()
    warehouse.script("5", hold())
    running = asyncio.create_task(run(client, cell))
    await asyncio.to_thread(warehouse.wait_for, "5")
    await manager.interrupt_kernel()
    assert await asyncio.wait_for(running, 10) == "cancelled"

    warehouse.script("5", Serve())
    counts = "print((await cache.fetch_all(df)).frame['status'].value_counts().to_dict())"
    assert await run(client, counts) == "{'cached': 5, 'downloaded': 1}"
