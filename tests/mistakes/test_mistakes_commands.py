"""Mistakes in commands and their options."""

from __future__ import annotations

import json

from mistake import SMOKE, Mistake, told

GRAFT = ("transfer", "--encoder", "{data}/donor", "--seq2seq", "{data}/host", "--strategy", "embeddings")
TEXT = "\n".join(f"a text about number {n}" for n in range(40))

MISTAKES = [
    Mistake("no command", ("rum",), "command", ("rum", "run")),
    Mistake("an option that is none", (*SMOKE, "--fast"), "option", ("--fast",)),
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
        "--strategy=copy",
        ("copy", "choices are"),
        {"t": "a line\n"},
    ),
    Mistake(
        "an option of report that is none",
        ("report", "{data}", "--fast"),
        "graftlm report",
        ("unrecognized", "--fast", "--help"),
    ),
    Mistake("a report on what", ("report",), "graftlm report", ("required: DIR",)),
    Mistake(
        "a report by another figure",
        ("report", "{data}", "--primary", "blue"),
        "graftlm report",
        ("--primary", "'blue'", "bleu"),
    ),
    Mistake(
        "a contrast with nothing",
        ("report", "{data}", "--contrast", "full"),
        "graftlm report",
        ("--contrast", "2 arguments"),
    ),
    Mistake(
        "records that cannot be read",
        ("report", "{data}"),
        "report",
        ("cannot be read", "job.json"),
        {"0/job.json": "{"},
    ),
    Mistake("a record of nothing", ("report", "{data}"), "report", ("is no record of a job",), {"0/job.json": "[]"}),
    Mistake("a report on a file", ("report", "{data}/f"), "report", ("job.json",), {"f": "x"}),
    Mistake("a command of the store that is none", ("store", "lss"), "graftlm store", ("'lss'", "ls")),
    Mistake("no command of the store", ("store",), "graftlm store", ("COMMAND",)),
    Mistake("a store that is not there", ("store", "ls", "--store", "nowhere"), "--store=nowhere", ("no such folder",)),
    Mistake(
        "a stage that is none",
        ("store", "ls", "--store", "{data}", "--stage", "train"),
        "--stage=train",
        ("pretrain",),
        {"x": ""},
    ),
    Mistake(
        "runs that are not there",
        ("store", "ls", "--store", "{data}", "--runs", "nowhere"),
        "--runs=nowhere",
        ("no such folder",),
        {"x": ""},
    ),
    Mistake(
        "a key of nothing", ("store", "show", "abc", "--store", "{data}"), "key=abc", ("graftlm store ls",), {"x": ""}
    ),
    Mistake(
        "an age in words",
        ("store", "gc", "--older-than", "soon", "--store", "{data}"),
        "--older-than=soon",
        ("30d",),
        {"x": ""},
    ),
    Mistake(
        "a size in words",
        ("store", "gc", "--larger-than", "big", "--store", "{data}"),
        "--larger-than=big",
        ("GB",),
        {"x": ""},
    ),
    Mistake(
        "cleaning up beside a damaged record",
        ("store", "gc", "--unreachable", "--yes", "--store", "{data}", "--runs", "{data}"),
        "--runs",
        ("0/job.json", "what this job uses is not known"),
        {"0/job.json": '{"stages": [', "1/job.json": '{"stages": []}'},
    ),
    Mistake("no rule", ("store", "gc", "--yes", "--store", "{data}"), "gc", ("rule",), {"x": ""}),
    Mistake("rows below zero", ("data", "--rows", "-1"), "--rows=-1", ("at least 0",)),
    Mistake("rows in words", ("data", "--rows", "all"), "graftlm data", ("--rows", "'all'")),
    Mistake(
        "a look at nothing",
        ("data", "data=files", "data.train=[nowhere.jsonl]", "data.source_lang=de"),
        "data.train",
        ("no such file",),
    ),
    Mistake("a look at a group that is none", ("data", "dta=files"), "dta", ("did you mean data",)),
    Mistake(
        "a plan of nothing",
        ("plan", "experiment=smoke", "finetune.lrr=1"),
        "finetune.lrr",
        ("did you mean finetune.lr",),
    ),
    Mistake("a plan by an option that is none", ("plan", "--fast"), "option=--fast", ("is not known",)),
    Mistake("an export of nothing", ("export", "nowhere", "--out", "o"), "export=nowhere", ("neither a folder nor",)),
    Mistake("an export to nowhere", ("export", "{data}"), "graftlm export", ("--out",), {"x": ""}),
    Mistake(
        "an export of a sweep",
        ("export", "{data}", "--out", "o"),
        "export",
        ("is a sweep", "0, 1"),
        {"0/job.json": "{}", "1/job.json": "{}"},
    ),
    Mistake(
        "an export of a job that failed",
        ("export", "{data}", "--out", "o"),
        "export",
        ("no finished model", "failed"),
        {"job.json": json.dumps({"status": "failed", "stages": []})},
    ),
    Mistake("no command of wandb", ("wandb",), "graftlm wandb", ("COMMAND",)),
    Mistake(
        "patience in words", ("wandb", "sync", "--patience", "long"), "graftlm wandb sync", ("--patience", "'long'")
    ),
    Mistake("runs to send that are not there", ("wandb", "sync", "nowhere"), "nowhere", ("",)),
    Mistake("a dashboard of nothing", ("wandb", "dashboard", "{data}"), "", ("job.json",), {"x": ""}),
    Mistake(
        "a dashboard where a folder is",
        ("wandb", "dashboard", "{data}", "--out", "{data}"),
        "--out",
        ("is a folder", "name a file"),
        {"0/job.json": json.dumps({"status": "done", "settings": {"finetune": {"seed": 1}}, "stages": []})},
    ),
    Mistake("nothing to graft", ("transfer",), "graftlm transfer", ("--encoder", "--out")),
    Mistake("a graft into what is there", (*GRAFT, "--out", "{data}/donor"), "--out", ("is there already",), pair=True),
    Mistake(
        "a graft into a file", (*GRAFT, "--out", "{data}/f/o"), "--out", ("cannot be written",), {"f": "x"}, pair=True
    ),
    Mistake(
        "a graft of models in each other's place",
        ("transfer", "--encoder", "{data}/host", "--seq2seq", "{data}/host", "--strategy", "embeddings", "--out", "o"),
        "--encoder",
        ("is a model of type mbart",),
        pair=True,
    ),
    Mistake(
        "text that is not there",
        (*GRAFT, "--out", "o", "--text", "nowhere.txt"),
        "--text=nowhere.txt",
        ("cannot be read",),
        pair=True,
    ),
    Mistake(
        "text that is none",
        (*GRAFT, "--out", "o", "--text", "{data}/t.txt"),
        "--text",
        ("is not UTF-8",),
        {"t.txt": bytes(range(256))},
        pair=True,
    ),
    Mistake(
        "text without end",
        (*GRAFT, "--out", "o", "--text", "/dev/zero"),
        "--text=/dev/zero",
        ("is a device",),
        pair=True,
    ),
    Mistake(
        "text in brackets without end",
        (*GRAFT, "--out", "o", "--text", "{data}/t.jsonl"),
        "--text",
        ("without a JSON field `text`",),
        {"t.jsonl": '{"text": "a"}\n' + "[" * 100_000},
        pair=True,
    ),
    Mistake(
        "two strategies at once",
        (*GRAFT[:-1], "embeddings,naive", "--out", "o"),
        "--strategy=embeddings,naive",
        ("is no name of one", "one of calibrated"),
        pair=True,
    ),
    Mistake(
        "one text",
        (*GRAFT, "--out", "o", "--text", "{data}/t.txt"),
        "--text",
        ("at least two",),
        {"t.txt": "a\na\n"},
        pair=True,
    ),
    Mistake(
        "a setting of no step",
        (*GRAFT, "--out", "o", "encoder.tokens=5"),
        "encoder.tokens=5",
        ("is no setting of the strategy",),
        pair=True,
    ),
    Mistake(
        "two folders where a pattern of the shell fits both",
        ("transfer", "--encoder", "{data}/donor", "{data}/host", *GRAFT[3:], "--out", "o"),
        "host: is no SETTING=VALUE",
        ("if the shell put it in place of a pattern, name one folder",),
        pair=True,
    ),
    Mistake(
        "a strategy that is misspelt",
        (*GRAFT[:-1], "embedings", "--out", "o"),
        "--strategy=embedings",
        ("did you mean embeddings?",),
        pair=True,
    ),
    Mistake(
        "a strategy of several steps that need text",
        (*GRAFT[:-1], "standardised", "--out", "o"),
        "--text: is needed by the steps encoder, standardise",
        ("name a file of text",),
        pair=True,
    ),
    Mistake(
        "a strategy that needs text",
        ("transfer", "--encoder", "{data}/donor", "--seq2seq", "{data}/host", "--strategy", "calibrated", "--out", "o"),
        "--text",
        ("is needed by the step",),
        pair=True,
    ),
    Mistake(
        "groups of one's own that are not there",
        (*GRAFT, "--out", "o", "--config-dir", "nowhere"),
        "--config-dir=nowhere",
        ("no such folder",),
    ),
]

test_commands = told(MISTAKES)
