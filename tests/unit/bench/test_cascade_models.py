from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cascade_data import TASKS, Item, Task, load_task, read_items, split, write_table
from cascade_figures import figures

from elastriton.core.errors import ConfigError
from elastriton.generator.data import read_data

MRPC = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t11\t12\tHe said " no .\tHe " declined " .\n'
    '0\t21\t22\t" Yes , "\tL\u2019\u00e9t\u00e9 "\n'
)


def items_of(path: Path) -> list[Item]:
    data = read_data(path)
    return list(zip(data.texts, data.labels, strict=True))


def test_a_glue_table_has_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text(MRPC, encoding="utf-8")
    assert read_items(tmp_path / "dev.tsv", TASKS["mrpc"]) == [
        (('He said " no .', 'He " declined " .'), "paraphrase"),
        (('" Yes , "', 'L\u2019\u00e9t\u00e9 "'), "different"),
    ]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("\ufeffIt rolled.\t1\n", encoding="utf-8")
    assert read_items(tmp_path / "dev.tsv", Task((0,), 1, 0, 1, header=False)) == [(("It rolled.",), "1")]


def test_a_table_without_a_header_keeps_its_first_row(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("gj04\t1\t\tIt rolled.\ncj99\t0\t*\tRolled it it.\n", encoding="utf-8")
    assert read_items(tmp_path / "dev.tsv", TASKS["cola"]) == [
        (("It rolled.",), "acceptable"),
        (("Rolled it it.",), "unacceptable"),
    ]


def test_a_csv_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,category\n"\nMy ""card"", lost?",card_lost\n', encoding="utf-8")
    assert read_items(tmp_path / "train.csv", TASKS["banking77"]) == [(('My "card", lost?',), "card_lost")]


@pytest.mark.parametrize(
    "text",
    [
        '"',
        'a "quoted" word',
        '" open',
        "a\ttab",
        "two\nlines",
        "two\r\nlines",
        "a\rreturn",
        "L\u2019\u00e9t\u00e9 \u2028",
        "#",
        "'",
    ],
)
def test_a_text_reads_back_as_it_was_written(tmp_path: Path, text: str) -> None:
    single, pairs = [((text,), "yes"), (("plain",), "no")], [(("plain", text), "3.800"), ((text, "plain"), "0.000")]
    write_table(tmp_path / "data/single.csv", single)
    write_table(tmp_path / "data/pairs.csv", pairs)
    assert items_of(tmp_path / "data/single.csv") == single
    assert items_of(tmp_path / "data/pairs.csv") == pairs
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["pairs.csv", "single.csv"]


def test_what_does_not_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row 2 has not as many fields"):
        write_table(tmp_path / "ragged.csv", [(("one",), "yes"), (("one", "two"), "yes")])
    assert not (tmp_path / "ragged.csv").exists()


def test_the_pool_is_dev_and_a_part_of_train_without_duplicates() -> None:
    train: list[Item] = [((f"train {i}",), "x") for i in range(20)]
    train += [(("Train  3",), "y"), (("DEV 1",), "y")]  # the same words as others
    dev: list[Item] = [((f"dev {i}",), "x") for i in range(10)]
    kept, pool = split(train, dev, 5, seed=0)
    assert len(kept) == 15
    assert len(pool) == 15
    assert set(pool) >= set(dev)
    assert sorted(kept + pool) == sorted(train[:20] + dev)
    assert [item in dev for item in pool] != sorted((item in dev for item in pool), reverse=True)  # shuffled together


def test_pairs_differ_where_either_text_does() -> None:
    items: list[Item] = [(("a", "b"), "x"), (("a", "c"), "x"), (("b", "a"), "x"), (("A", "b "), "y")]
    kept, pool = split(items, [], 0, seed=0)
    assert (sorted(kept), pool) == (sorted(items[:3]), [])


def test_the_seed_draws_the_pool() -> None:
    train: list[Item] = [((f"train {i}",), "x") for i in range(20)]
    assert split(train, [], 5, seed=1) == split(train, [], 5, seed=1)
    assert split(train, [], 5, seed=1) != split(train, [], 5, seed=2)


def test_a_task_with_one_file_splits_it(tmp_path: Path) -> None:
    (tmp_path / "qnli").mkdir()
    rows = "".join(f"{i}\tWho is {i}?\tHe is {i}.\tentailment\n" for i in range(3010))
    (tmp_path / "qnli/dev.tsv").write_text("index\tquestion\tsentence\tlabel\n" + rows, encoding="utf-8")
    kept, pool, dev = load_task("qnli", tmp_path, seed=0)
    assert (len(kept), len(pool), len(dev)) == (10, 3000, 3010)
    assert not set(kept) & set(pool)


def test_a_task_without_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no data of rte in .*; pass --data"):
        load_task("rte", tmp_path, seed=0)


def test_matthews_is_that_of_the_formula() -> None:
    truth, predicted = np.repeat([1, 1, 0, 0], [60, 10, 5, 25]), np.repeat([1, 0, 1, 0], [60, 10, 5, 25])
    found = figures(np.eye(2)[predicted], truth)
    assert (found["correct"], found["total"], found["accuracy"][0]) == (85, 100, 0.85)
    matthews, low, high = found["matthews"]
    assert matthews == pytest.approx((60 * 25 - 5 * 10) / (65 * 70 * 30 * 35) ** 0.5, abs=1e-4)
    assert 0.4 < low < matthews < high < 0.9


def test_a_constant_answer_correlates_with_nothing() -> None:
    assert figures(np.eye(2)[np.ones(10, int)], np.arange(10) % 2)["matthews"] == [0.0, 0.0, 0.0]
    assert "matthews" not in figures(np.eye(3), np.arange(3))


def test_scores_are_judged_by_correlation() -> None:
    truth = np.linspace(0.0, 5.0, 50)
    found = figures(np.exp(truth)[:, None], truth)
    assert found["spearman"] == [1.0, 1.0, 1.0]
    assert 0.7 < found["pearson"][0] < 0.9
