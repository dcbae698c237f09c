from __future__ import annotations

from elastriton.core.stuck import Pool


def test_a_pool_is_stuck_once_all_of_its_batches_last_far_too_long() -> None:
    pool = Pool(2)
    pool.began(0, 10.0, 10.1)
    assert pool.stuck(1000.0) is None, "the other one is idle"
    pool.began(1, 12.0, 12.1)
    assert pool.stuck(17.0) is None
    assert "no executor has answered for 6 s" in str(pool.stuck(18.0))


def test_one_that_comes_back_is_enough() -> None:
    pool = Pool(2)
    for executor in range(2):
        pool.began(executor, 0.0, 0.1)
    assert pool.stuck(6.0)
    pool.ended(1)
    assert pool.stuck(6.0) is None
    pool.began(1, 6.0, 6.1)
    assert pool.stuck(11.0) is None
    assert pool.stuck(11.5)


def test_a_batch_that_is_to_take_long_has_its_time() -> None:
    pool = Pool(1)
    pool.began(0, 100.0, 101.0)
    assert pool.stuck(120.0) is None
    assert pool.stuck(120.5)


def test_idle_executors_are_not_stuck() -> None:
    assert Pool(1).stuck(1e9) is None
