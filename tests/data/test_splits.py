from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftlm.data.rows import SPLITS, Pair, Split, Text
from graftlm.data.settings import DataSettings
from graftlm.data.splits import assign_groups, divide_pairs, divide_texts, draw, fold, limit, prepare, weigh
from graftlm.errors import DataError

SHARES: dict[Split, float] = {"test": 0.05, "validation": 0.05}


def settings(**values: object) -> DataSettings:
    return DataSettings("some", "files", **values)  # type: ignore[arg-type]


def pair(source: str, target: str = "t", group: str | None = None, split: Split | None = None) -> Pair:
    return Pair(source, target, "de_DE", "de_DE", group or source, split)


@dataclass
class Listed:
    """A source that holds its rows."""

    rows: list[Pair]
    some: list[Text] = field(default_factory=list)

    def fingerprint(self) -> dict[str, object]:
        return {}

    def pairs(self) -> Iterator[Pair]:
        yield from self.rows

    def texts(self) -> Iterator[Text]:
        yield from self.some or [Text(row.source, row.source_lang, row.group, row.split) for row in self.rows]


def rows_by_split(sizes: dict[str, int], assigned: dict[str, Split]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for group, split in assigned.items():
        counts[split] += sizes[group]
    return counts


def test_many_small_groups_meet_the_shares_and_stay_when_groups_are_added() -> None:
    sizes = {f"g{index}": 1 + index % 3 for index in range(4000)}
    assigned = assign_groups(sizes, SHARES)
    counts = rows_by_split(sizes, assigned)
    for split in ("test", "validation"):
        assert counts[split] / sum(sizes.values()) == pytest.approx(0.05, abs=0.012)
    more = assign_groups({**sizes, **{f"new{index}": 1 for index in range(500)}}, SHARES)
    assert all(more[group] == split for group, split in assigned.items())


def test_few_large_groups_are_chosen_whole_and_train_keeps_the_bulk() -> None:
    sizes = {"torch": 6500, "sympy": 3700, "numpy": 1200, **{f"p{index}": 40 + 9 * index for index in range(20)}}
    assigned = assign_groups(sizes, SHARES)
    counts = rows_by_split(sizes, assigned)
    total = sum(sizes.values())
    assert assigned["torch"] == assigned["sympy"] == "train"
    for split in ("test", "validation"):
        assert 0.025 <= counts[split] / total <= 0.06
        assert sum(each == split for each in assigned.values()) >= 3


def test_three_groups_give_three_splits_and_the_largest_trains() -> None:
    assigned = assign_groups({"a": 1000, "b": 300, "c": 200}, SHARES)
    assert assigned["a"] == "train"
    assert sorted(assigned.values()) == sorted(SPLITS)


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 400), min_size=3, max_size=60))
def test_every_assignment_is_complete_repeatable_and_leaves_train_the_largest(sizes: dict[str, int]) -> None:
    assigned = assign_groups(sizes, SHARES)
    assert set(assigned) == set(sizes)
    assert assigned == assign_groups(dict(reversed(sizes.items())), SHARES)
    counts = rows_by_split(sizes, assigned)
    assert counts["train"] >= max(counts["test"], counts["validation"])


def test_the_copy_in_train_of_a_test_row_is_dropped() -> None:
    dropped: Counter[str] = Counter()
    kept = divide_pairs(
        [
            pair("Ein Text", split="train"),
            pair("ein  TEXT", "other", split="test"),
            pair("zwei", split="train"),
            pair("Zwei", split="validation"),
            pair("drei", split="train"),
            pair("drei ", split="train"),
        ],
        settings(),
        dropped,
    )
    assert [row.source for row in kept["train"]] == ["drei"]
    assert [row.source for row in kept["validation"]] == ["Zwei"]
    assert sum(dropped.values()) == 3


