"""Docstrings of installed packages: body -> first sentence, and all of their text.

Source files are found through the metadata of installed distributions and read with `ast`; nothing is imported. The
default is what graftlm itself depends on, so that an unrelated package in the environment does not change the corpus.
A family of distributions is a group: no package is in train and in test.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import re
import string
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from graftlm.data.rows import Pair, Text
from graftlm.data.settings import DocstringsData
from graftlm.data.sources.docstring_text import Docstring, read_docstring
from graftlm.errors import DataError, Problem

EXTRACTION = 1  # raise when the same files would give other rows
LANG = "en_XX"
SUMMARY_WORDS = range(3, 41)
SAME_SUMMARY = 3  # pairs: a summary met more often belongs to copied or generated code
MIN_TEXT = 40  # characters
FILES_FOR_WORKERS = 500  # fewer are read before a worker has started
MAX_TEXT = 8_000  # characters: a few docstrings are whole manuals
SKIPPED_FOLDERS = frozenset(
    [
        "test",
        "tests",
        "_test",
        "_tests",
        "testdata",
        "_vendor",
        "vendor",
        "vendored",
        "_vendored",
        "third_party",
        "thirdparty",
        "extern",
        "externals",
        "site-packages",
        "__pycache__",
    ]
)

# generated code that says the same of each chart in 1,400 files, tests, vendored copies, what others are generated from
LEFT_OUT = (
    "plotly/graph_objs/",
    "plotly/validators/",
    "plotly/graph_objects/",
    "torch/testing/_internal/",
    "typer/_click/",
)
LEFT_OUT_NAMES = ("test_", "modular_")
LETTERS = string.ascii_letters.encode()
NOT_A_SUMMARY = re.compile(r"^\W|^[\w.-]+:|:$|\*optional\*|\(torch\.|of shape \(|https?://")


def open_source(settings: DocstringsData, path: str) -> DocstringSource:
    return DocstringSource(settings, path)


def check(settings: DocstringsData, path: str, rows: bool = True) -> list[Problem]:
    """Named packages that are not installed; an empty choice."""
    missing = [
        Problem(f"{path}.packages", name, "is not installed here", f"pip install {name}, or leave it out")
        for name in settings.packages or []
        if find_distribution(name) is None
    ]
    if missing:
        return missing
    if not chosen(settings):
        return [
            Problem(
                f"{path}.packages",
                settings.packages,
                "leaves no package to read",
                f"null takes the default, or empty {path}.exclude",
            )
        ]
    return []


def normal_name(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def family(name: str) -> str:
    """What siblings share that repeat each other's words: `opentelemetry` of opentelemetry-sdk, `httpx` of httpx2."""
    first = normal_name(name).split("-")[0]
    bare = first.rstrip("0123456789")
    return bare if len(bare) >= 3 else first


def find_distribution(name: str) -> importlib.metadata.Distribution | None:
    """By the distribution's name, or by the name it is imported under."""
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        owners = importlib.metadata.packages_distributions().get(name, [])
        return importlib.metadata.distribution(owners[0]) if owners else None


def dependencies(name: str) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that `name` needs, transitively and without its extras, by normal name."""
    from packaging.requirements import InvalidRequirement, Requirement

    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [name]
    seen = {normal_name(name)}
    while waiting:
        try:
            distribution = importlib.metadata.distribution(waiting.pop())
        except importlib.metadata.PackageNotFoundError:
            continue
        key = normal_name(distribution.metadata["Name"])
        if key != normal_name(name):
            found[key] = distribution
        for line in distribution.requires or []:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and normal_name(requirement.name) not in seen:
                seen.add(normal_name(requirement.name))
                waiting.append(requirement.name)
    return found


def chosen(settings: DocstringsData) -> dict[str, importlib.metadata.Distribution]:
    """The distributions to read, by normal name, in the order of their names."""
    if settings.packages is None:
        found = dependencies("graftlm")
    else:
        named = [find_distribution(name) for name in settings.packages]
        found = {normal_name(each.metadata["Name"]): each for each in named if each is not None}
    excluded = {normal_name(name) for name in settings.exclude}
    return {name: found[name] for name in sorted(found) if name not in excluded}


def source_files(distribution: importlib.metadata.Distribution) -> list[Path]:
    """The distribution's .py files without tests and vendored copies, in the order of their paths."""
    listed = [Path(str(file)) for file in distribution.files or [] if str(file).endswith(".py")]
    base = Path(str(distribution.locate_file("")))
    if not listed:  # an editable or a system install lists no files; the spec of a top-level name imports nothing
        spec = importlib.util.find_spec(distribution.metadata["Name"].replace("-", "_"))
        for folder in (spec.submodule_search_locations if spec else None) or []:
            base = Path(folder)
            listed = [file.relative_to(base) for file in base.rglob("*.py")]
    kept = [file for file in listed if not _skipped(file)]
    return [base / file for file in sorted(kept, key=lambda file: file.as_posix())]


def _skipped(file: Path) -> bool:
    name = file.name
    if name.startswith(LEFT_OUT_NAMES) or name.endswith(("_test.py", "_pb2.py")) or name in ("conftest.py", "tests.py"):
        return True
    if file.as_posix().startswith(LEFT_OUT):
        return True
    return file.is_absolute() or ".." in file.parts or any(part in SKIPPED_FOLDERS for part in file.parts[:-1])


