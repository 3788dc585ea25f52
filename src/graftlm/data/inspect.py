"""What `graftlm data` prints: counts, languages, lengths, sample rows, and what was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graftlm.console import progress_for_terminal
from graftlm.data.rows import SPLITS, Pair, Text
from graftlm.data.settings import DataSettings
from graftlm.data.sources import check_source, open_source
from graftlm.data.splits import Prepared, draw, prepare
from graftlm.errors import DataError

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
SHOWN_CHARACTERS = 300


def show(settings: DataSettings, rows: int, console: Console) -> None:
    """Read the source as the corpus stage would, and print what it gives; `rows` samples a split.

    Raises:
        DataError: what is wrong with the source.
    """
    problems = check_source(settings)
    if problems:
        raise DataError(problems)
    prepared = prepare(open_source(settings), settings, progress_for_terminal())
    console.print(f"[bold]{_shown(settings.name)}[/bold] ({escape(settings.kind)}, {escape(settings.task)})")
    console.print(_counts(prepared))
    console.print(_lengths(prepared))
    if prepared.dropped:
        console.print(_dropped(prepared.dropped))
    if rows:
        _samples(prepared, rows, console)


def _counts(prepared: Prepared) -> Table:
    table = Table("split", "languages", "pairs", "texts", "groups", title="rows", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    for split in SPLITS:
        pairs, texts = prepared.pairs[split], prepared.texts[split]
        groups = len({pair.group for pair in pairs} | {text.group for text in texts})
        table.add_row(split, "all", f"{len(pairs):,}", f"{len(texts):,}", f"{groups:,}", style="bold")
        of_pairs = Counter(_languages(pair) for pair in pairs)
        of_texts = Counter(text.lang for text in texts)
        for name in sorted({*of_pairs, *of_texts}, key=lambda each: (-of_pairs[each], -of_texts[each], each)):
            table.add_row("", name, _count(of_pairs[name]), _count(of_texts[name]), "")
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _languages(pair: Pair) -> str:
    same = pair.source_lang == pair.target_lang
    return pair.source_lang if same else f"{pair.source_lang} → {pair.target_lang}"


def _lengths(prepared: Prepared) -> Table:
    names = [
        f"{quantile:.0%}" if 0 < quantile < 1 else ("least" if quantile == 0 else "most") for quantile in QUANTILES
    ]
    table = Table("of", "in", *names, title="lengths, all splits", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    pairs = [pair for split in SPLITS for pair in prepared.pairs[split]]
    texts = [text.text for split in SPLITS for text in prepared.texts[split]]
    columns = (
        ("sources", [pair.source for pair in pairs]),
        ("targets", [pair.target for pair in pairs]),
        ("texts", texts),
    )
    for name, some in columns:
        table.add_row(name, "characters", *map(str, quantiles([len(text) for text in some])))
        table.add_row("", "words", *map(str, quantiles([len(text.split()) for text in some])))
    return table


def quantiles(values: Sequence[int]) -> list[int]:
    """The values at `QUANTILES`, by nearest rank."""
    ordered = sorted(values)
    return [ordered[round(quantile * (len(ordered) - 1))] for quantile in QUANTILES] if ordered else []


def _dropped(dropped: dict[str, int]) -> Table:
    table = Table("dropped", "rows", title="dropped", title_justify="left")
    table.columns[1].justify = "right"
    for reason, count in dropped.items():
        table.add_row(_shown(reason), f"{count:,}")
    return table


def _samples(prepared: Prepared, rows: int, console: Console) -> None:
    for split in SPLITS:
        console.print(f"\n[bold]{split}[/bold]")
        for pair in draw(prepared.pairs[split], rows):
            console.print(f"[dim]{_shown(pair.group)} · {_languages(pair)}[/dim]", highlight=False)
            console.print(f"  source  {_shown(pair.source)}", highlight=False)
            console.print(f"  target  [green]{_shown(pair.target)}[/green]", highlight=False)
    console.print("\n[bold]texts of train[/bold]")
    for text in draw(prepared.texts["train"], rows):
        _text(text, console)


def _text(text: Text, console: Console) -> None:
    console.print(f"[dim]{_shown(text.group)} · {text.lang}[/dim]  {_shown(text.text)}", highlight=False)


def _shown(text: str) -> str:
    """One line, cut, without control characters, its brackets not taken for markup."""
    line = "".join(character if character.isprintable() else "·" for character in " ".join(text.split()))
    return escape(line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…")