def test_a_train_source_that_is_a_test_target_is_dropped() -> None:
    kept = divide_pairs([pair("Hallo", "hello", split="test"), pair("hello", "Hallo", split="train")], settings())
    assert kept["train"] == []


def test_other_targets_of_one_source_stay_in_train() -> None:
    kept = divide_pairs([pair("a b", "x", split="train"), pair("a b", "y", split="train")], settings())
    assert len(kept["train"]) == 2


def test_no_text_of_a_test_row_is_a_train_text() -> None:
    rows = [pair(f"source {index}", f"target {index % 7}", group=f"g{index}") for index in range(400)]
    pairs = divide_pairs(rows, settings())
    texts = [Text(text, "de_DE", row.group) for row in rows for text in (row.source, row.target.upper())]
    by_split = divide_texts(texts, pairs, settings())
    held_out = {fold(text) for row in [*pairs["test"], *pairs["validation"]] for text in (row.source, row.target)}
    assert held_out
    assert not held_out & {fold(text.text) for text in by_split["train"]}
    assert {text.group for text in by_split["test"]} <= {row.group for row in pairs["test"]}


def test_texts_without_pairs_go_to_train_and_validation_only() -> None:
    pairs = divide_pairs([pair("a", split="train"), pair("b", split="validation"), pair("c", split="test")], settings())
    by_split = divide_texts([Text(f"text {index}", "de_DE", f"t{index}") for index in range(300)], pairs, settings())
    assert len(by_split["validation"]) == pytest.approx(15, abs=8)
    assert by_split["test"] == []


def test_only_the_missing_split_is_split_off() -> None:
    given_rows = [pair(f"r{index}") for index in range(2000)] + [
        pair(f"v{index}", split="validation") for index in range(9)
    ]
    kept = divide_pairs(given_rows, settings())
    assert len(kept["validation"]) == 9
    assert len(kept["test"]) == pytest.approx(100, abs=35)


def test_a_limit_is_drawn_after_splitting_and_not_from_the_head() -> None:
    rows = [pair(f"r{index}") for index in range(3000)]
    whole = divide_pairs(rows, settings())
    cut = limit(whole, 200, settings())
    assert [len(cut[split]) for split in SPLITS] == [180, 10, 10]
    assert cut == limit(whole, 200, settings())
    for split in SPLITS:
        assert set(cut[split]) <= set(whole[split])
    assert cut["train"] != whole["train"][:180]


def test_draw_does_not_depend_on_the_order_of_rows() -> None:
    rows = [pair(f"r{index}") for index in range(50)]
    assert set(draw(rows, 7)) == set(draw(rows[::-1], 7))


def test_weights_repeat_and_thin_rows() -> None:
    rows = [pair(f"r{index}", group=f"{part}/{index}") for part in "abc" for index in range(10)]
    counts = Counter(row.group[0] for row in weigh(rows, {"a": 2.5, "b": 0.3}))
    assert counts == {"a": 25, "b": 3, "c": 10}


def test_prepare_names_an_empty_split() -> None:
    with pytest.raises(DataError, match=r"empty (test|validation) split .*1 groups.*data\.\w+_share"):
        prepare(Listed([pair(f"r{index}", group="only") for index in range(50)]), settings())


def test_prepare_refuses_a_source_without_pairs() -> None:
    with pytest.raises(DataError, match="gives no pair"):
        prepare(Listed([], [Text("a", "de_DE", "g")]), settings())


def test_prepare_counts_what_it_drops_and_is_repeatable() -> None:
    rows = [pair(f"r{index % 300}", group=f"g{index % 300}") for index in range(600)]
    first, second = (prepare(Listed(rows), settings(max_pairs=100, max_texts=50)) for _ in range(2))
    assert first == second
    assert sum(count for reason, count in first.dropped.items() if reason.startswith("pairs")) == 300
    assert sum(map(len, first.pairs.values())) == 100
    assert sum(map(len, first.texts.values())) == 50
