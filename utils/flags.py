"""Command lines: types of flags, defaults in ``--help``, and a mistake in one line."""

import argparse
import difflib
import os
from pathlib import Path

from utils.files import existing_path

# What is computed with a flag's number, such as AdamW's step, must be a float32 as well.
FLOATS = 1e-30, 1e30
LARGEST_INT = 2**31 - 1


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for those that a help text explains itself."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows defaults and an example, and answers an unknown flag in one line, with the nearest one.

    Args:
        example: a command, which ends ``--help``.
        settings: those of ArgumentParser.
    """

    def __init__(self, *, example, **settings):
        super().__init__(**{"formatter_class": HelpFormatter} | settings)
        self.example = example

    def format_help(self):
        """Return argparse's text and the example, in a line of its own that can be copied."""
        return f"{super().format_help()}\nexample:\n  {self.example}\n"

    def error(self, message):
        """End with the message and exit code 2."""
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if message.startswith("unrecognized arguments: ") and unknown.startswith("-"):
            known = [name for name in self._option_string_actions if name.startswith("--")]
            near = difflib.get_close_matches(unknown.partition("=")[0], known, 1)
            message = f"there is no flag {unknown}" + (f": did you mean {near[0]}?" if near else f" ({self.prog} --help)")
        self.exit(2, f"error: {message}\n")


def between(number, smallest, largest):
    """A type of flag: an int or float within bounds, both of which it may be."""

    def parse(text):
        value = number(text)
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{text} is not between {smallest} and {largest}")
        return value

    parse.__name__ = number.__name__  # argparse names the type of what is no number
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
    """A path as it is spelled on disk; ``~`` is a home folder, also in ``--output_root=~/x``, which bash leaves as it is."""
    expanded = os.path.expanduser(word(text))
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(f"{text}: there is no such home folder; a name that begins so is ./{text}")
    return existing_path(Path(expanded))


def encoder_name(text):
    """A folder's path as ``named_path`` takes it, else a hub name."""
    path = named_path(text)
    return str(path) if text.startswith("~") or path.is_dir() else text


def folder_name(text):
    if text in ("", ".", "..") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of one folder")
    return text
