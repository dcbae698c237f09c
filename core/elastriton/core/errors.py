"""The errors a request can end with, and how they survive Triton.

    ElastritonError
    ├── ConfigError        a configuration, profile, plan or repository is wrong         (offline)
    └── RequestError       a request ends without an answer                              (online)
        ├── InvalidInput   the request is wrong; sending it again cannot help            INVALID_ARG
        ├── Rejected       the deadline cannot be met; nothing is wrong with the server  UNAVAILABLE
        ├── Unavailable    the server cannot answer now (draining, executor gone)        UNAVAILABLE
        └── Internal       our fault, or a library's                                     INTERNAL

A call between Triton models loses the callee's error code, and an ensemble prefixes its own words, so each message
starts with a tag in square brackets (`[rejected] …`) and `parse` finds it again anywhere in a text.
"""

from __future__ import annotations

import re
from typing import ClassVar

LONGEST = 500
"""Characters of a message: it travels in a trailer of gRPC, at up to twelve bytes each, and over 8 KiB are lost."""

UNLOADED = "the model is being unloaded; retry on another replica"
"""What is said to those who still wait when a model is taken down, and to those who come behind."""


GONE = re.compile(r"has no available versions|is not healthy|[Ss]erver is stopping|[Ss]erver not ready|is not ready")
"""Triton's words where a model that it had, or the server itself, is going down or has gone (2.51)."""


class ElastritonError(Exception):
    """The base of every error this project raises on purpose."""


class ConfigError(ElastritonError):
    """A configuration, profile, plan or repository is wrong; the text says where, what was seen and what to do."""


class RequestError(ElastritonError):
    """A request ends without an answer. `tag` marks the kind in the text, `triton_code` names Triton's error code."""

    tag: ClassVar[str] = "internal"
    triton_code: ClassVar[str] = "INTERNAL"

    def tagged(self) -> str:
        """The message as it travels through Triton: `[tag] text`, of `LONGEST` characters at most."""
        text = str(self)
        return f"[{self.tag}] {text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}"


class InvalidInput(RequestError):
    """The request is wrong: sending the same request again cannot help."""

    tag = "invalid"
    triton_code = "INVALID_ARG"


class Rejected(RequestError):
    """The deadline cannot be met, or the queue is full: the server is well, but will not answer this request."""

    tag = "rejected"
    triton_code = "UNAVAILABLE"


class Unavailable(RequestError):
    """The server cannot answer now: it is draining, or a model it needs is gone. Another replica may."""

    tag = "unavailable"
    triton_code = "UNAVAILABLE"


class Internal(RequestError):
    """Something failed that the caller can do nothing about."""


_KINDS: dict[str, type[RequestError]] = {kind.tag: kind for kind in (InvalidInput, Rejected, Unavailable, Internal)}
_TAG = re.compile(rf"\[({'|'.join(_KINDS)})\] ")


def parse(text: str) -> RequestError | None:
    """The error that `text` carries, wherever in it the tag stands; None where there is no tag.

    >>> parse("in ensemble 'eurosat', [rejected] the deadline cannot be met")
    Rejected('the deadline cannot be met')
    """
    found = _TAG.search(text)
    return _KINDS[found.group(1)](text[found.end() :].strip()) if found else None
