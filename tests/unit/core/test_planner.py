from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from elastriton.core.audit import AuditPlan
from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell
from elastriton.core.levels import constant_level
from elastriton.core.planner import Goals, TaskGoal, decoders, fastest_ms, make_plan, useful_gammas
from elastriton.core.profile import (
    Accuracy,
    Artifact,
    CascadeProfile,
    EncoderProfile,
    Machine,
    Profile,
    SmallProfile,
    TaskProfile,
    TextSpec,
    load_profile,
)
from elastriton.core.promise import CascadeChoice
from elastriton.core.pruning import Pruning

NOWHERE = Artifact("x", "0")


def encoder(ms: dict[int, tuple[float, float]]) -> EncoderProfile:
    """An encoder whose level gamma takes `ms[gamma]` for batches of 1 and 8."""
    cells = [
        Cell(gamma, 17, batch, p50, 2.0 * p50, 1)
        for gamma, pair in ms.items()
        for batch, p50 in zip((1, 8), pair, strict=True)
    ]
    levels = tuple(constant_level(gamma, 3) for gamma in ms)
    return EncoderProfile("vision", "onnxruntime", "m", 17, 3, 24, NOWHERE, levels, tuple(cells))


def task(**right: int) -> TaskProfile:
    """A task with `right[level]` of 100 right; `m4` is level -4 and `p4` is level 4."""
    accuracy = tuple(Accuracy.of(int(name[1:]) * (-1 if name[0] == "m" else 1), n, 100) for name, n in right.items())
    return TaskProfile("e", "classification", ("a", "b"), NOWHERE, 1, 1.0, 10, accuracy)


def test_a_level_that_another_beats_in_speed_and_accuracy_goes() -> None:
    kept, dropped = useful_gammas(encoder({-4: (5, 20), -2: (6, 30), 0: (9, 50)}), [task(m4=80, m2=79, p0=90)])
    assert kept == {-4, 0}
    assert dropped == {-2: "level -4 is as fast and as accurate"}


def test_a_level_that_is_better_in_one_respect_stays() -> None:
    slower_alone_but_faster_in_batches = {-4: (7.0, 20.0), -2: (6.0, 30.0), 0: (9.0, 50.0)}
    assert useful_gammas(encoder(slower_alone_but_faster_in_batches), [task(m4=80, m2=80, p0=90)])[1] == {}
    tasks = [task(m4=80, m2=79, p0=90), task(m4=70, m2=71, p0=90)]
    assert useful_gammas(encoder({-4: (5, 20), -2: (6, 30), 0: (9, 50)}), tasks)[1] == {}


def test_the_plain_level_stays_even_where_it_is_beaten() -> None:
    kept, _ = useful_gammas(encoder({-4: (5, 20), 0: (9, 50)}), [task(m4=95, p0=90)])
    assert kept == {-4, 0}


def test_of_equal_levels_one_stays() -> None:
    kept, dropped = useful_gammas(encoder({-4: (5, 20), -2: (5, 20), 0: (9, 50)}), [task(m4=80, m2=80, p0=90)])
    assert len(kept & {-4, -2}) == 1
    assert len(dropped) == 1


def test_a_level_that_is_slower_and_no_better_than_plain_goes() -> None:
    kept, _ = useful_gammas(encoder({0: (9, 50), 4: (10, 60)}), [task(p0=90, p4=90)])
    assert kept == {0}


def test_a_level_whose_p99_alone_is_no_better_stays() -> None:
    whole = encoder({-4: (5, 20), 0: (9, 50)})
    noisy = tuple(replace(cell, p99_ms=200.0) if cell.gamma == -4 else cell for cell in whole.latency)
    assert useful_gammas(replace(whole, latency=noisy), [task(m4=80, p0=90)])[1] == {}


def test_a_level_that_only_one_task_has_stays_for_it() -> None:
    kept, _ = useful_gammas(encoder({0: (9, 50), 4: (10, 60)}), [task(p0=90), task(p0=80, p4=81)])
    assert kept == {0, 4}


