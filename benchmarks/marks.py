"""A table in a Markdown file, between two marks that bear its name, made anew by the benchmark that measured it."""

from __future__ import annotations

from pathlib import Path


def check(path: Path, name: str) -> None:
    """Raises what `put` would raise, for who would find that out after hours."""
    _parts(path, name)


def put(path: Path, name: str, shown: str) -> None:
    """Put `shown` in place of what stands between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the file lacks a mark.
        OSError: there is no such file.
    """
    before, after = _parts(path, name)
    path.write_text(f"{before}<!-- {name} -->\n{shown}\n<!-- /{name} -->{after}", encoding="utf-8")


def _parts(path: Path, name: str) -> tuple[str, str]:
    """What stands before and after the marks."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{path} has no marks {begin} and {end}")
    return before, after
