"""The command line: `graftlm run | plan | report | export | store | transfer | data | wandb`.

Each command is a module of `graftlm.commands`; nothing heavy is imported before it is needed, so that help, plan and
mistakes answer at once. Mistakes of a user end in one line each on standard error and exit code 2; a failed job in
exit code 1; a mistake of ours in one line that names a file to send (`graftlm.bugs`) and exit code 3.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

import graftlm
from graftlm import pages
from graftlm.errors import GraftlmError, SettingsError

COMMANDS = ("run", "plan", "report", "export", "store", "transfer", "data", "wandb")
TRAINING = ("run", "transfer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    0 done, 1 a job failed, 2 a mistake, 3 a mistake of ours, 128 + a signal's number where one ended it (130 Ctrl-C,
    143 SIGTERM).
    """
    # OpenMP's threads wait actively for each other: unbounded, a second busy process makes that many times slower
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or a pipe that does not know every letter
            stream.reconfigure(errors="backslashreplace")
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_help())
            return 0
        if words[0] == "--version":
            print(graftlm.__version__)
            return 0
        command, rest = words[0], words[1:]
        if command not in COMMANDS:
            raise SettingsError.at("command", command, "is not known", "one of " + ", ".join(COMMANDS))
        if arguments is None and command in TRAINING:
            pages.begin_again()
        code: int = import_module(f"graftlm.commands.{command}").run(rest)
        return code
    except GraftlmError as error:
        for problem in error.problems:
            print(f"graftlm: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        if arguments is None:  # the process ends: one more would only end in the midst of that
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        name = str(interrupt) or "SIGINT"
        print(f"graftlm: interrupted ({name}); the same command goes on from here", file=sys.stderr)
        return int(getattr(interrupt, "code", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _unexpected(error, words)


def _unexpected(error: Exception, words: Sequence[str]) -> int:
    """Tell of what nothing else has told of: what the machine lacks, or a mistake of ours."""
    from graftlm import bugs, faults

    if fault := faults.in_the_way(error, words[0]):
        print(f"graftlm: {fault}", file=sys.stderr)
        return 2
    file = bugs.report(error, words)
    where = f"send {file} to its maintainers" if file else "no folder could be written to keep what is known of it"
    print(f"graftlm: {bugs.told(error, where)}", file=sys.stderr)
    return 3


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {import_module(f'graftlm.commands.{name}').ABOUT}" for name in COMMANDS)
    return (
        f"graftlm {graftlm.__version__}: graft an XLM-R encoder into an mBART, and measure whether it helped\n\n"
        f"usage: graftlm COMMAND [...]\n\n{lines}\n\ngraftlm COMMAND --help tells more."
    )


if __name__ == "__main__":
    sys.exit(main())
