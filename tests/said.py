"""Progress that keeps what it was told."""

from __future__ import annotations

from graftlm.console import Silent


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