def test_a_level_that_no_task_was_measured_at_goes() -> None:
    kept, dropped = useful_gammas(encoder({-4: (5, 20), 0: (9, 50)}), [task(p0=90), task()])
    assert kept == {0}
    assert dropped == {-4: "no task has an accuracy for it"}
    assert useful_gammas(encoder({-4: (5, 20), 0: (9, 50)}), [task()])[0] == {0}


@pytest.mark.parametrize(
    ("decode_ms", "instances", "cores", "expected"),
    [
        (None, 1, 8, 1),  # nothing was measured
        (0.4, 1, 8, 1),  # 8 samples in 4 ms are 2,000 per s, of which a decoder makes 2,500
        (0.6, 1, 8, 2),
        (0.6, 2, 8, 3),  # a pool of two
        (5.0, 1, 8, 8),  # ten would keep up
        (5.0, 1, 16, 10),
    ],
)
def test_as_many_decoders_as_keep_up_with_the_fastest_level(
    decode_ms: float | None, instances: int, cores: int, expected: int
) -> None:
    served = replace(encoder({-4: (1, 4), 0: (1, 8)}), instances=instances)
    assert decoders(replace(task(p0=90, m4=80), decode_ms=decode_ms), served, cores) == expected


def test_levels_that_a_task_cannot_run_at_say_nothing_of_its_time() -> None:
    served = encoder({-4: (1, 4), 0: (3, 8)})
    both, plain = replace(task(p0=90, m4=80), decode_ms=2.0), replace(task(), decode_ms=2.0)
    assert (fastest_ms(both, served), fastest_ms(plain, served)) == (1.0, 3.0)
    assert (decoders(both, served, cores=8), decoders(plain, served, cores=8)) == (4, 2)


@pytest.fixture(scope="module")
def profile(tiny_build: Path) -> Profile:
    return load_profile(tiny_build / "profile.json")


def goals(profile: Profile, **one: TaskGoal) -> Goals:
    return Goals({**{name: TaskGoal(slo_ms=100.0) for name in profile.tasks}, **one}, overhead_ms=2.0, max_queue=7)


@pytest.mark.parametrize(("task", "decode_ms"), [("colour", 7.0), ("warm", 0.0), ("intent", 0.0)])
def test_a_deadline_that_nothing_can_meet_is_refused(profile: Profile, task: str, decode_ms: float) -> None:
    measured = profile.tasks[task]
    whole = replace(profile, tasks={**profile.tasks, task: replace(measured, decode_ms=decode_ms or None)})
    least_ms = 2.0 + decode_ms + fastest_ms(measured, profile.encoders[measured.encoder])
    make_plan(whole, "", goals(profile, **{task: TaskGoal(least_ms + 0.001)}))
    words = rf"task {task} has slo_ms 1\.5, but .* take {least_ms:.3g} ms; raise slo_ms, or profile on a faster machine"
    with pytest.raises(ConfigError, match=words):
        make_plan(whole, "", goals(profile, **{task: TaskGoal(1.5)}))


def test_a_small_model_may_meet_a_deadline_that_its_encoder_cannot(profile: Profile) -> None:
    make_plan(profile, "", goals(profile, intent=TaskGoal(1.5)), {"intent": CascadeChoice("given", ((0, 0.0),))})


