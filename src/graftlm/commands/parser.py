"""argparse whose mistakes are told as all others are: one line, no usage."""

from __future__ import annotations

import argparse
from typing import NoReturn

from graftlm.errors import SettingsError


class Parser(argparse.ArgumentParser):
    """Raises `SettingsError` where argparse would print and leave; so do the parsers of its subcommands."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError.at(self.prog, None, message, f"{self.prog} --help tells more")
