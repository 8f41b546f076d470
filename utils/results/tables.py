"""Tables of evaluate.py: cells, their formatting, and the sentences below."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

from utils.results.runs import Bootstrapped, Estimate

MISSING = "-"


class Change(Estimate):
    """An Estimate of a difference, formatted with its sign."""


class PairedDifference(Estimate):
    """An Estimate of a difference, formatted with its confidence interval."""


class Signed(float):
    """A number formatted with its sign."""


class Best(str):
    """Text of a cell among the best of its column."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Attributes:
        name: its name in csv and json.
        title: heading above the table.
        corner: heading of the column of row names.
        rows: ``{row name: {column name: cell}}``; a cell is an Estimate, a number, a str, a bool or None for a dash. All rows
            have the same columns.
        about: additional fields for every row of csv and json, such as the metric.
        notes: sentences below the table.
        digits: decimals of its numbers.
        marked: rows marked with a dagger in text formats, also if more follows the name: "er, change".
        best: ``{column name: names of the rows with the best cells}``, in bold in LaTeX.
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
        """Return whether any cell has a value."""
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

    @cached_property
    def _tested(self):
        """The columns in which any paired difference has an interval."""
        cells = ((column, cell) for row in self.rows.values() for column, cell in row.items())
        return {column for column, cell in cells if isinstance(cell, PairedDifference) and cell.interval}

    def cells(self):
        """The table as lists of str, heading first; the best cells are of class Best."""
        lines = [[self.corner]]
        for column in self.columns:
            lines[0] += [column, *(("p", "Holm", "±.01") if column in self._tested else ())]
        for name, row in self.rows.items():
            line = [self._marked_name(name)]
            for column, cell in row.items():
                text = self._text(cell)
                line.append(Best(text) if name in self.best.get(column, ()) else text)
                if column in self._tested:
                    line += [_p_text(cell and cell.p), _p_text(cell and cell.p_holm), _p_text(cell and cell.p_within, 2)]
            lines.append(line)
        return lines

    def _marked_name(self, name):
        row, comma, more = name.partition(", ")
        return f"{row} †{comma}{more}" if row in self.marked else name

    def _text(self, cell):
        text = cell_text(cell, self.digits)
        if isinstance(cell, Estimate):
            if cell.seeds and len(cell.seeds) < len(self._seeds):
                text += " *"
            if len(self._fold_counts) > 1:
                text += f" ({len(cell.per_fold)})"
        return text

    def captions(self):
        """Caption (folds, seeds, spread), the notes, and the meaning of the dagger unless the notes explain it."""
        notes = self.notes
        if any(self._marked_name(name) != name for name in self.rows) and not any(note.startswith("†") for note in notes):
            notes = (*notes, "† needs the recordings of earlier tasks.")
        if not self._estimates:
            return notes
        several = self._fold_counts != {1}
        spread = " ± standard deviation"
        if any(isinstance(estimate, PairedDifference) for estimate in self._estimates):
            spread = " [95 % confidence interval]" if self._tested else ""
        elif any(isinstance(estimate, Bootstrapped) for estimate in self._estimates):
            spread = " [interval]"
        folds = f"{min(self._fold_counts)} folds" if len(self._fold_counts) == 1 else "folds (how many)"
        what = f"Mean{spread} over {folds}" if several else "One fold"
        if len(self._seeds) > 1:
            what += f" of the means over seeds {', '.join(map(str, self._seeds))}"
            if any(estimate.seeds and len(estimate.seeds) < len(self._seeds) for estimate in self._estimates):
                what += "; * where only some of these seeds are on every fold"
        return (f"{what}.", *notes)

    def records(self):
        """One dictionary per cell, with unformatted numbers."""
        for row_name, row in self.rows.items():
            for column, cell in row.items():
                record = {"table": self.name, **self.about, "row": row_name, "column": column}
                if isinstance(cell, Estimate):
                    low, high = cell.interval or (None, None)
                    record |= {"value": cell.mean, "std": cell.std, "folds": len(cell.per_fold)}
                    record |= {"ci95_low": low, "ci95_high": high, "seeds": " ".join(map(str, cell.seeds))}
                    if isinstance(cell, PairedDifference):
                        record |= {"p": cell.p, "p_holm": cell.p_holm, "p_rope": cell.p_within}
                    record["per_fold"] = cell.per_fold
                else:
                    record["value"] = cell
                yield record


def cell_text(cell, digits):
    """Format a cell for people."""
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
    form = f"{'+' if isinstance(cell, Change | PairedDifference) else ''}.{digits}f"
    text = f"{cell.mean:{form}}"
    if isinstance(cell, PairedDifference | Bootstrapped):
        if cell.interval:
            text += f" [{cell.interval[0]:{form}}, {cell.interval[1]:{form}}]"
    elif cell.std is not None:
        text += f" ± {cell.std:.{digits}f}"
    return text


def _p_text(probability, digits=3):
    """Format a probability without a leading 0; a small one as a bound."""
    if probability is None:
        return MISSING
    least = 10**-digits
    text = f"{max(probability, least):.{digits}f}".lstrip("0")
    return f"<{text}" if probability < least else text


def grouped(head):
    """Split a heading of columns named "group, name" into two rows.

    Returns:
        ([(group, number of columns)], names); columns without a group are in group "".
    """
    parts = [column.rpartition(", ") for column in head]
    groups = [(group, len(list(of))) for group, of in groupby(group for group, _, _ in parts)]
    return groups, [name for _, _, name in parts]
