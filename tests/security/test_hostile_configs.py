"""A configuration that somebody else wrote runs nothing, and carries no secret into records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graftlm.cli import main
from graftlm.guard import is_secret

# overrides that Hydra itself would act upon
RUN = (
    ("+hydra.callbacks.x={_target_: os.system, command: 'touch trap'}", "hydra.callbacks.x._target_=os.system"),
    (
        "+hydra.callbacks.sweep_report.x={_target_: os.system, command: 'touch trap'}",
        "sweep_report.x._target_=os.system",
    ),
    ("+hydra.callbacks.x=[{a: {_target_: builtins.exec}}]", "callbacks.x[0].a._target_=builtins.exec"),
    ("+hydra.callbacks.x={_target_: ${data.name}}", "hydra.callbacks.x._target_=docstrings"),
    ("hydra.callbacks.sweep_report._target_=subprocess.Popen", "sweep_report._target_=subprocess.Popen"),
    ("hydra.launcher._target_=os.system", "hydra.launcher._target_=os.system"),
    ("+hydra.launcher.x={_target_: os.system}", "hydra.launcher.x._target_=os.system"),
    ("hydra.sweeper._target_=os.system", "hydra.sweeper._target_=os.system"),
    ("hydra.job_logging.handlers.file.class=subprocess.Popen", "handlers.file.class=subprocess.Popen"),
    ("+hydra.job_logging.handlers.x={class: logging.handlers.HTTPHandler, host: h, url: u}", "handlers.x.class="),
    ("+hydra.job_logging.handlers.x={class: logging.StreamHandler, stream: 'ext://os.environ'}", "ext://os.environ"),
    ("+hydra.hydra_logging.handlers={x: {class: os.system}}", "handlers.x.class=os.system"),
)


@pytest.mark.parametrize(("override", "told"), RUN, ids=[told for _, told in RUN])
def test_nothing_outside_the_list_is_made(
    override: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "experiment=smoke", override]) == 2
    error = capfd.readouterr().err
    assert told in error
    assert "is nothing that a configuration may run" in error
    assert list(tmp_path.iterdir()) == []


def test_a_factory_of_logging_in_a_file(own: Callable[[str], list[str]], capfd: pytest.CaptureFixture[str]) -> None:
    words = own("hydra: {job_logging: {formatters: {simple: {'()': os.system, command: touch trap}}}}")
    assert main(["plan", *words]) == 2
    assert "formatters.simple.()=os.system" in capfd.readouterr().err
    assert not Path("trap").exists()


@pytest.mark.parametrize("command", [["run"], ["run", "--cfg", "job"]], ids=" ".join)
@pytest.mark.parametrize(
    "text",
    [
        "hydra: {callbacks: {x: {_target_: os.system, command: touch trap}}}",
        """hydra: {callbacks: {x: "${oc.create:'{_target_: os.system, command: touch trap}'}"}}""",
    ],
)
def test_a_callback_in_a_file(
    own: Callable[[str], list[str]], text: str, command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *own(text)]) == 2
    assert "hydra.callbacks.x._target_=os.system" in capfd.readouterr().err
    assert not Path("trap").exists()


@pytest.mark.parametrize(
    "override",
    [
        "+model._target_=os.system",
        "+data={_target_: os.system}",
        "transfer.steps=[{step: embeddings, _target_: os.system}]",
        "transfer.steps=[{step: ../../os}]",
        "+logger._target_=os.system",
    ],
)
def test_a_target_among_settings_is_no_setting(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "experiment=smoke", override]) == 2
    assert "graftlm: " in capfd.readouterr().err


def test_jobs_do_not_differ_in_what_hydra_makes(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "-m", "experiment=smoke", "hydra.launcher._target_=os.system,os.getcwd"]
    assert main(words) == 2
    assert "cannot differ between jobs" in capfd.readouterr().err


SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("logger.project=${oc.env:WANDB_API_KEY}", "WANDB_API_KEY is a secret by its name"),
        ("logger.project=${oc.env:MY_SERVICE_PASSWORD,x}", "MY_SERVICE_PASSWORD is a secret by its name"),
        ("'logger.project=\"${oc.env:${oc.env:INDIRECT}}\"'".strip("'"), "WANDB_API_KEY is a secret by its name"),
        (f"logger.project={SECRET}", "logger.project: holds the value of WANDB_API_KEY"),
        (f"logger.tags=[a,x{SECRET}x]", "logger.tags: holds the value of WANDB_API_KEY"),
        (f"+logger.api_key={SECRET}", "holds the value of WANDB_API_KEY"),
        ("search.storage='mysql://user:hunter22@host/db'", "search.storage: holds a password"),
        ("+hydra.job.env_set.HF_TOKEN=hf_1234567890", "hydra.job.env_set.HF_TOKEN: is a secret by its name"),
    ],
)
def test_secrets_do_not_become_settings(
    override: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("INDIRECT", "WANDB_API_KEY")
    search = ["-m", "sweep=random", "finetune.seed=1,2"] if override.startswith("search") else []
    assert main(["plan", *search, "experiment=smoke", override]) == 2
    error = capfd.readouterr().err
    assert told in error
    assert SECRET not in error
    assert "hunter22" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_secret_in_a_file(
    own: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert main(["plan", *own(f"logger: {{project: a{SECRET}}}")]) == 2
    error = capfd.readouterr().err
    assert "logger.project: holds the value of HF_TOKEN" in error
    assert SECRET not in error


def test_a_text_of_a_file_that_becomes_a_secret(
    own: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was composed is kept; whether it may be written down is asked each time."""
    words = ["plan", *own(f"defaults: [/experiment/smoke]\nlogger: {{project: a{SECRET}}}")]
    assert main(words) == main(words) == 0
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert main(words) == 2
    assert "logger.project: holds the value of HF_TOKEN" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"hydra: {{job: {{env_set: {{MY_ACCOUNT: x{SECRET}}}}}}}", "hydra.job.env_set.MY_ACCOUNT"),
        (f"hydra: {{run: {{dir: multirun/{SECRET}}}}}", "hydra.run.dir"),
    ],
)
def test_a_secret_in_what_hydra_writes_down(
    own: Callable[[str], list[str]], text: str, place: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert main(["plan", *own(text)]) == 2
    error = capfd.readouterr().err
    assert f"{place}: holds the value of HF_TOKEN" in error
    assert SECRET not in error


def test_a_word_that_is_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It stands in many a path and folder; where it is all of a value it may be meant, and the line says what to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_PASSWORD", "finetune")
    words = ["plan", "experiment=smoke", "finetune.max_steps=6", "store.dir=finetunes/finetune/x"]
    assert main(words) == 0, capfd.readouterr().err
    assert main([*words, "logger.tags=[a,finetune]"]) == 2
    line = capfd.readouterr().err
    assert "logger.tags: holds the value of DB_PASSWORD" in line
    assert "unset DB_PASSWORD, if it is no secret" in line


def test_names_of_secrets() -> None:
    secret = ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PASSWORD", "db_passwd", "MYAPIKEY", "GH_TOKEN_2"]
    secret += ["PGPASSWORD", "MYSQL_PWD", "DB_PASS", "NPM_AUTH", "CLIENTSECRET"]
    plain = ["HOME", "PWD", "WANDB_MODE", "MAX_TOKENS", "MONKEYS", "KEYBOARD", "GRAFTLM_RUN", "TOKENIZERS_PARALLELISM"]
    assert [name for name in secret if not is_secret(name)] == []
    assert [name for name in plain if is_secret(name)] == []


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The words that choose an experiment of somebody else, with this text."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> list[str]:
        (tmp_path / "theirs" / "experiment").mkdir(parents=True)
        (tmp_path / "theirs" / "experiment" / "nice.yaml").write_text(f"# @package _global_\n{text}\n")
        return ["--config-dir", "theirs", "experiment=nice"]

    return write
