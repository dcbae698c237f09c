from __future__ import annotations

from itertools import pairwise

import pytest

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel, constant_level, flops, merged, merged_shares, text_flops, token_counts


def test_a_layer_merges_at_most_half_of_its_unprotected_tokens() -> None:
    for tokens in range(1, 40):
        for protected in range(3):
            for wanted in range(45):
                expected = max(0, min(wanted, (tokens - protected) // 2))
                assert merged(tokens, wanted, protected) == expected
    assert merged(17, 99) == 8
    assert merged(18, 99) == 8
    assert merged(1, 5) == 0
    assert merged(2, 5, protected=5) == 0


def test_token_counts_follow_the_schedule() -> None:
    assert token_counts(constant_level(-16, 12), 197, 12) == (*range(197, 20, -16), 11)
    assert token_counts(constant_level(0, 3), 17, 3) == (17, 17, 17, 17)
    assert token_counts(constant_level(4, 3), 17, 3) == (21, 21, 21, 21)
    assert token_counts(TokenLevel(-3, (0, 5, 1)), 17, 3) == (17, 17, 12, 11)


def test_token_counts_are_clipped_layer_by_layer_and_leave_the_protected() -> None:
    assert token_counts(constant_level(-8, 4), 17, 4) == (17, 9, 5, 3, 2)
    assert token_counts(constant_level(-8, 6), 21, 6, protected=5) == (21, 13, 9, 7, 6, 6, 6)


def test_layers_beyond_the_schedule_merge_nothing() -> None:
    assert token_counts(TokenLevel(-2, (2,)), 17, 3) == (17, 15, 15, 15)


@pytest.mark.parametrize(
    ("gamma", "merge", "prompts"),
    [
        (-2, (), 0),
        (-2, (0, 0), 0),
        (-2, (3, -1), 0),
        (-2, (2, 2), 1),
        (0, (1,), 0),
        (0, (), 1),
        (4, (), 0),
        (4, (1,), 4),
    ],
)
def test_a_schedule_that_contradicts_its_gamma_is_refused(gamma: int, merge: tuple[int, ...], prompts: int) -> None:
    with pytest.raises(ConfigError, match=f"level {gamma} "):
        TokenLevel(gamma, merge, prompts)


def test_constant_levels() -> None:
    assert constant_level(-4, 3) == TokenLevel(-4, (4, 4, 4))
    assert constant_level(0, 3) == TokenLevel(0)
    assert constant_level(4, 3) == TokenLevel(4, prompts=4)


def test_the_shares_of_a_text_follow_the_schedule_and_no_layer_merges_more_than_half() -> None:
    assert merged_shares(constant_level(-8, 5), 5) == (0, 8, 16, 24, 32, 40)
    assert merged_shares(constant_level(0, 3), 3) == (0, 0, 0, 0)
    assert merged_shares(TokenLevel(-3, (0, 30)), 3) == (0, 0, 30, 30)
    assert merged_shares(constant_level(-30, 5), 5) == (0, 30, 60, 80, 90, 95)
    for gamma in range(-99, 0):
        left = [100 - share for share in merged_shares(constant_level(gamma, 12), 12)]
        assert all(after <= before <= 2 * after for before, after in pairwise(left))


def test_flops_of_a_published_model_and_of_its_levels() -> None:
    shape = {"tokens": 197, "depth": 12, "width": 768, "patch": 16}
    plain = flops(TokenLevel(0), **shape)
    assert plain / 2e9 == pytest.approx(17.5 * 0.93, rel=0.01)  # ViT-B/16, less 7 % for CLS alone in the last block
    ratios = [flops(constant_level(gamma, 12), **shape) / plain for gamma in (-16, -8, 4)]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.55
    assert ratios[2] > 1.0


def test_flops_of_a_text_count_what_each_layer_has_left() -> None:
    """Three layers of width 8 and 24 tokens, counted by hand: qkv and output, attention, MLP; the last one for CLS."""

    def layer(enters: int, leaves: int) -> int:
        return 2 * (4 * enters * 8**2 + 2 * enters**2 * 8 + 8 * leaves * 8**2)

    def last(enters: int) -> int:
        return 2 * (2 * enters * 8**2 + 2 * 8**2 + 2 * enters * 8 + 8 * 8**2)

    assert text_flops(TokenLevel(0), 24, 3, 8) == 2 * layer(24, 24) + last(24)
    assert text_flops(TokenLevel(-30, (30, 20, 0)), 24, 3, 8) == layer(24, 18) + layer(18, 14) + last(14)
    assert text_flops(constant_level(-30, 3), 3, 3, 8) == text_flops(TokenLevel(0), 3, 3, 8)
