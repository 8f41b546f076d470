"""Command lines: flag types, defaults in ``--help``, and one-line errors."""

import argparse
import difflib
import os
from pathlib import Path

from utils.files import existing_path

# Values computed from a flag, such as AdamW's step, must also fit into a float32.
FLOATS = 1e-30, 1e30
LARGEST_INT = 2**31 - 1


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except None and False, which the help text explains."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows defaults and an example, and suggests the closest match for an unknown flag.

    Args:
        example: a command, shown at the end of ``--help``.
        settings: passed to ArgumentParser.
    """

    def __init__(self, *, example, **settings):
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False} | settings)
        self.example = example

    def format_help(self):
        """Return argparse's text followed by the example on its own line, ready to copy."""
        return f"{super().format_help()}\nexample:\n  {self.example}\n"

    def error(self, message):
        """Print the message and exit with code 2."""
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if message.startswith("unrecognized arguments: ") and unknown.startswith("-"):
            known = [name for name in self._option_string_actions if name.startswith("--")]
            near = difflib.get_close_matches(unknown.partition("=")[0], known, 1)
            message = f"there is no flag {unknown}" + (f": did you mean {near[0]}?" if near else f" ({self.prog} --help)")
        self.exit(2, f"error: {message}\n")


def between(number, smallest, largest):
    """A flag type: an int or float within inclusive bounds."""

    def parse(text):
        value = number(text)
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{text} is not between {smallest} and {largest}")
        return value

    parse.__name__ = number.__name__  # argparse shows it in errors
    return parse


positive_int = between(int, 1, LARGEST_INT)
count = between(int, 0, LARGEST_INT)
seed_number = between(int, 0, 2**32 - 1)
positive_float = between(float, *FLOATS)
non_negative_float = between(float, 0, FLOATS[1])


def word(text):
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return text


def named_path(text):
    """A path as spelled on disk, with ``~`` expanded, also in ``--output_root=~/x``, which bash does not expand."""
    expanded = os.path.expanduser(word(text))
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(f"{text}: there is no such home folder; for a file of that name use ./{text}")
    return existing_path(Path(expanded))


def encoder_name(text):
    """The path of a folder, as ``named_path``, or a hub name."""
    path = named_path(text)
    return str(path) if text.startswith("~") or path.is_dir() else text


def folder_name(text):
    if text in ("", ".", "..") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of one folder")
    return text
