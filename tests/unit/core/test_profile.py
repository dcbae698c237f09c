from __future__ import annotations

import json
from pathlib import Path

import pytest

from elastriton.core.errors import ConfigError
from elastriton.core.profile import Accuracy, digest, load_profile
from elastriton.core.statistics import wilson_interval

Files = dict[str, bytes]
FILES: Files = {"a.bin": b"one", "sub/b.bin": b"two"}


def folder(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize(
    "files",
    [
        {**FILES, "a.bin": b"One"},
        {"renamed.bin": b"one", "sub/b.bin": b"two"},
        {"a.bin": b"one", "other/b.bin": b"two"},
        {"a.bin": b"two", "sub/b.bin": b"one"},
        {**FILES, "c.bin": b""},
        {"a.bin": b"one"},
        {"a.bin": b"onesub/b.bin\0two"},
    ],
)
def test_the_digest_changes_with_content_and_names(tmp_path: Path, files: Files) -> None:
    assert digest(folder(tmp_path / "x", files)) != digest(folder(tmp_path / "y", FILES))


def test_the_digest_depends_neither_on_the_place_nor_on_the_order_of_writing(tmp_path: Path) -> None:
    backwards = dict(reversed(FILES.items()))
    assert digest(folder(tmp_path / "x", FILES)) == digest(folder(tmp_path / "deep" / "y", backwards))


def test_accuracy_carries_wilson_s_interval() -> None:
    accuracy = Accuracy.of(-2, 30, 40)
    assert (accuracy.gamma, accuracy.accuracy, accuracy.n) == (-2, 0.75, 40)
    assert (accuracy.low, accuracy.high) == wilson_interval(30, 40)


def test_a_profile_of_another_version_is_refused(tiny_build: Path, tmp_path: Path) -> None:
    data = json.loads((tiny_build / "profile.json").read_text(encoding="utf-8"))
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert load_profile(path).version == data["version"]
    path.write_text(json.dumps({**data, "version": 99}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"profile\.json has version 99.*profile again"):
        load_profile(path)


def test_the_built_artifacts_have_the_digests_that_the_profile_names(tiny_build: Path) -> None:
    profile = load_profile(tiny_build / "profile.json")
    for encoder in profile.encoders.values():
        assert digest(tiny_build / encoder.artifact.path) == encoder.artifact.sha256
