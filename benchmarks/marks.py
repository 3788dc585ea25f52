"""A table in a Markdown file, between two marks that bear its name, made anew by the benchmark that measured it."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, name: str, shown: str) -> None:
    """Put `shown` in place of what stands between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the file lacks a mark.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{path} has no marks {begin} and {end}")
    path.write_text(f"{before}{begin}\n{shown}\n{end}{after}", encoding="utf-8")
