"""`graftlm export`: a folder that plain transformers reads, a card that says what it is, and nothing half done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from graftlm.cli import main
from graftlm.report import build_report
from graftlm.store import MARKER, file_digest

HUB = {"hub": "xlm-roberta-base", "revision": "main"}


@pytest.fixture
def sweep(tmp_path: Path, fake_sweep: Any, fake_arm: Any, _host: Any, host_tokenizer: Any) -> Path:
    """A sweep of which the job 1 (calibrated, seed 1) has a real model, and a report."""
    made = fake_sweep()
    made.sweep([fake_arm("none"), fake_arm("calibrated", early=-0.5, fidelity=0.93)], (1, 2, 3))
    jobs = sorted((tmp_path / "sweep").iterdir(), key=lambda path: int(path.name))
    records = {path: json.loads((path / "job.json").read_text()) for path in jobs}
    job = next(path for path, record in records.items() if "transfer=calibrated" in record["overrides"])
    paths = {item["stage"]: job / item["path"] for item in records[job]["stages"]}
    _host.save_pretrained(paths["finetune"] / "model")
    host_tokenizer.save_pretrained(paths["finetune"] / "model")
    summary = {"pairs": {"train": {"count": 3, "languages": {"en_XX>en_XX": 2, "de_DE>de_DE": 1}}}}
    paths["corpus"].mkdir(parents=True, exist_ok=True)
    (paths["corpus"] / "summary.json").write_text(json.dumps(summary))
    data = {"kind": "hub", "task": "summarization", "dataset": "csebuetnlp/xlsum", "config": "german"}
    keys = {stage: path.name for stage, path in paths.items()}
    mark(paths["corpus"], {"data": data, "format": "mbart50"}, {})
    mark(paths["pretrain"], {"donor": HUB, "mask": {"ratio": 0.15}, "pretrain": {"max_steps": 2000}}, {})
    inputs = {"corpus": keys["corpus"], "pretrain": keys["pretrain"]}
    mark(paths["finetune"], {"donor": HUB, "host": {"d_model": 32}, "finetune": {"max_source_length": 40}}, inputs)
    mark(paths["evaluate"], {"evaluate": {"num_beams": 2, "max_new_tokens": 5}}, {"finetune": keys["finetune"]})
    build_report([tmp_path / "sweep"], tmp_path / "sweep")
    return job


def mark(folder: Path, settings: dict[str, Any], inputs: dict[str, str]) -> None:
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in folder.rglob("*")
        if path.is_file() and path.name != MARKER
    }
    marker = {"stage": folder.parent.name, "key": folder.name, "settings": settings, "inputs": inputs, "files": files}
    (folder / MARKER).write_text(json.dumps(marker))


def card(folder: Path) -> tuple[dict[str, Any], str]:
    _, metadata, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(metadata), text


def finetune_of(job: Path) -> Path:
    stages = json.loads((job / "job.json").read_text())["stages"]
    return Path(next(job / item["path"] for item in stages if item["stage"] == "finetune"))


def test_the_folder_works_as_its_card_says(sweep: Path, tmp_path: Path) -> None:
    """The card's own lines, in a process that knows transformers only."""
    out = tmp_path / "exports" / "mine"
    assert main(["export", str(sweep), "--out", str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["mine"], "nothing is left beside it"
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert code is not None
    lines = code[1].replace("PATH/TO/THIS/FOLDER", str(out)) + "\nimport sys; assert 'graftlm' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[")
    assert (out / "model.safetensors").read_bytes() == (finetune_of(sweep) / "model/model.safetensors").read_bytes()


def test_the_card_says_what_it_is(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    assert main(["export", str(sweep), "--out", str(out)]) == 0
    metadata, text = card(out)
    assert metadata["license"] == "unknown"
    assert metadata["language"] == ["de", "en"]
    assert metadata["base_model"] == ["xlm-roberta-base"]
    assert metadata["datasets"] == ["csebuetnlp/xlsum"]
    assert metadata["pipeline_tag"] == "summarization"
    assert "calibrated" in metadata["tags"]
    scores = json.loads(next((tmp_path / "store/evaluate").glob("*/scores.json")).read_text())
    figures = {item["type"]: item["value"] for item in metadata["model-index"][0]["results"][0]["metrics"]}
    assert set(figures) <= set(scores["all"])
    assert "`xlm-roberta-base` of the Hugging Face hub" in text
    assert "2,000 steps of masked-language modelling" in text
    assert "by the strategy `calibrated`" in text
    report = json.loads((tmp_path / "sweep/report.json").read_text())
    assert f"**{report['headline']}.**" in text
    told = next(arm for arm in report["arms"] if arm["name"] == "calibrated")["difference"]["auc"]
    low, high = (f"−{abs(told[end]):.3f}" for end in ("low", "high"))
    assert f"−{abs(told['mean']):.3f} (95% interval {low} to {high}; less is better)" in text
    assert "forced\\_bos" not in text
    assert 'forced_bos_token_id=tokenizer.convert_tokens_to_ids("de_DE")' in text, "two target languages"
    assert "num_beams=2, max_new_tokens=5" in text
    assert "Licence**: not known" in text


@pytest.mark.parametrize("named", ["artifact", "key"])
def test_an_artifact_alone_has_a_card_too(sweep: Path, tmp_path: Path, named: str) -> None:
    folder = finetune_of(sweep).resolve()
    out = tmp_path / "mine"
    run = str(folder) if named == "artifact" else folder.name[:8]
    assert main(["export", run, "--out", str(out), "--store", str(tmp_path / "store")]) == 0
    metadata, text = card(out)
    assert metadata["model-index"], "its evaluation is in the same store"
    assert "## Compared" not in text


def test_what_is_there_is_not_overwritten(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for words in ([], ["--force"]):
        assert main(["export", str(sweep), "--out", str(out), *words]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"graftlm: --out={out}: is there and not empty; name another folder, or --force",
        f"graftlm: --out={out}: holds no model, and is not replaced, --force or not; name another folder",
    ]
    assert (out / "thesis.txt").read_text() == "mine"
    (out / "thesis.txt").unlink()
    assert main(["export", str(sweep), "--out", str(out)]) == 0, "an empty folder is as good as none"
    (out / "old.txt").write_text("")
    assert main(["export", str(sweep), "--out", str(out), "--force"]) == 0
    assert not (out / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_mistakes_are_one_line_each(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "mine")]
    record = json.loads((sweep / "job.json").read_text())
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "job.json").write_text(json.dumps({**record, "status": "failed", "stages": []}))
    for run, said in (
        (tmp_path / "sweep", "is a sweep; name one of its jobs: 0, 1, "),
        (tmp_path / "none", "is neither a folder nor the beginning of a key in multirun/store"),
        (unfinished, "this job has no finished model (it is: failed); run it to its end"),
        (next((tmp_path / "store/pretrain").iterdir()), "is no fine-tuned model but pretrain"),
        (tmp_path / "store/corpus", "is no folder of a job or an artifact"),
    ):
        assert main(["export", str(run), *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    model = finetune_of(sweep) / "model/model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert main(["export", str(sweep), *out]) == 2
    assert "is damaged: model/model.safetensors has another content" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_hostile_names_stay_text_in_the_card(sweep: Path, tmp_path: Path) -> None:
    text = "<script>x</script> | `y` \n---\n# z: {a} \u202e 👩 '\" $m$"
    folder = finetune_of(sweep).resolve()
    transfer = json.loads((folder / "transfer.json").read_text())
    transfer |= {"strategy": text, "steps": [{"step": text, "parameters": {text: text}, "reference": text}]}
    (folder / "transfer.json").write_text(json.dumps(transfer))
    marker = json.loads((folder / MARKER).read_text())
    mark(folder, {**marker["settings"], "host": {text: text}}, marker["inputs"])
    corpus = folder.parents[1] / "corpus" / marker["inputs"]["corpus"]
    mark(corpus, {"data": {"kind": text, "dataset": text, "task": text}, "format": text}, {})
    record = json.loads((sweep / "job.json").read_text())
    record["choices"]["transfer"] = text
    record |= {"command": "graftlm run a=/home/me/secret/x.jsonl\n```\n<script>", "overrides": [text]}
    (sweep / "job.json").write_text(json.dumps(record))
    report = json.loads((tmp_path / "sweep/report.json").read_text())
    report |= {"headline": text, "detail": text, "caveats": [text, "x" * 100_000]}
    (tmp_path / "sweep/report.json").write_text(json.dumps(report))
    out = tmp_path / "mine"
    assert main(["export", str(sweep), "--out", str(out)]) == 0
    metadata, page = card(out)
    assert metadata["tags"][-1].startswith("<script>x</script> | `y` --- # z")
    assert "datasets" not in metadata
    html = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(page)
    assert "<script" not in html
    assert html.count("<h1>") == 1
    for table in re.findall(r"<table>.*?</table>", html, flags=re.S):
        assert len({row.count("</t") for row in re.findall(r"<tr>(.*?)</tr>", table, flags=re.S)}) == 1
    assert "/home/me" not in page
    assert "…/x.jsonl" in page
    assert "\u202e" not in page
    assert len(page) < 20_000