def raw_docstrings(code: bytes) -> Iterator[str]:
    """Docstrings of the module, its classes and functions, and those attached by `add_docstr`-like calls."""
    try:
        module = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # a template, or written for another Python
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        body: list[ast.stmt] = getattr(node, "body", [])
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first.value.value
        children: list[ast.AST] = []
        for statement in body:
            if isinstance(
                statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.If | ast.Try | ast.With
            ):
                children.append(statement)
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                yield from _attached(statement.value)
        for statement in getattr(node, "orelse", []):
            if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.If):
                children.append(statement)
        waiting.extend(reversed(children))


def _attached(call: ast.Call) -> Iterator[str]:
    """`add_docstr(torch.abs, r'''...''')`, `add_newdoc('numpy', 'sin', '''...''')`."""
    function = call.func
    name = (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
    if name.startswith("add_") and "doc" in name:
        for argument in call.args[1:]:
            text: ast.AST = argument
            while isinstance(text, ast.Call) and isinstance(text.func, ast.Attribute):
                text = text.func.value  # r"...".format(...)
            if isinstance(text, ast.Constant) and isinstance(text.value, str) and "\n" in text.value:
                yield text.value


@dataclass
class DocstringSource:
    """Docstrings of the chosen distributions. Reading is done once and kept."""

    settings: DocstringsData
    path: str = "data"
    _read: list[tuple[str, Docstring]] | None = field(default=None, repr=False)

    def fingerprint(self) -> dict[str, object]:
        return {
            "kind": "docstrings",
            "extraction": EXTRACTION,
            "min_body": self.settings.min_body,
            "packages": [[name, each.version] for name, each in chosen(self.settings).items()],
        }

    def texts(self) -> Iterator[Text]:
        for group, found in self._rows():
            yield Text(found.text, LANG, group)

    def pairs(self) -> Iterator[Pair]:
        times: Counter[str] = Counter()
        bodies: set[str] = set()
        for group, found in self._rows():
            if len(found.body) >= self.settings.min_body and is_pair(found):
                summary, body = found.summary.casefold(), found.body.casefold()
                times[summary] += 1
                if times[summary] > SAME_SUMMARY or body in bodies:
                    continue
                bodies.add(body)
                yield Pair(found.body, found.summary, LANG, LANG, group)

    def _rows(self) -> Iterator[tuple[str, Docstring]]:
        if self._read is not None:
            yield from self._read
            return
        problems = check(self.settings, self.path)
        if problems:
            raise DataError(problems)
        read: list[tuple[str, Docstring]] = []
        for row in _extract(chosen(self.settings)):
            read.append(row)
            yield row
        self._read = read


def _extract(distributions: dict[str, importlib.metadata.Distribution]) -> Iterator[tuple[str, Docstring]]:
    seen: set[str] = set()
    raws: set[bytes] = set()
    groups: list[str] = []
    files: list[Path] = []
    for name, distribution in distributions.items():
        for file in source_files(distribution):
            groups.append(family(name))
            files.append(file)
    for group, read in zip(groups, _read_all(files), strict=True):
        for raw, found in read:
            key = found.text.casefold()
            if raw not in raws and key not in seen:
                seen.add(key)
                yield group, found
            raws.add(raw)


def _read_all(files: list[Path]) -> Iterator[list[tuple[bytes, Docstring]]]:
    """Docstrings of each file, in the order of the files, read on all cores where there are many."""
    workers = min(os.cpu_count() or 1, 8)
    if len(files) < FILES_FOR_WORKERS or workers == 1:
        yield from map(_read_file, files)
        return
    # spawned, not forked: torch may have started its threads in this process
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_read_file, files, chunksize=32)


def _read_file(file: Path) -> list[tuple[bytes, Docstring]]:
    """Docstrings of one file that are prose, each with a digest of how it stands there."""
    try:
        code = file.read_bytes()
    except OSError:
        return []  # listed, but removed since
    if b'"""' not in code and b"'''" not in code:
        return []
    collecting = gc.isenabled()
    gc.disable()  # syntax trees are all garbage at once; the collector's walks over them cost a third of the time
    try:
        raws = dict.fromkeys(raw for raw in raw_docstrings(code) if len(raw) >= MIN_TEXT)
    finally:
        if collecting:
            gc.enable()
    found = [
        (hashlib.blake2b(raw.encode("utf-8", "replace"), digest_size=12).digest(), _short(read_docstring(raw)))
        for raw in raws
    ]
    return [(digest, each) for digest, each in found if len(each.text) >= MIN_TEXT and is_prose(each.text)]


def _short(found: Docstring) -> Docstring:
    if len(found.body) <= MAX_TEXT:
        return found
    return Docstring(found.summary, found.body[:MAX_TEXT].rsplit(" ", 1)[0])


def is_prose(text: str) -> bool:
    """Whether it is words for the most part, in Latin letters."""
    latin = text.encode("ascii", "ignore")
    letters = len(latin) - len(latin.translate(None, LETTERS))
    spaces = latin.count(b" ")
    return letters + spaces >= 0.75 * len(text) and spaces >= 0.08 * len(text) and len(latin) >= 0.9 * len(text)


def is_pair(found: Docstring) -> bool:
    """Whether the summary is a line of words that the body does not already say."""
    return (
        len(found.summary.split()) in SUMMARY_WORDS
        and not NOT_A_SUMMARY.search(found.summary)
        and is_prose(found.summary)
        and is_prose(found.body)
        and found.summary.rstrip(".").casefold() not in found.body.casefold()
    )
