"""A report of tables, in the five forms that evaluate.py can give it."""

import csv
import io
import textwrap
from dataclasses import dataclass, field, replace
from functools import cached_property

from utils.errors import printable
from utils.files import as_json, spreadsheet_safe
from utils.results.runs import Estimate

MISSING = "-"
WIDTH = 128
LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "†": r"$\dagger$",
    "−": "--",
    "–": "--",
    "→": r"$\rightarrow$",
}
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX = str.maketrans(LATEX)


class Change(Estimate):
    """An Estimate of a difference: its sign is shown."""


class PairedDifference(Estimate):
    """An Estimate of a difference that is shown with its confidence interval."""


class Signed(float):
    """A number whose sign is shown."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Attributes:
        name: what csv and json call the table.
        title: what people read above it.
        corner: heading of the column of row names.
        rows: ``{row name: {column name: cell}}``; a cell is an Estimate, a number, a str, a bool or None for a dash. All rows
            have the same columns.
        about: further facts for every row of csv and json, such as the metric.
        notes: sentences below the table.
        digits: decimals of its numbers.
        marked: names of the rows that people read with a dagger.
        best: ``{column name: names of the rows whose cells are the best of it}``, which LaTeX sets in bold.
    """

    name: str
    title: str
    corner: str
    rows: dict
    about: dict = field(default_factory=dict)
    notes: tuple = ()
    digits: int = 3
    marked: tuple = ()
    best: dict = field(default_factory=dict)

    @property
    def columns(self):
        return list(next(iter(self.rows.values()), {}))

    def has_cells(self):
        """Is any of its cells more than a dash?"""
        return any(cell is not None for row in self.rows.values() for cell in row.values())

    @cached_property
    def _estimates(self):
        return [cell for row in self.rows.values() for cell in row.values() if isinstance(cell, Estimate)]

    @cached_property
    def _fold_counts(self):
        return {len(estimate.per_fold) for estimate in self._estimates}

    @cached_property
    def _seeds(self):
        return sorted({seed for estimate in self._estimates for seed in estimate.seeds})

    def cells(self):
        """The table as lists of texts, its heading first."""
        lines = [[self.corner, *self.columns]]
        for name, row in self.rows.items():
            lines.append([f"{name} †" if name in self.marked else name, *(self._text(cell) for cell in row.values())])
        return lines

    def _text(self, cell):
        text = cell_text(cell, self.digits)
        if isinstance(cell, Estimate):
            if cell.seeds and len(cell.seeds) < len(self._seeds):
                text += " *"
            if len(self._fold_counts) > 1:
                text += f" ({len(cell.per_fold)})"
        return text

    def captions(self):
        """Over which folds and seeds its numbers are, and the notes."""
        if not self._estimates:
            return self.notes
        several = self._fold_counts != {1}
        spread = "± standard deviation"
        if any(isinstance(estimate, PairedDifference) for estimate in self._estimates):
            spread = "[95 % confidence interval by Student's t]"
        folds = f"{min(self._fold_counts)} folds" if len(self._fold_counts) == 1 else "folds (how many)"
        what = f"Mean {spread} over {folds}" if several else "One fold"
        if len(self._seeds) > 1:
            what += f" of the means over seeds {', '.join(map(str, self._seeds))}"
            if any(estimate.seeds and len(estimate.seeds) < len(self._seeds) for estimate in self._estimates):
                what += "; * where only some of these seeds are on every fold"
        return (f"{what}.", *self.notes)

    def records(self):
        """One dictionary a cell, numbers as numbers."""
        for row_name, row in self.rows.items():
            for column, cell in row.items():
                record = {"table": self.name, **self.about, "row": row_name, "column": column}
                if isinstance(cell, Estimate):
                    low, high = cell.interval or (None, None)
                    record |= {"value": cell.mean, "std": cell.std, "folds": len(cell.per_fold)}
                    record |= {"ci95_low": low, "ci95_high": high, "seeds": " ".join(map(str, cell.seeds))}
                    record["per_fold"] = cell.per_fold
                else:
                    record["value"] = cell
                yield record


