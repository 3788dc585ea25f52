import json
from collections import Counter
from pathlib import Path
from typing import Any

from graftlm.data.rows import SPLITS
from graftlm.data.settings import DataSettings, MixtureData
from graftlm.data.sources import check_source, open_source
from graftlm.data.splits import prepare


def write(file: Path, word: str, count: int) -> str:
    rows = [{"text": f"{word} long text {n}", "summary": f"{word} {n}"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def mixture(tmp_path: Path, weights: dict[str, float], **extra: Any) -> MixtureData:
    sources = {
        "one": {"kind": "files", "train": [write(tmp_path / "one.jsonl", "eins", 400)], "source_lang": "de", **extra},
        "two": {"kind": "files", "train": [write(tmp_path / "two.jsonl", "deux", 400)], "source_lang": "fr"},
    }
    built = DataSettings.from_plain(
        {"name": "mix", "kind": "mixture", "sources": sources, "weights": weights}, "data", []
    )
    assert isinstance(built, MixtureData)
    return built


def test_weights_act_on_train_only(tmp_path: Path) -> None:
    plain, weighed = mixture(tmp_path, {}), mixture(tmp_path, {"one": 2.5, "two": 0.5})
    first, second = prepare(open_source(plain), plain), prepare(open_source(weighed), weighed)
    for split in ("validation", "test"):
        assert first.pairs[split] == second.pairs[split]
        assert first.texts[split] == second.texts[split]
    before, after = (Counter(pair.group.split("/")[0] for pair in each.pairs["train"]) for each in (first, second))
    assert after["one"] == round(2.5 * before["one"])
    assert after["two"] == round(0.5 * before["two"])
    texts = Counter(text.group.split("/")[0] for text in second.texts["train"])
    assert texts["one"] > 4 * texts["two"]
    assert second == prepare(open_source(weighed), weighed)


def test_groups_carry_the_name_of_their_source(tmp_path: Path) -> None:
    chosen = mixture(tmp_path, {})
    for pair in open_source(chosen).pairs():
        assert pair.group.startswith("one/" if pair.source_lang == "de_DE" else "two/")
        assert pair.split in SPLITS


def test_a_part_keeps_its_own_limit(tmp_path: Path) -> None:
    chosen = mixture(tmp_path, {}, max_pairs=60)
    counts = Counter(pair.group.split("/")[0] for pair in open_source(chosen).pairs())
    assert counts == {"one": 60, "two": 400}


def test_problems_carry_the_path_of_their_part(tmp_path: Path) -> None:
    chosen = mixture(tmp_path, {})
    assert check_source(chosen) == []
    (tmp_path / "two.jsonl").write_text("")
    (problem,) = check_source(chosen)
    assert problem.path == "data.sources.two.train"


def test_the_fingerprint_holds_each_part(tmp_path: Path) -> None:
    before = open_source(mixture(tmp_path, {})).fingerprint()
    chosen = mixture(tmp_path, {})
    write(tmp_path / "two.jsonl", "trois", 400)
    assert open_source(chosen).fingerprint() != before
