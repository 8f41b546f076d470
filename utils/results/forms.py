"""A report of tables, in the five output formats of evaluate.py."""

import csv
import io
import textwrap
import unicodedata
from dataclasses import dataclass, field, replace

from utils.errors import printable
from utils.files import as_json, spreadsheet_safe
from utils.results.latex import latex
from utils.results.tables import grouped

WIDTH = 128
# Maximum lines of the default report, and maximum notes at its beginning.
LINES, NOTES = 60, 4
MORE = "--all prints them"


@dataclass
class Report:
    """Tables, with notes above and lists below.

    Attributes:
        tables: Tables.
        notes: sentences.
        lists: ``{heading: lines}``.
        synthetic: whether the runs are synthetic; None if marked in each row instead.
        marked: rows that need recordings of earlier tasks, marked in every table.
        brief: keep terminal output short: lists that would make it longer than LINES are reduced to their lengths.
    """

    tables: list
    notes: list
    lists: dict = field(default_factory=dict)
    synthetic: bool | None = None
    marked: tuple = ()
    brief: bool = False

    def __post_init__(self):
        if self.brief and len(self.notes) > NOTES:
            self.notes = [*self.notes[: NOTES - 1], f"Further notes: {len(self.notes) - NOTES + 1} ({MORE})."]
        # In each title, so that a table copied elsewhere is still marked.
        more = ", synthetic" if self.synthetic else ""
        self.tables = [replace(table, title=table.title + more, marked=self.marked) for table in self.tables]

    def render(self, form):
        """The report as a str in one of FORMATS."""
        if form in ("csv", "json"):
            return self._csv() if form == "csv" else self._json()
        return printable({"text": self._text, "markdown": self._markdown, "latex": lambda: latex(self)}[form]())

    def _about(self):
        return {} if self.synthetic is None else {"synthetic": self.synthetic}

    def _text(self):
        parts, said = ["\n".join(self.notes)] if self.notes else [], set()
        for table in self.tables:
            head, *body = table.cells()
            groups, names = grouped(head)
            widths = [max(map(_width, column)) for column in zip(names, *body)]
            above, at = [], 0
            for group, n in groups:  # a group's name spans all of its columns
                widths[at + n - 1] += max(_width(group) - sum(widths[at : at + n]) - 2 * (n - 1), 0)
                above.append(_padded(group, sum(widths[at : at + n]) + 2 * (n - 1)))
                at += n
            lines = [above, *(map(_padded, line, widths) for line in (names, *body))]
            group_line, head, *body = ["  ".join(line).rstrip() for line in lines]
            rule = "-" * max(map(_width, (group_line, head, *body)))
            below = [line for sentence in _unsaid(table, said) for line in textwrap.wrap(sentence, WIDTH)]
            parts.append("\n".join([table.title, rule, *filter(None, [group_line]), head, rule, *body, rule, *below]))
        return self._with_lists(parts, lambda heading: f"{heading}:", "  {}".format)

    def _markdown(self):
        parts, said = ["  \n".join(self.notes)] if self.notes else [], set()
        for table in self.tables:
            cells = table.cells()
            head, *body = [f"| {' | '.join(map(_in_markdown, line))} |" for line in cells]
            rule = "| --- " + "| ---: " * (len(cells[0]) - 1) + "|"
            parts += [f"**{table.title}**", "\n".join([head, rule, *body]), "  \n".join(_unsaid(table, said))]
        return self._with_lists(filter(None, parts), "**{}**\n".format, "- `{}`".format)

    def _with_lists(self, parts, heading_in_form, line_in_form):
        """The parts and all lists as one text; in a brief report, the lists' lengths if the lists do not fit."""
        lists = ["\n".join([heading_in_form(heading), *map(line_in_form, lines)]) for heading, lines in self.lists.items()]
        parts = list(parts)
        text = "\n\n".join(parts + lists) + "\n"
        if self.brief and text.count("\n") >= LINES:
            counts = [f"{heading}: {len(lines)} ({MORE})" for heading, lines in self.lists.items()]
            text = "\n\n".join([*parts, "\n".join(counts)]) + "\n"
        return text

    def _csv(self):
        records = [self._about() | record for table in self.tables for record in table.records()]
        names = [name for name in dict.fromkeys(name for record in records for name in record) if name != "per_fold"]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: spreadsheet_safe(value) for name, value in record.items()} for record in records)
        return text.getvalue()

    def _json(self):
        tables = [
            {"table": table.name, "title": table.title, "notes": table.captions(), "cells": list(table.records())}
            for table in self.tables
        ]
        return as_json({**self._about(), "notes": self.notes, "tables": tables, **self.lists})


def _width(text):
    """Width of a text in terminal columns, where Hangul is twice as wide as Latin."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _padded(text, width):
    return text + " " * (width - _width(text))


def _unsaid(table, said):
    """The table's captions, without notes already shown below an earlier table."""
    first, *notes = table.captions() or ("",)
    new = [caption for caption in (first, *notes) if caption and (caption == first or caption not in said)]
    said.update(notes)
    return new


def _in_markdown(text):
    return text.replace("|", r"\|").replace("_", r"\_")