def cell_text(cell, digits):
    """A cell as people read it."""
    if cell is None:
        return MISSING
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:+.{digits}f}" if isinstance(cell, Signed) else f"{cell:.{digits}f}"
    if not isinstance(cell, Estimate):
        return cell
    sign = "+" if isinstance(cell, Change | PairedDifference) else ""
    text = f"{cell.mean:{sign}.{digits}f}"
    if isinstance(cell, PairedDifference):
        if cell.interval:
            text += " [{:+.{digits}f}, {:+.{digits}f}]".format(*cell.interval, digits=digits)
    elif cell.std is not None:
        text += f" ± {cell.std:.{digits}f}"
    return text


@dataclass
class Report:
    """Tables with sentences before them and lists below.

    Attributes:
        tables: Tables.
        notes: sentences.
        lists: ``{heading: lines}``.
        synthetic: does it tell of synthetic runs? None where each row says so itself.
    """

    tables: list
    notes: list
    lists: dict = field(default_factory=dict)
    synthetic: bool | None = None

    def __post_init__(self):
        if self.synthetic:  # a table that is copied elsewhere still says so
            self.tables = [replace(table, title=f"{table.title}, synthetic") for table in self.tables]

    def render(self, form):
        """The report as a str in one of FORMATS."""
        if form in ("csv", "json"):
            return self._csv() if form == "csv" else self._json()
        return printable({"text": self._text, "markdown": self._markdown, "latex": self._latex}[form]())

    def _about(self):
        return {} if self.synthetic is None else {"synthetic": self.synthetic}

    def _text(self):
        parts, said = ["\n".join(self.notes)] if self.notes else [], set()
        for table in self.tables:
            lines = table.cells()
            widths = [max(map(len, column)) for column in zip(*lines)]
            body = ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines]
            rule = "-" * max(map(len, body))
            below = [line for sentence in _unsaid(table, said) for line in textwrap.wrap(sentence, WIDTH)]
            parts.append("\n".join([table.title, rule, body[0], rule, *body[1:], rule, *below]))
        parts += ["\n".join([f"{heading}:", *(f"  {line}" for line in lines)]) for heading, lines in self.lists.items()]
        return "\n\n".join(parts) + "\n"

    def _markdown(self):
        parts, said = ["  \n".join(self.notes)] if self.notes else [], set()
        for table in self.tables:
            head, *body = [f"| {' | '.join(map(_in_markdown, line))} |" for line in table.cells()]
            rule = "| --- " + "| ---: " * len(table.columns) + "|"
            parts += [f"**{table.title}**", "\n".join([head, rule, *body]), "  \n".join(_unsaid(table, said))]
        for heading, lines in self.lists.items():
            parts.append("\n".join([f"**{heading}**", "", *(f"- `{line}`" for line in lines)]))
        return "\n\n".join(part for part in parts if part) + "\n"

    def _latex(self):
        parts = ["% needs \\usepackage{booktabs}", *(f"% {note}" for note in self.notes)]
        for table in self.tables:
            head, *body = (" & ".join(map(_in_latex, line)) + r" \\" for line in table.cells())
            caption = " ".join([f"{table.title}.", *table.captions()])
            parts += [
                *("", r"\begin{table}", r"\centering", rf"\caption{{{_in_latex(caption)}}}"),
                *(rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule", head, r"\midrule", *body),
                *(r"\bottomrule", r"\end{tabular}", r"\end{table}"),
            ]
        for heading, lines in self.lists.items():
            parts += ["", f"% {heading}:", *(f"%   {line}" for line in lines)]
        return "\n".join(parts) + "\n"

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


def _unsaid(table, said):
    """The table's captions without those that stand under a table before it."""
    first, *notes = table.captions() or ("",)
    new = [caption for caption in (first, *notes) if caption and (caption == first or caption not in said)]
    said.update(notes)
    return new


def _in_markdown(text):
    return text.replace("|", r"\|").replace("_", r"\_")


def _in_latex(text):
    return text.translate(LATEX)
