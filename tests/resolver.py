"""A resolver that answers as it is told and counts what it is asked; nothing of it reaches a name server."""

import asyncio
import socket
from collections import Counter

from aiohappyeyeballs import AddrInfoType

NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SERVER_FAILED = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
#: Never answers.
HANG = "hang"


class Resolver:
    """Answers each name with its answers in turn, the last one for ever: addresses, an error, or nothing."""

    def __init__(self, **answers: list) -> None:
        self._answers = {name.replace("_", "."): answers for name, answers in answers.items()}
        self.asked: Counter[str] = Counter()

    async def resolve(self, host: str, port: int) -> list[AddrInfoType]:
        self.asked[host] += 1
        turns = self._answers[host]
        answer = turns[min(self.asked[host], len(turns)) - 1]
        if answer == HANG:
            await asyncio.Event().wait()
        if isinstance(answer, OSError):
            raise type(answer)(*answer.args)
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 0, "", (found, port, 0, 0))
            if ":" in found
            else (socket.AF_INET, socket.SOCK_STREAM, 0, "", (found, port))
            for found in answer.split()
        ]
