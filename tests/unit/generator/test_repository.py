"""Plan to repository: the protobuf, atomicity, and what `check` finds in a damaged one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell
from elastriton.core.plan import Plan, PublicTask, SchedulerPlan
from elastriton.core.profile import Artifact
from elastriton.core.records import dumps, load
from elastriton.generator import repository as module
from elastriton.generator.check import check
from elastriton.generator.pbtxt import configs, render
from elastriton.generator.repository import generate, parts


@pytest.fixture
def plan(tiny_build: Path) -> Plan:
    return load(Plan, tiny_build / "plan.json")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_configs_survive_a_round_trip_and_are_complete(plan: Plan) -> None:
    for name, config in configs(parts(plan)).items():
        assert text_format.Parse(render(config), pb.ModelConfig()) == config
        assert config.name == name
        assert config.max_batch_size > 0
        assert config.input
        assert config.output
        assert bool(config.instance_group) != bool(config.ensemble_scheduling.step)


def test_public_tensors_are_as_promised(plan: Plan) -> None:
    served = configs(parts(plan))

    def tensors(entries: list[pb.ModelInput]) -> dict[str, tuple[str, list[int]]]:
        return {entry.name: (pb.DataType.Name(entry.data_type), list(entry.dims)) for entry in entries}

    assert tensors(served["colour"].input) == {"IMAGE": ("TYPE_STRING", [1])}
    assert tensors(served["colour"].output) == {
        "LABEL": ("TYPE_STRING", [1]),
        "PROBABILITIES": ("TYPE_FP32", [3]),
        "GAMMA": ("TYPE_INT32", [1]),
    }
    assert tensors(served["similarity"].input) == {"TEXT": ("TYPE_STRING", [2])}
    assert tensors(served["similarity"].output) == {
        "SCORE": ("TYPE_FP32", [1]),
        "LEVEL": ("TYPE_INT32", [1]),
        "GAMMA": ("TYPE_INT32", [1]),
        "FALLBACK": ("TYPE_BOOL", [1]),
    }


def test_every_version_folder_holds_a_file(tiny_repository: Path, plan: Plan) -> None:
    for name in parts(plan):
        assert (tiny_repository / name / "1" / "plan.json").is_file()


def test_nothing_names_the_machine_that_made_it(tiny_repository: Path, tiny_build: Path, tiny_project: Path) -> None:
    for path, content in files(tiny_repository).items():
        for folder in (tiny_repository.parent, tiny_build, tiny_project, Path.cwd()):
            assert str(folder).encode() not in content, f"{path} names {folder}"


def test_the_same_plan_gives_the_same_repository(tmp_path: Path, plan: Plan, tiny_build: Path) -> None:
    generate(plan, tiny_build, tmp_path / "one")
    generate(plan, tiny_build, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_failed_run_leaves_the_old_repository_whole(
    tmp_path: Path, plan: Plan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "repository"
    generate(plan, tiny_build, target)
    before = files(target)
    broken = replace(plan.executors["vit_executor"], artifact=Artifact("vit", "0" * 64))
    with pytest.raises(ConfigError, match="not the one that was profiled"):
        generate(replace(plan, executors={**plan.executors, "vit_executor": broken}), tiny_build, target)
    assert files(target) == before

    original: Callable[..., None] = Path.rename

    def failing(self: Path, to: Path) -> None:
        if to == target and "-old" not in self.name:
            raise error
        original(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    for error in (OSError("disk full"), KeyboardInterrupt("Ctrl-C"), SystemExit("SIGTERM")):
        with pytest.raises(type(error), match=str(error)):
            generate(plan, tiny_build, target)
    assert files(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path, plan: Plan, tiny_build: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="did not write"):
        generate(plan, tiny_build, tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_what_a_killed_run_left_is_removed_a_day_later(
    tmp_path: Path, plan: Plan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "repository"
    generate(plan, tiny_build, target)
    left = {".repository-ab1_2345", ".repository-ab1_2345-old"}
    others = {".repository-20240101", ".repository-of-mine", "repository-ab1_2345", ".other-ab1_2345"}
    for name in (*left, *others):
        (tmp_path / name).mkdir()
        if name != ".repository-20240101":
            (tmp_path / name / module.MARKER).touch()
    generate(plan, tiny_build, target)
    assert {path.name for path in tmp_path.iterdir()} == {"repository"} | left | others
    monkeypatch.setattr(module, "_STALE_S", -1.0)
    generate(plan, tiny_build, target)
    assert {path.name for path in tmp_path.iterdir()} == {"repository"} | others


@pytest.mark.parametrize("names", [True, False], ids=["marker", "marker of before, without names"])
def test_what_a_user_put_into_a_repository_is_not_deleted(
    tmp_path: Path, plan: Plan, tiny_build: Path, names: bool
) -> None:
    target = tmp_path / "repository"
    generate(plan, tiny_build, target)
    if not names:
        (target / module.MARKER).write_text("written by `elastriton generate`; replaced as a whole\n")
    generate(plan, tiny_build, target)
    (target / "my_own_model").mkdir()
    with pytest.raises(ConfigError, match="holds my_own_model, which elastriton did not write; move it or generate"):
        generate(plan, tiny_build, target)
    assert (target / "my_own_model").is_dir()


def test_a_copy_of_a_model_under_another_name_is_the_user_s(tmp_path: Path, plan: Plan, tiny_build: Path) -> None:
    target = tmp_path / "repository"
    generate(plan, tiny_build, target)
    shutil.copytree(target / "colour", target / "colour_before")
    with pytest.raises(ConfigError, match="holds colour_before, which"):
        generate(plan, tiny_build, target)


def test_a_missing_artifact_is_named(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(ConfigError, match="is missing; run `elastriton profile` again"):
        generate(plan, tmp_path, tmp_path / "repository")


def test_a_sound_repository_has_no_findings(tiny_repository: Path) -> None:
    assert check(tiny_repository) == []


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def replan(path: Path, kind: type[Any], **changes: Any) -> None:
    path.write_text(dumps(replace(load(kind, path), **changes)), encoding="utf-8")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


ONE = Cell(0, 17, 8, 1.0, 1.0, 1)
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "typo": (lambda r: edit(r / "colour/config.pbtxt", "max_batch_size", "max_batchsize"), "cannot be parsed"),
    "name": (lambda r: edit(r / "colour/config.pbtxt", 'name: "colour"', 'name: "color"'), "names the model 'color'"),
    "no batch": (lambda r: edit(r / "warm/config.pbtxt", "max_batch_size: 8", "max_batch_size: 0"), "at least 1"),
    "backend": (lambda r: edit(r / "vit_executor/config.pbtxt", '"elastic"', '"elastik"'), "'elastik' is unknown"),
    "no text": (lambda r: (r / "colour/config.pbtxt").write_bytes(b"\xff"), "colour: config.pbtxt cannot be parsed"),
    "plan is a folder": (
        lambda r: as_folder(r / "colour/1/plan.json"),
        "plan.json cannot be read: Is a directory",
    ),
    "no plan": (lambda r: (r / "intent/1/plan.json").unlink(), "does not exist"),
    "plan field": (lambda r: edit(r / "colour_decode/1/plan.json", '"task"', '"tusk"'), "did you mean 'task'"),
    "graph": (lambda r: (r / "vit_executor/1/vit/level_0.onnx").unlink(), "level 0 has no graph"),
    "weights": (lambda r: (r / "vit_executor/1/vit/weights.bin").write_bytes(b"x"), "not the one that was profiled"),
    "artifact": (lambda r: shutil.rmtree(r / "intent_cascade/1/intent_small0"), "intent_small0 is missing"),
    "escape": (
        lambda r: edit(r / "vit_executor/1/plan.json", '"vit"', '"../vit"'),
        "'../vit' points out of its folder",
    ),
    "executor": (lambda r: shutil.rmtree(r / "vit_executor"), "calls the executor 'vit_executor'"),
    "scheduler": (lambda r: shutil.rmtree(r / "bert_scheduler"), "needs the scheduler 'bert_scheduler'"),
    "step": (lambda r: shutil.rmtree(r / "warm_decode"), "step 'warm_decode' is not there"),
    "shape": (
        lambda r: edit(r / "colour_decode/config.pbtxt", "[32, 32, 3]", "[64, 32, 3]"),
        "output is {'PIXELS': ('TYPE_UINT8', [64, 32, 3])",
    ),
    "type": (lambda r: edit(r / "colour/config.pbtxt", "TYPE_INT32", "TYPE_INT64"), "'GAMMA': ('TYPE_INT64', [1])"),
    "executor batch": (
        lambda r: edit(r / "vit_executor/config.pbtxt", "max_batch_size: 8", "max_batch_size: 2"),
        "vit_executor: max_batch_size is 2 in config.pbtxt, but 8 by plan.json",
    ),
    "count": (lambda r: edit(r / "vit_executor/config.pbtxt", "count: 2", "count: 5"), "instance count is 5"),
    "classes": (lambda r: edit(r / "vit_executor/config.pbtxt", "dims: [3]", "dims: [7]"), "('TYPE_FP32', [7])"),
    "wiring": (
        lambda r: edit(r / "colour/config.pbtxt", 'model_name: "colour_decode"', 'model_name: "warm_decode"'),
        "colour: ensemble steps is [('warm_decode', ",
    ),
    "decoupled": (
        lambda r: edit(
            r / "vit_executor/config.pbtxt", "input {", "model_transaction_policy { decoupled: true } input {"
        ),
        "decoupled is True",
    ),
    "no latency": (
        lambda r: replan(r / "vit_scheduler/1/plan.json", SchedulerPlan, latency=()),
        "max_batch 8 is above 0, the largest that was profiled",
    ),
    "no time": (
        lambda r: replan(r / "vit_scheduler/1/plan.json", SchedulerPlan, latency=(replace(ONE, p50_ms=0.0),)),
        "has a batch that takes no time, or for ever: Cell(gamma=0",
    ),
    "few cells": (
        lambda r: replan(r / "vit_scheduler/1/plan.json", SchedulerPlan, latency=(ONE, replace(ONE, batch=9, gamma=4))),
        "the latency table lacks 2 of its cells",
    ),
    "task": (
        lambda r: edit(r / "bert_scheduler/1/plan.json", '"intent"', '"intend"'),
        "intent_cascade: needs the task 'intent', which bert_scheduler does not serve",
    ),
    "labels": (
        lambda r: replan(r / "intent/1/plan.json", PublicTask, labels=("a", "b")),
        "intent: has not the objective and the labels that bert_scheduler has for the task 'intent'",
    ),
    "too large": (lambda r: replan(r / "vit_scheduler/1/plan.json", SchedulerPlan, max_batch=16), "16 is above 8"),
    "public batch": (lambda r: replan(r / "colour/1/plan.json", PublicTask, max_batch=9), "max_batch 9 is above 8"),
    "nobody's": (lambda r: edit(r / "colour_decode/1/plan.json", '"colour"', '"color"'), "which no scheduler serves"),
    "pixels": (
        lambda r: edit(r / "colour_decode/1/plan.json", '"height": 32', '"height": 64'),
        "makes 64 x 32 pixels, but 32 x 32 are what vit_executor reads",
    ),
    "policy": (lambda r: edit(r / "vit_scheduler/1/plan.json", "joint", "magic"), "policy 'magic' is unknown"),
    "cache": (
        lambda r: edit(r / "colour/config.pbtxt", "max_batch_size", "response_cache { enable: true }\nmax_batch_size"),
        "response cache",
    ),
    "queue policy": (
        lambda r: edit(
            r / "intent_cascade/config.pbtxt", "dynamic_batching {", "dynamic_batching { priority_levels: 2"
        ),
        "queue policy",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(tmp_path: Path, tiny_repository: Path, what: str) -> None:
    damage, message = DAMAGE[what]
    copy = tmp_path / "repository"
    shutil.copytree(tiny_repository, copy)
    damage(copy)
    assert message in "\n".join(check(copy))


def test_what_a_user_may_choose_is_no_finding(tmp_path: Path, tiny_repository: Path) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(tiny_repository, copy)
    devices = "instance_group {\n  kind: KIND_GPU\n  gpus: [0, 1]\n"
    edit(copy / "vit_executor/config.pbtxt", "instance_group {\n  count: 2\n  kind: KIND_CPU\n", devices)
    with (copy / "vit_executor/config.pbtxt").open("a") as file:
        file.write(
            'version_policy { latest { num_versions: 1 } }\nparameters { key: "a" value { string_value: "b" } }\n'
        )
    assert check(copy) == []


def test_no_repository_at_all(tmp_path: Path) -> None:
    assert "not a folder" in check(tmp_path / "gone")[0]
    assert "holds no models" in check(tmp_path)[0]
    assert module.MARKER.startswith("."), "Triton must not take the marker for a model"


def test_a_repository_behind_a_link_is_replaced_there(tmp_path: Path, plan: Plan, tiny_build: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "repository").symlink_to(tmp_path / "disk")
    for _ in range(2):
        generate(plan, tiny_build, tmp_path / "repository")
    assert (tmp_path / "repository").is_symlink()
    assert not check(tmp_path / "disk")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "repository"]
