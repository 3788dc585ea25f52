"""Mistakes in settings, groups, sweeps, searches, and files of one's own groups."""

from __future__ import annotations

from mistake import SMOKE, Mistake, told, told_together

SEARCH = (*SMOKE, "-m", "sweep=random")
OWN = (*SMOKE, "--config-dir", "{data}", "transfer=mine")

MISTAKES = [
    Mistake("wrong choice", (*SMOKE, "transfer=calibrate"), "transfer", ("did you mean calibrated",)),
    Mistake(
        "a broken file of one's own groups",
        (*SMOKE, "--config-dir", "{data}", "transfer=mine"),
        "transfer",
        ("mine.yaml", "line"),
        {"transfer/mine.yaml": "steps: ["},
    ),
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
    Mistake("wrong choice in a sweep", (*SMOKE, "-m", "mask=r15,r99"), "mask", ("r99", "choices are")),
    Mistake("misspelt key", (*SMOKE, "finetune.max_step=5"), "finetune.max_step", ("did you mean finetune.max_steps",)),
    Mistake("no override", (*SMOKE, "finetune.seed"), "override", ("key=value",)),
    Mistake("mask ratio 1.5", (*SMOKE, "mask.ratio=1.5"), "mask.ratio", ("1.5", "above 0 and below 1", "r15")),
    Mistake("heads that do not divide", (*SMOKE, "model.donor.heads=5"), "model.donor.heads", ("divide",)),
    Mistake("no precision", (*SMOKE, "trainer.precision=8"), "trainer.precision", ("32-true",)),
    Mistake("no accelerator", (*SMOKE, "trainer.accelerator=cpuu"), "trainer.accelerator", ("auto, cpu",)),
    Mistake("a device that is not there", (*SMOKE, "trainer.accelerator=mps"), "trainer.accelerator", ("not there",)),
    Mistake("FSDP on the CPU", (*SMOKE, "trainer=cpu", "trainer.strategy=fsdp"), "trainer.strategy", ("needs GPUs",)),
    Mistake("a sweep without -m", (*SMOKE, "finetune.seed=1,2"), "finetune.seed", ("add -m",)),
    Mistake("a setting taken away", (*SMOKE, "~finetune.lr"), "finetune.lr", ("give it a value",)),
    Mistake("a plus too many", (*SMOKE, "+finetune.lr=1"), "finetune.lr", ("leave out the +",)),
    Mistake("wrong choice, shown only", (*SMOKE, "mask=r99", "--cfg", "job"), "mask", ("r99",)),
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
    Mistake("unknown step", (*SMOKE, "transfer.steps=[{step: embedings}]"), "transfer.steps[0].step", ("embeddings",)),
    Mistake("a number for a group", (*SMOKE, "finetune=5"), "finetune=5", ("must be a group of settings",)),
    Mistake("null for a group", (*SMOKE, "finetune=null"), "finetune", ("must be a group of settings",)),
    Mistake("no choice", (*SMOKE, "model="), "model", ("choices are base, ", "tiny")),
    Mistake("an experiment that is none", ("run", "experiment=smok"), "experiment", ("did you mean smoke",)),
    Mistake("a kind of source that is none", (*SMOKE, "data.kind=file"), "data.kind=file", ("one of docstrings",)),
    Mistake(
        "an interpolation to nowhere", (*SMOKE, "finetune.lr=${nowhere}"), "finetune.lr", ("nowhere", "interpolation")
    ),
    Mistake("an interpolation to itself", (*SMOKE, "finetune.lr=${finetune.lr}"), "finetune.lr", ("interpolation",)),
    Mistake(
        "a variable that is not set",
        (*SMOKE, "finetune.lr=${oc.env:GRAFTLM_NOT_SET}"),
        "finetune.lr",
        ("GRAFTLM_NOT_SET",),
    ),
    Mistake("a resolver that is none", (*SMOKE, "finetune.lr=${rate:1}"), "finetune.lr", ("rate",)),
    Mistake("a bracket that stays open", (*SMOKE, "data.packages=[torch"), "override", ("cannot be read", "quotes")),
    Mistake("steps that are a word", (*SMOKE, "transfer.steps=embeddings"), "transfer.steps", ("step",)),
    Mistake("a step that is a number", (*SMOKE, "transfer.steps=[5]"), "transfer.steps=[5]", ("each item a group",)),
    Mistake("a step without a name", (*SMOKE, "transfer.steps=[{tokens: 5}]"), "transfer.steps[0]", ("step",)),
    Mistake(
        "a parameter that a step has not",
        (*SMOKE, "transfer.steps=[{step: embeddings, rigde: 1}]"),
        "transfer.steps[0].rigde",
        ("is no setting",),
    ),
    Mistake(
        "labels longer than positions",
        (*SMOKE, "finetune.max_target_length=300", "finetune.batch_tokens=4096"),
        "finetune.max_target_length=300",
        ("128 positions", "model.host.max_positions"),
    ),
    Mistake(
        "texts longer than positions",
        (*SMOKE, "pretrain.max_length=300"),
        "pretrain.max_length=300",
        ("128 positions",),
    ),
    Mistake(
        "a batch below a row", (*SMOKE, "finetune.batch_tokens=32"), "finetune.batch_tokens=32", ("one row of 64",)
    ),
    Mistake("more masks than tokens", (*SMOKE, "mask.replace=0.9", "mask.randomize=0.2"), "mask.replace", ("pass 1",)),
    Mistake("a ratio in percent", (*SMOKE, "mask.ratio=15"), "mask.ratio=15", ("0.15",)),
    Mistake("no fine-tuning", (*SMOKE, "finetune.max_steps=0"), "finetune.max_steps=0", ("at least 1",)),
    Mistake("no vocabulary", (*SMOKE, "model.vocab_size=null"), "model.vocab_size", ("for example 8000",)),
    Mistake("a contrast of one", (*SMOKE, "report.contrasts=[[full]]"), "report.contrasts", ("two arms",)),
    Mistake("a project with a slash", (*SMOKE, "logger.project=a/b"), "logger.project=a/b", ("no name of a project",)),
    Mistake("models without W&B", (*SMOKE, "logger.log_models=files"), "logger.log_models=files", ("logger=wandb",)),
    Mistake("a signal that none can catch", (*SMOKE, "trainer.signals=[SIGKILL]"), "trainer.signals", ("SIGTERM",)),
    Mistake(
        "compiled and looked into",
        (*SMOKE, "trainer.compile=true", "trainer.detect_anomaly=true"),
        "trainer.compile",
        ("trainer.compile=false",),
    ),
    Mistake("an engine without a sweep", (*SMOKE, "launch=joblib"), "launch=joblib", ("add -m",)),
    Mistake(
        "more cores than there are",
        (*SMOKE, "-m", "launch=joblib", "launch.cores=5000", "finetune.seed=1,2"),
        "launch.cores=5000",
        ("lower it",),
    ),
    Mistake(
        "a folder of groups that is none", (*SMOKE, "--config-dir", "nowhere"), "--config-dir", ("no such folder",)
    ),
    Mistake("a folder of groups that is missing", (*SMOKE, "--config-dir"), "--config-dir", ("no such folder",)),
    Mistake("a view that is none", (*SMOKE, "--cfg", "jobs"), "--cfg", ("job",)),
    Mistake(
        "a part that is none", (*SMOKE, "--package", "nowhere", "--cfg", "job"), "--package=nowhere", ("finetune",)
    ),
    Mistake("completion of a shell, which is Hydra's", (*SMOKE, "-sc"), "option=-sc", ("is not known",)),
    Mistake("a view of what", (*SMOKE, "--cfg"), "--cfg", ("job",)),
    Mistake(
        "a tab in one's own file",
        OWN,
        "transfer",
        ("mine.yaml", "line 2"),
        {"transfer/mine.yaml": "name: mine\n\tsteps: []\n"},
    ),
    Mistake("one's own file is a list", OWN, "transfer", ("mine",), {"transfer/mine.yaml": "- name: mine\n"}),
    Mistake("one's own file is empty", OWN, "transfer", ("name",), {"transfer/mine.yaml": ""}),
    Mistake(
        "one's own file in UTF-16",
        OWN,
        "transfer=mine",
        ("not UTF-8",),
        {"transfer/mine.yaml": "name: mine\nsteps: [{step: embeddings}]\n".encode("utf-16")},
    ),
    Mistake(
        "one's own file in Latin-1",
        OWN,
        "transfer=mine",
        ("not UTF-8",),
        {"transfer/mine.yaml": "# f\u00fcr mich\nname: mine\n".encode("latin-1")},
    ),
    Mistake(
        "a key that one's own file has twice",
        OWN,
        "transfer",
        ("mine.yaml", "line"),
        {"transfer/mine.yaml": "name: mine\nname: yours\nsteps: [{step: embeddings}]\n"},
    ),
    Mistake(
        "a misspelt key of one's own file",
        OWN,
        "transfer.stepps",
        ("is no setting", "did you mean steps"),
        {"transfer/mine.yaml": "name: mine\nstepps: [{step: embeddings}]\n"},
    ),
    Mistake(
        "a folder for jobs that cannot be",
        (*SMOKE, "hydra.run.dir=/dev/null/x"),
        "/dev/null/x",
        ("Not a directory",),
        late=True,  # Hydra makes it
    ),
    Mistake(
        "a folder for a sweep", (*SMOKE, "-m", "hydra.sweep.dir=s"), "hydra.sweep.dir", ("multirun/", "leave it out")
    ),
    Mistake(
        "one folder for all jobs", (*SMOKE, "-m", "hydra.sweep.subdir=s"), "hydra.sweep.subdir", ("over each other",)
    ),
    Mistake("the same, added", (*SMOKE, "-m", "+hydra.sweep.dir=s"), "hydra.sweep.dir", ("multirun/",)),
    Mistake("folders for a sweep", (*SMOKE, "-m", "hydra.sweep.dir=s,t"), "hydra.sweep.dir", ("multirun/",)),
    Mistake("the same in a mapping", (*SMOKE, "-m", "hydra.sweep={dir: s}"), "hydra.sweep.dir", ("multirun/",)),
    Mistake(
        "the same in a file of one's own",
        ("run", "-m", "--config-dir", "{data}", "experiment=mine"),
        "hydra.sweep.dir",
        ("multirun/",),
        {"experiment/mine.yaml": "# @package _global_\nhydra: {sweep: {dir: s}}\n"},
    ),
    Mistake(
        "the same among what varies",
        ("run", "-m", "--config-dir", "{data}", "experiment=mine"),
        "hydra.sweep.dir",
        ("multirun/",),
        {"experiment/mine.yaml": "# @package _global_\nhydra: {sweeper: {params: {hydra.sweep.dir: s}}}\n"},
    ),
    Mistake("a launcher that is none", (*SMOKE, "hydra/launcher=nope"), "hydra/launcher", ("nope",)),
    Mistake("a setting of Hydra that is none", (*SMOKE, "hydra.rum.dir=x"), "hydra.rum.dir", ("is no setting",)),
    Mistake("a list for a choice", (*SMOKE, "mask=[[]]"), "mask=[[]]", ("cannot be composed",)),
    Mistake("an empty override", (*SMOKE, ""), "override", ("key=value",)),
    Mistake(
        "a comma too many in a sweep",
        (*SMOKE, "-m", "finetune.seed=1,,2"),
        "override=finetune.seed=1,,2",
        ("cannot be read",),
    ),
    Mistake(
        "choices by a pattern that none fits",
        (*SMOKE, "-m", "mask=glob(zzz*)"),
        "mask=glob(zzz*)",
        ("holds no value; name some",),
    ),
    Mistake(
        "a wrong choice in a folder of groups with signs of a list in its name",
        (*SMOKE, "--config-dir", "{data}/it's [1], $(mine)", "transfer=min"),
        "transfer=min",
        ("did you mean mine",),
        {"it's [1], $(mine)/transfer/mine.yaml": "name: mine\nsteps: [{step: embeddings}]\n"},
    ),
    Mistake("an override of nothing", (*SMOKE, "=5"), "override", ("key=value",)),
    Mistake("a letter that no terminal shows", (*SMOKE, "mask=\x1b[31mr15"), "\\x1b", ("",)),
]