def test_the_plan_lays_out_executors_schedulers_decoders_and_cascades(profile: Profile) -> None:
    plan = make_plan(profile, "digest", goals(profile, intent=TaskGoal(50.0, utility=3.0), warm=TaskGoal(70.0)))
    assert plan.executors.keys() == {"vit_executor", "bert_executor", "rater_executor"}
    assert plan.schedulers.keys() == {"vit_scheduler", "bert_scheduler", "rater_scheduler"}
    assert plan.decoders.keys() == {"colour_decode", "warm_decode"}
    assert plan.cascades.keys() == {"intent_cascade", "similarity_cascade"}
    assert {name: public.entry for name, public in plan.tasks.items()} == {
        "colour": "colour_decode",
        "warm": "warm_decode",
        "intent": "intent_cascade",
        "similarity": "similarity_cascade",
    }
    assert plan.executors["vit_executor"].heads.keys() == {"colour", "warm"}
    assert {name: decoder.instances for name, decoder in plan.decoders.items()} == {
        "colour_decode": decoders(profile.tasks["colour"], profile.encoders["vit"], profile.machine.cores),
        "warm_decode": 1,
    }
    assert {name: decoder.slo_ms for name, decoder in plan.decoders.items()} == {
        "colour_decode": 100.0,
        "warm_decode": 70.0,
    }
    warm_ms = 2.0 + fastest_ms(profile.tasks["warm"], profile.encoders["vit"])
    assert plan.decoders["warm_decode"].needed_ms == pytest.approx(warm_ms, abs=1e-3)
    more_ms = plan.decoders["colour_decode"].needed_ms - plan.decoders["warm_decode"].needed_ms
    assert more_ms == pytest.approx(profile.tasks["colour"].decode_ms, abs=2e-3)
    assert plan.executors["vit_executor"].classes == 3
    assert plan.executors["rater_executor"].classes == 1
    bert = plan.schedulers["bert_scheduler"]
    assert (bert.executor, bert.max_queue, bert.overhead_ms, bert.max_batch) == ("bert_executor", 7, 2.0, 8)
    assert (bert.tasks["intent"].slo_ms, bert.tasks["intent"].utility) == (50.0, 3.0)
    assert bert.text == TextSpec(16, vocabulary=17, segments=2)
    assert plan.profile_sha256 == "digest"


def test_only_kept_levels_are_planned_and_every_dropped_one_is_noted(profile: Profile) -> None:
    plan = make_plan(profile, "", goals(profile))
    vit = profile.encoders["vit"]
    kept, dropped = useful_gammas(vit, [profile.tasks["colour"], profile.tasks["warm"]])
    assert {level.gamma for level in plan.executors["vit_executor"].levels} == kept
    scheduler = plan.schedulers["vit_scheduler"]
    assert {cell.gamma for cell in scheduler.latency} == kept
    assert {point.gamma for point in scheduler.tasks["colour"].accuracy} == kept
    assert plan.notes == (
        *(f"vit: level {gamma} is dropped: {reason}" for gamma, reason in dropped.items()),
        "warm: level 0 alone: it has no labelled data to measure the others on",
    )


def test_a_task_without_measurements_runs_at_the_plain_level(profile: Profile) -> None:
    plan = make_plan(profile, "", goals(profile))
    outlook = plan.schedulers["vit_scheduler"].outlook()
    assert outlook.accuracy["warm"] == {0: 1.0}
    assert plan.schedulers["vit_scheduler"].outlook().overhead_ms == 2.0


def test_why_a_regression_has_no_levels_is_noted(profile: Profile) -> None:
    rater, levels = profile.encoders["rater"], profile.encoders["vit"].levels
    cells = tuple(replace(cell, gamma=level.gamma) for level in levels for cell in rater.latency)
    elastic = replace(profile, encoders={**profile.encoders, "rater": replace(rater, levels=levels, latency=cells)})
    notes = make_plan(elastic, "", goals(elastic)).notes
    assert "similarity: level 0 alone: what the others cost is measured for classifications only" in notes


def test_a_chosen_cascade_is_laid_out_and_noted(profile: Profile) -> None:
    pruning, audit = Pruning(scale=0.5), AuditPlan(0.1, 0.05, 0.01, fall_back=True)
    choice = CascadeChoice("why", ((0, 0.7),), score="margin", small_weight=0.2, pruning=pruning, audit=audit)
    plan = make_plan(profile, "", goals(profile, intent=TaskGoal(50.0)), {"intent": choice})
    cascade = plan.cascades["intent_cascade"]
    (small,) = cascade.small
    measured = profile.tasks["intent"].cascade
    assert measured is not None
    assert (small.threshold, small.artifact) == (0.7, measured.small[0].artifact)
    assert (small.temperature, small.power) == (measured.small[0].temperature, measured.small[0].power)
    assert small.max_batch == max(cell.batch for cell in measured.small[0].latency)
    assert (cascade.score, cascade.small_weight, cascade.pruning, cascade.audit) == ("margin", 0.2, pruning, audit)
    assert plan.notes[-1] == "intent: why"


