"""JSON to frozen dataclasses and back: every file this project writes is one of them."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar, cast

from elastriton.core.errors import ConfigError

T = TypeVar("T")


def dumps(record: Any) -> str:
    """The record as indented JSON with a final newline; the same record always gives the same text."""
    return json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load(kind: type[T], path: Path, made_by: str = "") -> T:
    """Read one record from a JSON file. Raises ConfigError naming the file and the field at fault.

    `made_by` is the command of ours that writes the file, to be named where there is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist" + (f"; run `elastriton {made_by}` first" if made_by else "")
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    return cast(T, _read(kind, data, str(path)))


def _read(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return _read(next(a for a in arguments if a is not type(None)), data, where)
    if origin is typing.Literal:
        if data not in arguments:
            raise ConfigError(f"{where} is {data!r}; it must be one of {', '.join(map(repr, arguments))}")
        return data
    if origin is tuple:
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(_expect(list, data, where)))
    if origin is dict:
        items = _expect(dict, data, where).items()
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in items}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, _expect(dict, data, where), where)
    if kind is float and type(data) is int:
        return float(data)
    return _expect(kind, data, where)


def _read_dataclass(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            raise ConfigError(f"{where} has no field {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    fields = dataclasses.fields(kind)
    for field in fields:
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in data and not optional:
            raise ConfigError(f"{where} lacks the field {field.name!r}")
    return kind(**{key: _read(hints[key], item, f"{where}.{key}") for key, item in data.items()})


def _expect(kind: type[T], data: Any, where: str) -> T:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise ConfigError(f"{where} is {data!r}; it must be of type {kind.__name__}")
    return data
