"""The demo's own requests."""

from __future__ import annotations

from typing import Any

import pytest

from elastriton.client import RejectedError, ServerError
from elastriton.core.errors import ElastritonError
from elastriton.generator.data import Labelled
from elastriton.generator.demo import _ask

TEXTS = Labelled((), (("a",), ("b",)), ("x", "y"))


class _Client:
    def __init__(self, *outcomes: object) -> None:
        self._outcomes = outcomes

    def classify(self, *_: object, **__: object) -> list[object]:
        return list(self._outcomes)


def test_rejections_belong_to_the_demo_and_other_errors_end_it_in_a_message() -> None:
    rejected: Any = RejectedError("late")
    asked: Any = _Client(rejected, rejected)
    assert _ask(asked, "intent", TEXTS, 5.0) == [rejected, rejected]
    asked = _Client(rejected, ServerError("no memory"))
    with pytest.raises(ElastritonError, match="task intent was not answered: ServerError: no memory"):
        _ask(asked, "intent", TEXTS, 5.0)
