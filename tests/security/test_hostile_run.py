"""A whole run over texts, names and an environment that mean harm: what it writes and says is looked at."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from warm import graftlm

SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_SecretSecretSecretSecret",
    "OPENAI_API_KEY": "sk-SecretSecretSecretSecret",
    "AWS_SECRET_ACCESS_KEY": "AwsSecretAwsSecretAwsSecret",
    "DB_PASSWORD": "hunter2hunter2",
}
# neither a secret by its name nor of use to a run: nobody has asked for it
UNASKED = {"SOMETHING_PRIVATE": "a-private-value-of-the-environment"}
HTML = "<script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
ESCAPE = "\x1b]0;title\x07\x1b[31m[red]markup[/nope]\u202e"
GROUPS = (
    "../../../escaped",
    "/tmp/escaped-absolutely",
    "..\\..\\escaped",
    "a/../../b",
    "\x1b[2J",
    "$(touch trap)",
    "nul\x00",
)
NAME = "rows [red]\x1b[31m $(touch trap) ..%2f.jsonl"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of the run, and what the process said."""
    folder = tmp_path_factory.mktemp("outer") / "inner"
    folder.mkdir()
    draw = random.Random(1)
    words = ["dog", "cat", "bird", "house", "garden", "sees", "likes", HTML, ESCAPE]
    rows = [
        {
            "text": " ".join(draw.choices(words, k=14)) + f" {number}",
            "summary": " ".join(draw.choices(words, k=4)) + f" {number}",
            "group": f"{GROUPS[number % len(GROUPS)]}{number}",
        }
        for number in range(160)
    ]
    (folder / NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "theirs" / "data").mkdir(parents=True)
    data = {"name": f"theirs {HTML}", "kind": "files", "train": [NAME], "source_lang": "en_XX", "target_lang": "en_XX"}
    (folder / "theirs" / "data" / "mine.yaml").write_text(json.dumps(data | {"columns": {"group": "group"}}))
    words = [
        *("run", "-m", "--config-dir", "theirs", "experiment=smoke", "data=mine", "transfer=embeddings", "trainer=cpu"),
        *("logger=wandb", "logger.mode=offline", "model.vocab_size=320", "pretrain.max_steps=2"),
        *("pretrain.val_interval=2", "finetune.max_steps=2", "finetune.val_interval=2", "evaluate.max_pairs=8"),
        "evaluate.max_new_tokens=8",
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        places = {"GRAFTLM_CACHE": "cache", "HOME": "home", "WANDB_CONFIG_DIR": "w1", "WANDB_CACHE_DIR": "w2"}
        for name, place in (places | {"WANDB_DATA_DIR": "w3"}).items():
            patch.setenv(name, str(folder / place))
        for name, value in ({"WANDB_ERROR_REPORTING": "false"} | SECRETS | UNASKED).items():
            patch.setenv(name, value)
        result = graftlm(folder, *words)
    assert result.returncode == 0, result.stderr + result.stdout
    return folder, result


def test_no_secret_is_written_or_said(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = done
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert len(files) > 30
    for name, value in {**SECRETS, **UNASKED}.items():
        for path in files:
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
            assert value.encode() not in content, f"{name} stands in {path}"
        assert value not in result.stdout + result.stderr


def test_nothing_is_written_elsewhere(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = done
    assert [path.name for path in folder.parent.iterdir()] == ["inner"]
    assert not any(path.name.startswith(("escaped", "trap")) for path in folder.rglob("*"))
    assert not Path("/tmp/escaped-absolutely").exists()
    at_top = {path.name for path in folder.iterdir()} - {"multirun", "theirs", "cache", "home", "w1", "w2", "w3"}
    assert at_top == {NAME}


def test_nothing_steers_the_terminal(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, result = done
    said = result.stdout + result.stderr
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", said), said


def test_texts_of_the_data_are_text_in_the_page(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = done
    (page,) = folder.glob("multirun/*/report.html")
    text = page.read_text(encoding="utf-8")
    assert "window.hacked" in text, "the texts are shown"
    assert "<script>window.hacked" not in text
    assert "<img src=x" not in text


def test_a_job_says_what_it_ran_with(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = done
    (file,) = folder.glob("multirun/*/0/environment.json")
    found = json.loads(file.read_text())
    assert found["version"] == 1
    assert found["packages"]["torch"].startswith("2.")
    assert {"transformers", "pytorch-lightning", "hydra-core"} <= found["packages"].keys()
    assert found["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert set(found["git"]) == {"graftlm", "command"}
    assert found["git"]["command"] is None, "the command was given outside of any tree"


def test_the_state_of_a_tree(tmp_path: Path) -> None:
    from graftlm.provenance import git_state

    def git(*words: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    assert git_state(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a.py").write_text("one\n")
    git("add", "a.py")
    git("commit", "-qm", "first")
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (tmp_path / "a.py").write_text("two\n")
    (tmp_path / ".env").write_text("SECRET=1\n")
    git("config", "core.fsmonitor", f"touch {tmp_path / 'trap'}")
    git("config", "diff.external", f"touch {tmp_path / 'trap'}")
    dirty = git_state(tmp_path)
    assert dirty is not None
    assert (dirty["commit"], dirty["dirty"], dirty["changed"]) == (clean["commit"], True, [".env", "a.py"])
    assert len(dirty["diff_sha256"]) == 64
    (tmp_path / "a.py").write_text("three\n")
    other = git_state(tmp_path)
    assert other is not None
    assert other["diff_sha256"] != dirty["diff_sha256"], "another change is another digest"
    assert "SECRET" not in json.dumps(dirty)
    assert not (tmp_path / "trap").exists()
