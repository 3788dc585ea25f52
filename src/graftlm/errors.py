"""Every error a user can cause, in one tree.

A problem names the setting by its config path, the value found, what is wrong with it and what to do. An error carries
one or more problems; the command line prints each as one line and exits with a non-zero code, without a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

PASSWORD = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")  # in an address


def printable(text: str) -> str:
    """The text for a terminal: what would steer it becomes an escape, and no password of an address is shown."""
    if not text.isprintable():
        text = "".join(
            sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text
        )
    return PASSWORD.sub("***", text) if "://" in text else text


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what was found there, why it cannot be, and the remedy."""

    path: str
    value: object
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        shown = str(self.value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        where = f"{self.path}={shown}" if self.value is not None else self.path
        line = f"{where}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")
        return printable(" ".join(line.split()))


class GraftlmError(Exception):
    """The root: something a user can mend. `problems` holds at least one, and each once."""

    def __init__(self, problems: Sequence[Problem] | Problem):
        given = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.problems: tuple[Problem, ...] = tuple({str(problem): problem for problem in given}.values())
        if not self.problems:
            raise ValueError("an error needs at least one problem")
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def at(cls, path: str, value: object, reason: str, remedy: str = "") -> GraftlmError:
        """The error with a single problem."""
        return cls(Problem(path, value, reason, remedy))


class SettingsError(GraftlmError):
    """The configuration is wrong: found before anything is read, trained or written."""


class DataError(GraftlmError):
    """A source of text cannot be read, or what it holds cannot be used."""


class CheckpointError(GraftlmError):
    """A model or tokenizer folder is missing, incomplete, or of another kind."""


class TransferError(GraftlmError):
    """A graft does not fit its donor and host, or transplanted nothing."""


class TrainingError(GraftlmError):
    """Training cannot go on: the loss is not a number, or has exploded."""


class StoreError(GraftlmError):
    """An artifact is damaged, or its folder cannot be written."""


class MachineError(GraftlmError):
    """The machine gave out: its disk, memory, file handles, or a process (`graftlm.faults`)."""


class ReportError(GraftlmError):
    """There is nothing to report on, or a record cannot be read."""


def first_line(error: BaseException) -> str:
    """The first line of an error of others that says something, or its class; to stand in a line of ours."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return printable(line[:200].rstrip(".: "))
