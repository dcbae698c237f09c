"""The names of what is made for an encoder or a task: served models and folders of artifacts.

    model      {encoder}_executor, {encoder}_scheduler, {task}, {task}_decode, {task}_cascade
    artifact   {encoder}, {encoder}_tokenizer, {task}_head, {task}_small0 …, {task}_cascade

Clients call {task}, an ensemble, and Triton takes any name: where two are the same, requests go to the wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

NAME = r"^[a-z][a-z0-9_]*$"
MAX_SMALL = 3


def executor(encoder: str) -> str:
    """The model that runs an encoder."""
    return f"{encoder}_executor"


def scheduler(encoder: str) -> str:
    """The model that forms an encoder's batches."""
    return f"{encoder}_scheduler"


def decoder(task: str) -> str:
    """The model that makes pixels of a task's images."""
    return f"{task}_decode"


def cascade(task: str) -> str:
    """The model that answers a task early; also the artifact that keeps what all its models said (not served)."""
    return f"{task}_cascade"


def tokenizer(encoder: str) -> str:
    """The artifact of a text encoder's tokenizer; its graphs are in the one that is named as the encoder is."""
    return f"{encoder}_tokenizer"


def head(task: str) -> str:
    """The artifact of a task's head and prompts."""
    return f"{task}_head"


def small(task: str, number: int) -> str:
    """The artifact of one small model of a task's cascade."""
    return f"{task}_small{number}"


def artifacts(encoders: Iterable[str], tasks: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every artifact that there may be, with what it is of."""
    for name in encoders:
        yield name, f"encoder {name}"
        yield tokenizer(name), f"the tokenizer of encoder {name}"
    for name in tasks:
        yield head(name), f"the head of task {name}"
        yield cascade(name), f"the cascade of task {name}"
        yield from ((small(name, number), f"a small model of task {name}") for number in range(MAX_SMALL))


def clashes(encoders: Iterable[str], tasks: Iterable[str]) -> Iterator[str]:
    """Where two models, or two artifacts, would have one name, whether or not both are made today."""
    encoders, tasks = list(encoders), list(tasks)
    for kind, names in (("model", _models(encoders, tasks)), ("artifact", artifacts(encoders, tasks))):
        taken: dict[str, str] = {}
        for name, owner in names:
            if name in taken:
                yield f"{taken[name]} and {owner} would both be the {kind} {name!r}; rename one of them"
            taken[name] = owner


def _models(encoders: Iterable[str], tasks: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in encoders:
        yield executor(name), f"the executor of encoder {name}"
        yield scheduler(name), f"the scheduler of encoder {name}"
    for name in tasks:
        yield name, f"task {name}"
        yield decoder(name), f"the decoder of task {name}"
        yield cascade(name), f"the cascade of task {name}"
