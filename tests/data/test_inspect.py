import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from graftlm.data.inspect import quantiles, show
from graftlm.data.settings import Columns, FilesData
from graftlm.errors import DataError


def shown(settings: FilesData, rows: int) -> str:
    out = io.StringIO()
    show(settings, rows, Console(file=out, width=200, force_terminal=False))
    return out.getvalue()


def test_counts_lengths_samples_and_dropped_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [
        {"text": f"[bold]text[/nope] \x1b[31m number {n % 90}", "summary": f"[red]{n % 90}", "group": f"\x1b[2J[b]{n}"}
        for n in range(100)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = Columns(group="group")
    out = shown(FilesData("mine\x1b[31m", "files", train=[str(file)], source_lang="de_DE", columns=columns), 2)
    assert "mine·[31m (files, summarization)" in out
    assert "·[2J[b]" in out
    assert "de_DE" in out
    assert "pairs of train that repeat another" in out
    assert "[bold]text[/nope] ·[31m number" in out, "markup and control characters are shown, not obeyed"
    assert "\x1b" not in out
    assert out.count("  source  ") == 6
    assert "  source  " not in shown(FilesData("mine", "files", train=[str(file)], source_lang="de_DE"), 0)


def test_a_wrong_source_raises_before_anything_is_printed(tmp_path: Path) -> None:
    out = io.StringIO()
    with pytest.raises(DataError, match="no such file"):
        show(FilesData("mine", "files", train=[str(tmp_path / "no.jsonl")], source_lang="de_DE"), 1, Console(file=out))
    assert out.getvalue() == ""


def test_quantiles_by_nearest_rank() -> None:
    assert quantiles(list(range(101))) == [0, 10, 50, 90, 99, 100]
    assert quantiles([]) == []
