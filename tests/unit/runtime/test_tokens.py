from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tomesd
import torch
from torch import Tensor

from elastriton.core.levels import merged
from elastriton.runtime.tokens import (
    add_prompts,
    bipartite_soft_matching,
    masked_soft_matching,
    replace_prompts,
)

Groups = set[frozenset[int]]


def groups(rows: Tensor) -> Groups:
    """Which tokens stand together, from the merged rows of an identity matrix."""
    return {frozenset(np.flatnonzero(row).tolist()) for row in rows.numpy()}


def tomesd_groups(metric: Tensor, r: int, protected: int) -> list[Groups]:
    """ToMe's matching by tomesd, whose own parity rule fits after dropping or reversing tokens (same first author)."""
    batch, n, _ = metric.shape
    eye = torch.eye(n, dtype=metric.dtype).expand(batch, n, n)
    apart: Groups = set()
    if protected == 1 and n % 2:
        metric, eye, apart = metric[:, 1:], eye[:, 1:], {frozenset({0})}
    elif protected == 1:
        sign = torch.full((batch, n, 1), 3.0, dtype=metric.dtype)
        sign[:, 0] = -3.0
        metric, eye = torch.cat([metric / metric.norm(dim=-1, keepdim=True), sign], dim=-1).flip(1), eye.flip(1)
    else:
        metric, eye = metric.flip(1), eye.flip(1)
    matching = tomesd.merge.bipartite_soft_matching_random2d
    merge, _ = matching(metric, w=metric.shape[1], h=1, sx=2, sy=1, r=r, no_rand=True)
    return [groups(rows) | apart for rows in merge(eye)]


