"""A resolver that answers as it is told and counts what it is asked; nothing of it reaches a name server."""

import asyncio
import socket
from collections import Counter

from aiohttp.abc import AbstractResolver

NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SERVER_FAILED = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
#: Never answers.
HANG = "hang"


class Resolver(AbstractResolver):
    """Answers each name with its answers in turn, the last one for ever: addresses, an error, or nothing."""

    def __init__(self, **answers: list) -> None:
        self._answers = {name.replace("_", "."): answers for name, answers in answers.items()}
        self.asked: Counter[str] = Counter()

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list:
        self.asked[host] += 1
        turns = self._answers[host]
        answer = turns[min(self.asked[host], len(turns)) - 1]
        if answer == HANG:
            await asyncio.Event().wait()
        if isinstance(answer, OSError):
            raise type(answer)(*answer.args)
        return [
            {"hostname": host, "host": found, "port": port, "family": family, "proto": 0, "flags": 0}
            for found in answer.split()
        ]

    async def close(self) -> None:
        pass
