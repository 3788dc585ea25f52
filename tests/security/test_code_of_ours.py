"""No module of the package reads a pickle, runs what a file or a setting names, or has a library do so.

Read from the source: what is not tried out elsewhere, or is written tomorrow, is held to it too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import graftlm

ROOT = Path(graftlm.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "conf" not in path.relative_to(ROOT).parts[:1])
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MAY_PICKLE = {
    "search/cmaes.py",  # the names of an optimiser's state alone: test_hostile_checkpoints.py
    "data/spool.py",  # marshal, of texts, in a file without a name that nobody else can open
}
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method", "instantiate",
    "torch.hub.load", "torch.jit.load", "runpy.run_path", "runpy.run_module",
    "spec_from_file_location", "importlib.util.spec_from_file_location",
}  # fmt: skip
# what a name that is given may choose among: modules of a package of ours, looked up in a list before
MAY_IMPORT = {
    "checkpoint.py": "PACKAGES",
    "cli.py": "COMMANDS",
    "data/sources/__init__.py": "kinds of data",
    "jobs.py": "stages of a plan",
    "loading.py": "what its callers name, who are looked at too",
    "stages/devices.py": "stages of a plan",
    "transfer/strategy.py": "step_names()",
}


def name_of(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ".".join(["", *reversed(parts)])


def wrong(text: str, file: str) -> Iterator[str]:
    """What in a module may not be."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) and file not in MAY_PICKLE:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in PICKLES)
        if not isinstance(node, ast.Call):
            continue
        name, given = name_of(node.func), {item.arg: item.value for item in node.keywords}
        last = name.rpartition(".")[2]

        def says(keyword: str, value: bool, given: dict[str | None, ast.expr] = given) -> bool:
            found = given.get(keyword)
            return isinstance(found, ast.Constant) and found.value is value

        if name in FORBIDDEN:
            yield f"calls {name}"
        if name == "torch.load" and not says("weights_only", True):
            yield "torch.load without weights_only=True"
        if last == "load_from_checkpoint" or ("ckpt_path" in given and not says("weights_only", True)):
            yield f"{name} of a checkpoint without weights_only=True"
        if "allow_pickle" in given and not says("allow_pickle", False):
            yield f"{name} with allow_pickle"
        if "trust_remote_code" in given and not says("trust_remote_code", False):
            yield f"{name} trusts remote code"
        if last == "from_pretrained" and name.startswith("Auto") and not says("trust_remote_code", False):
            yield f"{name} without trust_remote_code=False"
        if "shell" in given:
            yield f"{name} with a shell"
        imports = last == "import_module" or (name == "load" and "graftlm.loading" in text)
        if imports and not isinstance(node.args[0], ast.Constant) and file not in MAY_IMPORT:
            yield "imports a module by a name that is no constant"


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module(file: Path) -> None:
    assert list(wrong(file.read_text(encoding="utf-8"), file.relative_to(ROOT).as_posix())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "trainer.fit(module, ckpt_path=path)",
        "Module.load_from_checkpoint(path)",
        "np.load(path, allow_pickle=True)",
        "AutoTokenizer.from_pretrained(place)",
        "kind.from_pretrained(place, trust_remote_code=True)",
        "datasets.load_dataset(name, trust_remote_code=choice)",
        "yaml.load(text)",
        "hydra.utils.instantiate(config)",
        "subprocess.run(command, shell=True)",
        "importlib.import_module(name)",
        "from graftlm.loading import load; load(name)",
    ],
)
def test_the_test_can_fail(line: str) -> None:
    assert list(wrong(line, "any.py"))