@pytest.mark.parametrize("protected", [0, 1])
def test_the_matching_is_tome_s_by_tomesd(protected: int) -> None:
    generator = torch.Generator().manual_seed(protected)
    sizes = [n for n in range(6, 48) if protected or n % 2 == 0]
    cases = [(n, r) for n in sizes for r in (1, 3, 8, 16) if r <= (n - protected) // 2]
    for n, r in cases:
        metric = torch.randn(6, n, 6, generator=generator, dtype=torch.float64)
        merge = bipartite_soft_matching(metric, r, protected)
        ours = [groups(rows) for rows in merge(torch.eye(n, dtype=torch.float64).expand(6, n, n))]
        assert ours == tomesd_groups(metric, r, protected), (n, r)
    assert len(cases) * 6 > 300


def slow_merge(metric: Tensor, x: Tensor, r: int, protected: int) -> Tensor:
    """One sample at a time, one token at a time, in the documented order."""
    rows = []
    for keys, tokens in zip(metric.double().numpy(), x.double().numpy(), strict=True):
        unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
        sources = [i for i in range(protected, len(keys)) if i % 2 == 0]
        targets = [i for i in range(protected, len(keys)) if i % 2 == 1]
        best = {i: max(targets, key=lambda j, i=i: unit[i] @ unit[j]) for i in sources}  # type: ignore[misc]
        merging = sorted(sources, key=lambda i: -(unit[i] @ unit[best[i]]))[:r]
        summed = {i: tokens[i].copy() for i in range(len(keys)) if i not in merging}
        for i in merging:
            summed[best[i]] += tokens[i]
        order = [*range(protected), *(i for i in sources if i not in merging), *targets]
        rows.append(np.stack([summed[i] for i in order]))
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("protected", [0, 1, 2, 5])
def test_merging_equals_a_slow_reference_in_values_and_order(protected: int) -> None:
    generator = torch.Generator().manual_seed(protected)
    for n in range(protected + 2, protected + 26):
        r = int(torch.randint(1, 1 + merged(n, n, protected), (), generator=generator))
        metric = torch.randn(3, n, 5, generator=generator, dtype=torch.float64)
        x = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
        out = bipartite_soft_matching(metric, r, protected)(x)
        torch.testing.assert_close(out, slow_merge(metric, x, r, protected), rtol=0, atol=1e-12)


def test_the_matching_ignores_the_length_of_the_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    metric, x = torch.randn(2, 17, 5, generator=generator), torch.randn(2, 17, 4, generator=generator)
    stretched = metric * (0.1 + 9 * torch.rand(2, 17, 1, generator=generator))
    torch.testing.assert_close(bipartite_soft_matching(stretched, 6)(x), bipartite_soft_matching(metric, 6)(x))


@pytest.mark.parametrize("protected", [1, 2, 5])
@pytest.mark.parametrize("n", [16, 17])
def test_protected_tokens_stay_first_and_untouched_whatever_they_look_like(n: int, protected: int) -> None:
    metric = torch.ones(2, n, 3)
    x = torch.randn(2, n, 4, generator=torch.Generator().manual_seed(0))
    out = bipartite_soft_matching(metric, 99, protected)(x)
    torch.testing.assert_close(out[:, :protected], x[:, :protected], rtol=0, atol=0)
    torch.testing.assert_close(out.sum(dim=1), x.sum(dim=1))


@pytest.mark.parametrize("protected", [0, 1, 5])
def test_r_is_clipped_to_half_of_the_unprotected_tokens(protected: int) -> None:
    for n in range(1, 20):
        for r in (0, 1, 3, 99):
            metric = torch.randn(1, n, 3, generator=torch.Generator().manual_seed(n))
            assert bipartite_soft_matching(metric, r, protected)(metric).shape[1] == n - merged(n, r, protected)


def test_merging_nothing_changes_nothing() -> None:
    x = torch.randn(2, 9, 4)
    assert bipartite_soft_matching(x, 0)(x) is x


def test_several_sources_may_merge_into_one_target() -> None:
    metric = torch.tensor([[[0.0, 1], [1, 0], [1, 0.1], [-1, 0], [1, 0.2], [0, -1], [1, 0.3]]])
    out = bipartite_soft_matching(metric, 3)(torch.arange(7.0).reshape(1, 7, 1))
    assert out.flatten().tolist() == [0, 1 + 2 + 4 + 6, 3, 5]


@pytest.mark.parametrize("protected", [0, 1, 5])
def test_weighted_merging_conserves_mass_and_is_a_mean(protected: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 21, 6, generator=generator, dtype=torch.float64)
    size = 1 + torch.rand(3, 21, 1, generator=generator, dtype=torch.float64)
    merge = bipartite_soft_matching(x, 7, protected)
    out, total = merge.weighted(x, size)
    assert out.shape == (3, 14, 6)
    torch.testing.assert_close((out * total).sum(dim=1), (x * size).sum(dim=1))
    torch.testing.assert_close(total.sum(dim=1), size.sum(dim=1))
    ones, _ = merge.weighted(torch.ones_like(x), size)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    torch.testing.assert_close(out, merge(x * size) / merge(size))


@pytest.mark.parametrize("protected", [0, 1, 5])
def test_merged_tokens_are_as_long_as_the_longest_of_their_parts(protected: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 21, 6, generator=generator, dtype=torch.float64)
    size = 1 + torch.rand(3, 21, 1, generator=generator, dtype=torch.float64)
    merge = bipartite_soft_matching(torch.randn(3, 21, 4, generator=generator, dtype=torch.float64), 7, protected)
    mean, total = merge.weighted(x, size)
    out, same_total = merge.weighted(x, size, keep_norm=True)
    torch.testing.assert_close(same_total, total)
    torch.testing.assert_close(torch.cosine_similarity(out, mean, dim=-1), torch.ones(3, 14, dtype=torch.float64))
    members = merge(torch.eye(21, dtype=torch.float64).expand(3, 21, 21)) > 0
    for lengths, rows, parts in zip(out.norm(dim=-1), members, x.norm(dim=-1), strict=True):
        for length, row in zip(lengths, rows, strict=True):
            torch.testing.assert_close(length, parts[row].max())
    alone = members.sum(dim=-1) == 1
    torch.testing.assert_close(out[alone], mean[alone])


def test_long_tokens_that_stand_for_many_do_not_overflow_float16() -> None:
    generator = torch.Generator().manual_seed(0)
    x, size = 900 + torch.rand(2, 17, 8, generator=generator), torch.full((2, 17, 1), 200.0)
    merge = bipartite_soft_matching(torch.randn(2, 17, 4, generator=generator), 8)
    half = replace(merge, into=merge.into.half())
    expected, sizes = merge.weighted(x, size)
    mean, total = half.weighted(x.half(), size.half())
    assert torch.equal(total.float(), sizes)
    torch.testing.assert_close(mean.float(), expected, rtol=2**-10, atol=0)


def test_parts_that_cancel_give_no_infinite_token() -> None:
    x = torch.tensor([[[0.0], [1.0], [-1.0]]])
    merge = bipartite_soft_matching(torch.ones(1, 3, 2), 1)
    out, _ = merge.weighted(x, torch.ones(1, 3, 1), keep_norm=True)
    assert torch.isfinite(out).all()


def test_prompts_stand_behind_the_prefix_and_are_replaced_there() -> None:
    x = torch.arange(5.0).reshape(1, 5, 1)
    first, second = torch.tensor([[[10.0], [11.0]]]), torch.tensor([[[20.0], [21.0]]])
    added = add_prompts(x, first, prefix=2)
    assert added.flatten().tolist() == [0, 1, 10, 11, 2, 3, 4]
    assert replace_prompts(added, second, prefix=2).flatten().tolist() == [0, 1, 20, 21, 2, 3, 4]


def slow_masked_merge(metric: Tensor, x: Tensor, real: Tensor, mergeable: Tensor, r: int, slots: int) -> Tensor:
    """One text, one token at a time, in the documented order."""
    unit = (metric / metric.norm(dim=-1, keepdim=True)).numpy()
    free = [i for i in range(len(x)) if mergeable[i]]
    targets, sources = free[::2], free[1::2]
    best = {i: max(targets, key=lambda j, i=i: unit[i] @ unit[j]) for i in sources}  # type: ignore[misc]
    merging = sorted(sources, key=lambda i: -(unit[i] @ unit[best[i]]))[:r]
    order = [i for i in range(len(x)) if real[i] and not mergeable[i]]
    order += [i for i in sources if i not in merging] + targets
    rows = [x[i] + sum((x[j] for j in merging if best[j] == i), torch.zeros_like(x[i])) for i in order]
    return torch.stack(rows + [torch.zeros_like(x[0])] * (slots - len(rows)))


def test_masked_matching_equals_a_slow_reference_on_random_texts() -> None:
    generator = torch.Generator().manual_seed(0)
    cases = 0
    for n in range(2, 42):
        lengths = torch.randint(2, n + 1, (10,), generator=generator)
        lengths[0] = n
        real = torch.arange(n) < lengths[:, None]
        mergeable = real & (torch.rand(10, n, generator=generator) < 0.8) & (torch.arange(n) > 0)
        r = (torch.rand(10, generator=generator) * (1 + mergeable.sum(dim=-1) // 2)).to(torch.int64)
        slots = int((lengths - r).max())
        metric = torch.randn(10, n, 5, generator=generator, dtype=torch.float64)
        x = torch.randn(10, n, 4, generator=generator, dtype=torch.float64)
        out = masked_soft_matching(metric, real, mergeable, r, slots)(x)
        assert out.shape == (10, slots, 4)
        for row in range(10):
            arguments = (metric[row], x[row], real[row], mergeable[row], int(r[row]), slots)
            torch.testing.assert_close(out[row], slow_masked_merge(*arguments), rtol=0, atol=1e-12)
            cases += 1
    assert cases == 400


@pytest.mark.parametrize("protected", [1, 5])
def test_masked_matching_without_padding_is_the_matching_of_images(protected: int) -> None:
    generator = torch.Generator().manual_seed(protected)
    for n in range(protected + 2, 60):
        metric = torch.randn(4, n, 6, generator=generator, dtype=torch.float64)
        x = torch.randn(4, n, 3, generator=generator, dtype=torch.float64)
        wanted = int(torch.randint(1, n, (), generator=generator))
        r = merged(n, wanted, protected)
        real = torch.ones(4, n, dtype=torch.bool)
        mergeable = real & (torch.arange(n) >= protected)
        ours = masked_soft_matching(metric, real, mergeable, torch.full((4,), r), n - r)(x)
        torch.testing.assert_close(ours, bipartite_soft_matching(metric, r, protected)(x), rtol=0, atol=1e-12)


def test_an_empty_slot_has_no_size_and_stays_zero() -> None:
    real = torch.tensor([[True, True, True, True, True], [True, True, False, False, False]])
    mergeable = real & (torch.arange(5) > 0)
    size = real.to(torch.float32)[:, :, None]
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    out, total = masked_soft_matching(x, real, mergeable, torch.tensor([2, 0]), 3).weighted(x, size)
    assert total[:, :, 0].sum(dim=1).tolist() == [5, 2]
    assert total[1, :, 0].tolist() == [1, 1, 0]
    torch.testing.assert_close(out[1], torch.cat([x[1, :2], torch.zeros(1, 3)]))


@pytest.mark.parametrize("protected", [0, 1, 5])
def test_sizes_through_several_merges_equal_a_slow_float64_count(protected: int) -> None:
    """What each token stands for after three merges, as lists of the first tokens; 40 x 3 samples a case."""
    generator = torch.Generator().manual_seed(protected)
    for n in range(protected + 8, protected + 48):
        x = torch.randn(3, n, 5, generator=generator, dtype=torch.float64)
        first, size = x, torch.ones(3, n, 1, dtype=torch.float64)
        members = [[[i] for i in range(n)] for _ in range(3)]
        for r in torch.randint(1, 9, (3,), generator=generator).tolist():
            merge = bipartite_soft_matching(x, r, protected)
            joined = merge(torch.eye(x.shape[1], dtype=torch.float64).expand(3, -1, -1))
            members = [
                [[one for i in np.flatnonzero(row) for one in old[i]] for row in rows.numpy()]
                for old, rows in zip(members, joined, strict=True)
            ]
            x, size = merge.weighted(x, size)
        for row in range(3):
            assert size[row, :, 0].tolist() == [len(group) for group in members[row]]
            means = torch.stack([torch.stack([first[row, i] for i in group]).mean(dim=0) for group in members[row]])
            torch.testing.assert_close(x[row], means, rtol=0, atol=1e-12)
