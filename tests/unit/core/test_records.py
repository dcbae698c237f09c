from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import pytest

from elastriton.core.errors import ConfigError
from elastriton.core.plan import Plan, load_plan
from elastriton.core.profile import Profile
from elastriton.core.records import dumps, load

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    name: str
    share: float
    on: bool = False


@dataclass(frozen=True)
class Whole:
    version: int
    kind: Literal["vision", "text"]
    parts: tuple[Part, ...]
    by_name: dict[str, Part]
    spare: Part | None = None
    notes: tuple[str, ...] = field(default=())


WHOLE = Whole(1, "text", (Part("a", 0.5, True), Part("ü", 2.0)), {"x": Part("x", 0.0)}, None, ("n",))


def data(**changes: Any) -> str:
    plain = json.loads(dumps(WHOLE))
    return json.dumps({key: value for key, value in {**plain, **changes}.items() if value != "absent"})


def loads(kind: type[T], text: str) -> T:
    """What a file of this text is read as; errors call it by the name of `kind`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / kind.__name__
        path.write_text(text, encoding="utf-8")
        return load(kind, path)


def test_a_record_survives_the_round_trip() -> None:
    assert loads(Whole, dumps(WHOLE)) == WHOLE


def test_the_same_record_always_gives_the_same_text_with_one_final_newline() -> None:
    text = dumps(WHOLE)
    assert text == dumps(loads(Whole, text))
    assert text.endswith("}\n")
    assert "ü" in text


def test_real_profiles_and_plans_survive_the_round_trip(tiny_build: Path) -> None:
    for kind, name in ((Profile, "profile.json"), (Plan, "plan.json")):
        text = (tiny_build / name).read_text(encoding="utf-8")
        assert dumps(load(kind, tiny_build / name)) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"warm_decode": {',
            '"../../escaped/warm_decode": {',
            "names a model '../../escaped/warm_decode'",
        ),
        ('"path": "vit"', '"path": "../vit"', "artifact '../vit' points out of its folder"),
        ('"path": "vit"', '"path": "/tmp/vit"', "artifact '/tmp/vit' points out of its folder"),
        ('"path": "vit"', '"path": "."', r"artifact '\.' points out of its folder"),
    ],
)
def test_a_plan_names_nothing_outside_its_folder(
    tiny_build: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (tiny_build / "plan.json").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "plan.json").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_plan(tmp_path / "plan.json")


def test_numbers_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(Part("a", float("nan")))


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Whole has no field 'nots'; did you mean 'notes'"):
        loads(Whole, data(nots=[]))


def test_an_unknown_field_without_a_near_one_is_still_named() -> None:
    with pytest.raises(ConfigError, match=r"no field 'zzzz'$"):
        loads(Whole, data(zzzz=1))


def test_a_missing_field_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"Whole\.parts\[1\] lacks the field 'share'"):
        loads(Whole, data(parts=[{"name": "a", "share": 1}, {"name": "b"}]))


def test_fields_with_defaults_may_be_absent() -> None:
    assert loads(Whole, data(spare="absent", notes="absent")) == Whole(1, "text", WHOLE.parts, WHOLE.by_name)


def test_an_optional_record_is_read_or_null() -> None:
    assert loads(Whole, data(spare={"name": "s", "share": 1.0})).spare == Part("s", 1.0)
    assert loads(Whole, data(spare=None)).spare is None


def test_an_integer_is_read_as_a_float_where_one_is_wanted() -> None:
    share = loads(Part, '{"name": "a", "share": 1}').share
    assert share == 1.0
    assert type(share) is float


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": True}, r"Whole\.version is True; it must be of type int"),
        ({"version": 1.0}, r"Whole\.version is 1.0"),
        ({"version": "1"}, r"Whole\.version is '1'"),
        ({"version": None}, r"Whole\.version is None"),
        ({"kind": "audio"}, r"Whole\.kind is 'audio'; it must be one of 'vision', 'text'"),
        ({"kind": ["text"]}, r"Whole\.kind is \['text'\]"),
        ({"parts": {}}, r"Whole\.parts is {}; it must be of type list"),
        ({"parts": ["a"]}, r"Whole\.parts\[0\] is 'a'; it must be of type dict"),
        ({"by_name": []}, r"Whole\.by_name is \[\]"),
        ({"by_name": {"x": {"name": 1, "share": 1}}}, r"Whole\.by_name\.x\.name is 1"),
        ({"spare": {"name": "s", "share": True}}, r"Whole\.spare\.share is True; it must be of type float"),
        ({"spare": {"name": "s", "share": 1, "on": 1}}, r"Whole\.spare\.on is 1; it must be of type bool"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loads(Whole, data(**change))


def test_a_file_s_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    with pytest.raises(ConfigError, match=r"part\.json does not exist"):
        load(Part, path)
    with pytest.raises(ConfigError, match=r"does not exist; run `elastriton plan` first"):
        load(Part, path, made_by="plan")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(Part, tmp_path)
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"part\.json is not JSON"):
        load(Part, path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"part\.json is not JSON"):
        load(Part, path)
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ConfigError, match=r"part\.json is not JSON"):
        load(Part, path)
    path.write_text('{"name": "a"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"part\.json lacks the field 'share'"):
        load(Part, path)