# values that a field refuses by itself: all of them are told by one command
VALUES = [
    Mistake("a word for a number", (*SMOKE, "finetune.lr=fast"), "finetune.lr", ("must be a number",)),
    Mistake("a negative seed", (*SMOKE, "finetune.seed=-1"), "finetune.seed", ("at least 0",)),
    Mistake("no devices", (*SMOKE, "trainer.devices=0"), "trainer.devices", ("at least 1",)),
    Mistake("no strategy", (*SMOKE, "trainer.strategy=ddp2"), "trainer.strategy", ("auto", "fsdp")),
    Mistake("not a number", (*SMOKE, "pretrain.lr=nan"), "pretrain.lr=nan", ("must be a number",)),
    Mistake("without end", (*SMOKE, "finetune.warmup=inf"), "finetune.warmup=inf", ("must be a number",)),
    Mistake("nothing for a number", (*SMOKE, "mask.ratio="), "mask.ratio", ("must be a number",)),
    Mistake("null for a number", (*SMOKE, "pretrain.seed=null"), "pretrain.seed", ("must be a whole number",)),
    Mistake("half a step", (*SMOKE, "finetune.max_steps=2.5"), "finetune.max_steps=2.5", ("must be a whole number",)),
    Mistake("a step beyond all", (*SMOKE, "pretrain.max_steps=1e30"), "pretrain.max_steps", ("at most 2147483647",)),
    Mistake("a list for a number", (*SMOKE, "pretrain.warmup=[1e-3]"), "pretrain.warmup", ("must be a number",)),
    Mistake("yes for true", (*SMOKE, "pretrain.packing=yess"), "pretrain.packing=yess", ("true or false",)),
    Mistake("a vocabulary of nothing", (*SMOKE, "model.vocab_size=5"), "model.vocab_size=5", ("at least 300",)),
    Mistake("a format that is none", (*SMOKE, "model.format=mbart"), "model.format=mbart", ("mbart50, cc25",)),
    Mistake("a part of nothing", (*SMOKE, "data.test_share=0"), "data.test_share=0", ("above 0",)),
    Mistake("all for the test", (*SMOKE, "data.validation_share=0.9"), "data.validation_share=0.9", ("at most 0.4",)),
    Mistake("a figure that decides nothing", (*SMOKE, "report.primary=rouge"), "report.primary=rouge", ("rougeL",)),
    Mistake("sure of all", (*SMOKE, "report.confidence=95"), "report.confidence=95", ("below 1",)),
    Mistake("no thread", (*SMOKE, "trainer.threads=0"), "trainer.threads=0", ("at least 1",)),
]

test_settings = told(MISTAKES)
test_values = told_together(VALUES)
