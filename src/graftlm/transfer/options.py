"""What is wrong with a graft between two folders, in the words of `graftlm transfer`, not of an experiment."""

from __future__ import annotations

import re

from graftlm.errors import Problem

_OPTIONS = {"host": "--seq2seq", "donor": "--encoder"}
_MODEL = re.compile(r"model\.(host|donor)(?:\.(\w+))?")
_SETTING = re.compile(r"model\.|^(set|lower) it\b")  # in a remedy that a folder does not have


def in_options(problem: Problem, encoder: str, seq2seq: str, built: bool) -> Problem:
    """The same problem with an option as its path, and a remedy that can be followed there.

    encoder, seq2seq, built: what was given as `--encoder` and `--seq2seq`, and whether the latter is `config`.
    """
    path, value, reason = problem.path, problem.value, problem.reason
    remedy = re.sub(r"\btransfer=(\w+)", r"--strategy \1", problem.remedy)
    if built:
        remedy = re.sub(r"\bmodel\.host\.architecture=(\w+)", r"--architecture \1", remedy)
    found = _MODEL.fullmatch(path)
    if path == "transfer":
        path = "--strategy"
    elif found and built and found[2] == "architecture":
        path = "--architecture"
    elif found:
        if found[2]:
            reason = f"its {found[2]}={value} {reason}"
        elif value is not None:
            reason = f"{value} {reason}"
        path, value = _OPTIONS[found[1]], seq2seq if found[1] == "host" else encoder
    kept = [part for part in remedy.split(", or ") if not _SETTING.search(part) or not (found or "model." in part)]
    return Problem(path, value, reason, ", or ".join(kept) or "name another folder")
