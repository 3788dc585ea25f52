"""Shared fixtures: a small bilingual corpus with something to learn, tiny tokenizers, a tiny donor and host."""

from __future__ import annotations

import copy
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # commands need not begin again for it
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
from absl import logging as absl_logging

from graftlm.data.rows import Pair, Text
from graftlm.schema import DonorSettings, HostSettings, ModelSettings

# where logging is set up anew (Hydra does), absl closes the stream that it found at its import: what pytest captures
# into, and every test after it would fail
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

_SUBJECTS = {"dog": "Hund", "cat": "Katze", "bird": "Vogel", "horse": "Pferd", "fish": "Fisch", "mouse": "Maus"}
_VERBS = {"sees": "sieht", "likes": "mag", "finds": "findet", "follows": "verfolgt", "hears": "hört"}
_PLACES = {"garden": "Garten", "house": "Haus", "forest": "Wald", "river": "Fluss", "street": "Straße"}


# files whose tests take longest: begun first, so that no process is left alone with one of them at the end
LONGEST = (
    "launch/test_slurm.py", "stages/test_devices.py", "test_cli.py", "launch/test_joblib.py", "search/test_search.py",
    "test_kills.py", "report/test_page.py", "stages/test_saving.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` hands out files in this order (--no-loadscope-reorder)."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))  # stable: the others keep theirs


def _sentence(draw: random.Random) -> tuple[str, str]:
    one, two = draw.sample(sorted(_SUBJECTS), 2)
    verb, place = draw.choice(sorted(_VERBS)), draw.choice(sorted(_PLACES))
    english = f"The {one} {verb} the {two} near the {place}."
    german = f"{_SUBJECTS[one]} {_VERBS[verb]} {_SUBJECTS[two]} ({_PLACES[place]})."
    return english, german


def make_rows(pairs: int = 400, seed: int = 7) -> tuple[list[Pair], list[Text]]:
    """Pairs en -> de and de -> en, and the texts of both languages; `group` is the number of the document."""
    draw = random.Random(seed)
    made: list[Pair] = []
    texts: list[Text] = []
    for index in range(pairs):
        sentences = [_sentence(draw) for _ in range(1 + index % 3)]
        english, german = (" ".join(side) for side in zip(*sentences, strict=True))
        group = f"document-{index}"
        texts += [Text(english, "en_XX", group), Text(german, "de_DE", group)]
        if index % 2:
            made.append(Pair(english, german, "en_XX", "de_DE", group))
        else:
            made.append(Pair(german, english, "de_DE", "en_XX", group))
    return made, texts


@pytest.fixture(scope="session")
def rows() -> tuple[list[Pair], list[Text]]:
    return make_rows()


@pytest.fixture(scope="session")
def corpus_files(tmp_path_factory: pytest.TempPathFactory, rows: tuple[list[Pair], list[Text]]) -> Path:
    """A folder with `pairs.jsonl` (text, summary, source_lang, target_lang, group) and `texts.txt`."""
    folder = tmp_path_factory.mktemp("files")
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as out:
        for pair in rows[0]:
            line = {
                "text": pair.source,
                "summary": pair.target,
                "source_lang": pair.source_lang,
                "target_lang": pair.target_lang,
                "group": pair.group,
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / "texts.txt").write_text("\n".join(text.text for text in rows[1]) + "\n", encoding="utf-8")
    return folder


def make_model_settings(format: str = "mbart50", **donor: Any) -> ModelSettings:
    """A pair with 32 dimensions, 2 encoder layers and 1 decoder layer."""
    shape = {"d_model": 32, "layers": 2, "heads": 2, "ffn": 64, "max_positions": 64, **donor}
    return ModelSettings(
        name="pico",
        format=format,  # type: ignore[arg-type]
        vocab_size=400,
        donor=DonorSettings(**shape),
        host=HostSettings(decoder_layers=1, max_positions=64),
    )


@pytest.fixture(scope="session")
def model_settings() -> ModelSettings:
    return make_model_settings()


@pytest.fixture(scope="session")
def pieces(rows: tuple[list[Pair], list[Text]]) -> list[tuple[str, float]]:
    from graftlm.data.tokenizers import train_pieces

    return train_pieces([text.text for text in rows[1]], 400)


@pytest.fixture(scope="session")
def donor_tokenizer(pieces: list[tuple[str, float]]) -> Any:
    from graftlm.data.tokenizers import build_donor_tokenizer

    return build_donor_tokenizer(pieces)


@pytest.fixture(scope="session")
def host_tokenizer(pieces: list[tuple[str, float]]) -> Any:
    """mbart50."""
    from graftlm.data.tokenizers import build_host_tokenizer

    return build_host_tokenizer(pieces, "mbart50")


@pytest.fixture(scope="session")
def _donor(model_settings: ModelSettings, donor_tokenizer: Any) -> Any:
    import torch

    from graftlm.models.build import build_donor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build_donor(model_settings, donor_tokenizer)


@pytest.fixture(scope="session")
def _host(model_settings: ModelSettings, host_tokenizer: Any, _donor: Any) -> Any:
    import torch

    from graftlm.models.build import build_host

    torch.manual_seed(1)
    return build_host(model_settings, host_tokenizer, _donor.config)


@pytest.fixture
def donor(_donor: Any) -> Any:
    """A fresh copy of a tiny, randomly initialised XLM-R."""
    return copy.deepcopy(_donor)


@pytest.fixture
def host(_host: Any) -> Any:
    """A fresh copy of a tiny, randomly initialised mBART (mbart50)."""
    return copy.deepcopy(_host)


@pytest.fixture(scope="session")
def corpus(
    tmp_path_factory: pytest.TempPathFactory, rows: tuple[list[Pair], list[Text]], model_settings: ModelSettings
) -> Any:
    """The small bilingual corpus as an artifact, opened."""
    from graftlm.data.corpus import Corpus, write_corpus

    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(divide(*rows), model_settings, folder)
    return Corpus(folder)


@pytest.fixture(scope="session")
def few_rows(rows: tuple[list[Pair], list[Text]]) -> Any:
    """Some of the rows as `Prepared`: they use a part of the vocabulary."""
    return divide(rows[0][7:11], rows[1][14:18])


@pytest.fixture(scope="session")
def divided(rows: tuple[list[Pair], list[Text]]) -> Any:
    """The rows as `Prepared`."""
    return divide(*rows)


def divide(pairs: list[Pair], texts: list[Text]) -> Any:
    """The rows as `Prepared`: every tenth document held out for validation, every tenth for the test."""
    from graftlm.data.rows import SPLITS
    from graftlm.data.splits import Prepared

    def split_of(group: str) -> str:
        return {8: "validation", 9: "test"}.get(int(group.rsplit("-", 1)[-1]) % 10, "train")

    return Prepared(
        pairs={split: [row for row in pairs if split_of(row.group) == split] for split in SPLITS},
        texts={split: [row for row in texts if split_of(row.group) == split] for split in SPLITS},
        dropped={"a repeat": 3},
    )
