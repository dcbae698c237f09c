from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elastriton.core.errors import ConfigError, InvalidInput
from elastriton.runtime.heads import Floats, TaskHead, load_head, save_head


def normal(*shape: int) -> Floats:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def test_a_head_survives_the_round_trip(tmp_path: Path) -> None:
    for prompts in (None, normal(3, 5, 8)):
        save_head(tmp_path, TaskHead("t", normal(2, 8), normal(2), prompts))
        head = load_head(tmp_path, "t")
        assert head.task == "t"
        np.testing.assert_array_equal(head.weight, normal(2, 8))
        np.testing.assert_array_equal(head.bias, normal(2))
        assert (head.prompts is None) == (prompts is None)
        if prompts is not None and head.prompts is not None:
            np.testing.assert_array_equal(head.prompts, prompts)


def test_a_transposed_weight_is_saved_as_it_reads(tmp_path: Path) -> None:
    save_head(tmp_path, TaskHead("t", normal(8, 2).T, normal(2)))
    np.testing.assert_array_equal(load_head(tmp_path, "t").weight, normal(8, 2).T)


def test_any_prefix_of_the_prompts_works_and_no_more() -> None:
    head = TaskHead("t", normal(2, 8), normal(2), normal(3, 5, 8))
    assert head.prompt_count() == 5
    assert [head.has_prompts(count) for count in (0, 5, 6)] == [True, True, False]
    np.testing.assert_array_equal(head.prompts_for(2), normal(3, 5, 8)[:, :2])
    with pytest.raises(InvalidInput, match="task 't' has too few trained prompts for level 6"):
        head.prompts_for(6)


def test_a_head_without_prompts_runs_unprompted_levels_only() -> None:
    head = TaskHead("t", normal(2, 8), normal(2))
    assert head.prompt_count() == 0
    assert [head.has_prompts(count) for count in (0, 1)] == [True, False]
    with pytest.raises(InvalidInput, match="too few trained prompts"):
        head.prompts_for(1)


@pytest.mark.parametrize(
    "head",
    [
        TaskHead("t", normal(2, 8), normal(3)),
        TaskHead("t", normal(8), normal(8)),
        TaskHead("t", normal(2, 8), normal(2, 1)),
        TaskHead("t", normal(2, 8), normal(2), normal(5, 8)),
        TaskHead("t", normal(2, 8), normal(2), normal(3, 5, 7)),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(tmp_path: Path, head: TaskHead) -> None:
    save_head(tmp_path, head)
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_head(tmp_path, "t")
