from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from framefetch.warehouse import Warehouse


@pytest_asyncio.fixture
async def warehouse() -> AsyncIterator[Warehouse]:
    async with Warehouse() as warehouse:
        yield warehouse
