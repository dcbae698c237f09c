"""Ask the tasks of an elastriton server, over gRPC or HTTP, from blocking or asyncio code.

>>> from elastriton.client import Client
>>> with Client("grpc://127.0.0.1:8001", timeout_s=10.0) as client:
...     [answer] = client.classify("eurosat", images=["a.jpg"], slo_ms=50)
...     answer.label, answer.probability, answer.gamma
"""

from elastriton.client.aio import AsyncClient
from elastriton.client.errors import (
    ClientError,
    InvalidInputError,
    RejectedError,
    RequestTimeoutError,
    ServerError,
    UnavailableError,
    UnknownTaskError,
)
from elastriton.client.inputs import Image, Text
from elastriton.client.protocol import Answer, Request
from elastriton.client.sync import Client
from elastriton.client.transport import Transport

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "Image",
    "InvalidInputError",
    "RejectedError",
    "Request",
    "RequestTimeoutError",
    "ServerError",
    "Text",
    "Transport",
    "UnavailableError",
    "UnknownTaskError",
]