def test_without_a_choice_the_large_model_answers_alone(profile: Profile) -> None:
    plan = make_plan(profile, "", goals(profile))
    assert plan.cascades["intent_cascade"].small == plan.cascades["similarity_cascade"].small == ()


def test_a_choice_for_a_task_without_small_models_is_refused(profile: Profile) -> None:
    plain = replace(profile.tasks["intent"], cascade=None)
    with pytest.raises(ConfigError, match="profile again"):
        make_plan(
            replace(profile, tasks={**profile.tasks, "intent": plain}),
            "",
            goals(profile),
            {"intent": CascadeChoice("", ((0, 0.7),))},
        )


def test_a_vision_task_with_small_models_is_a_cascade_without_a_decoder(profile: Profile) -> None:
    image = profile.encoders["vit"].image
    small = SmallProfile(NOWHERE, "m", (Cell(0, 1, 1, 1.0, 1.0, 1), Cell(0, 1, 16, 1.0, 1.0, 1)), 1.5, 2.0, None, 0.1)
    cascade = CascadeProfile((replace(small, image=image),), (), NOWHERE)
    tasks = {**profile.tasks, "colour": replace(profile.tasks["colour"], cascade=cascade)}
    choice = CascadeChoice("", ((0, 0.9),))
    plan = make_plan(replace(profile, tasks=tasks), "", goals(profile), {"colour": choice})
    assert plan.decoders.keys() == {"warm_decode"}
    assert (plan.tasks["colour"].entry, plan.tasks["colour"].cascade) == ("colour_cascade", True)
    served = plan.cascades["colour_cascade"]
    assert (served.kind, served.image, served.tokenizer) == ("vision", image, None)
    assert (served.small[0].image, served.small[0].max_batch) == (image, 16)


def test_an_unknown_policy_is_refused(profile: Profile) -> None:
    with pytest.raises(ConfigError, match=r"policy 'magic' is unknown; choose one of .*largest-batch"):
        make_plan(profile, "", replace(goals(profile), policy="magic"))


def test_tasks_that_only_profile_or_goals_have_are_named(profile: Profile) -> None:
    with pytest.raises(ConfigError, match=r"differ in the task\(s\) extra; profile again"):
        make_plan(profile, "", goals(profile, extra=TaskGoal(1.0)))
    with pytest.raises(ConfigError, match=r"differ in the task\(s\) colour, intent, similarity, warm"):
        make_plan(profile, "", Goals({}))


def test_a_task_on_an_encoder_that_the_profile_lacks_is_refused(profile: Profile) -> None:
    lost = replace(profile.tasks["warm"], encoder="lost")
    with pytest.raises(ConfigError, match="task warm names the encoder 'lost'"):
        make_plan(replace(profile, tasks={**profile.tasks, "warm": lost}), "", goals(profile))


def test_the_executor_is_told_the_precision_and_the_lengths_that_were_measured() -> None:
    images = replace(encoder({0: (9, 50)}), runtime="torch", precision="bf16")
    cells = tuple(replace(cell, length=length) for length in (32, 16) for cell in images.latency)
    profile = Profile(1, "", 0, Machine("", 1, 1.0, None, "", {}), {"e": images}, {"t": task(p0=90)}, {})
    texts = replace(images, kind="text", latency=cells, text=TextSpec(32), tokenizer=NOWHERE)
    for one, lengths in ((images, ()), (texts, (16, 32))):
        plan = make_plan(replace(profile, encoders={"e": one}), "", Goals({"t": TaskGoal(100.0)}))
        assert plan.executors["e_executor"].precision == "bf16"
        assert plan.executors["e_executor"].lengths == lengths
