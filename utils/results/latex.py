"""Tables as LaTeX ready for a paper: booktabs, a label, a short caption, and the notes below the table."""

import re

from utils.results.tables import MISSING, Best, grouped

# Required packages, printed as a comment at the top.
PACKAGES = r"needs \usepackage{booktabs,graphicx}"
KOREAN = r"has characters that pdflatex lacks: compile with xelatex, and \usepackage{kotex} for Korean"
# A table with more characters per row spans both columns of a two-column page.
ONE_COLUMN = 60
CHARACTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "†": r"$\dagger$",
    "–": r"\textendash{}",
}
CHARACTERS = str.maketrans(CHARACTERS | {character: f"\\{character}" for character in "&%$#_{}"})
# A hyphen before a number, or between two terms, is a minus sign.
MINUS = re.compile(r"(?<![\w-])-(?=[\d.])|(?<= )-(?= )")
SPREAD = re.compile(r" \$\\pm\$ (\S+)")
BOLD = (
    "Bold: the best of the column, and all that the corrected 95 % interval of the paired difference to it does not show to be "
    "worse; majority, joint and rows of task_a are not compared."
)
# Last of the accented Latin letters.
LAST_LATIN = "\u024f"


def latex(report):
    """Format a Report as LaTeX: its tables, and everything else as comments."""
    used, parts = set(), []
    for table in report.tables:
        parts += _table(table, _label(table, used))
    needs = [PACKAGES, KOREAN] if max("".join(parts), default="") > LAST_LATIN else [PACKAGES]
    lists = [line for heading, lines in report.lists.items() for line in ("", f"{heading}:", *(f"  {line}" for line in lines))]
    return "\n".join([*_comments([*needs, *report.notes]), *parts, *_comments(lists)]) + "\n"


def _comments(lines):
    return [f"% {line}" if line else "" for line in lines]


def _table(table, label):
    cells = table.cells()
    widths = [max(map(len, column)) for column in zip(*cells)]
    is_wide = sum(widths) + 2 * len(widths) > ONE_COLUMN
    environment = "table*" if is_wide else "table"
    notes = " ".join([*table.captions(), *([BOLD] if any(isinstance(text, Best) for line in cells for text in line) else [])])
    return [
        *("", rf"\begin{{{environment}}}", r"\centering"),
        *(rf"\caption{{{_escaped(table.title)}.}}", rf"\label{{{label}}}", r"\smallskip"),
        *([r"\setlength{\tabcolsep}{3pt}"] if is_wide else []),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        *(rf"\begin{{tabular}}{{l{'r' * (len(widths) - 1)}}}", r"\toprule"),
        *_heading(cells[0]),
        *(r"\midrule", *map(_row, cells[1:]), r"\bottomrule", r"\end{tabular}}"),
        *([rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {_escaped(notes)}}}"] if notes else []),
        rf"\end{{{environment}}}",
    ]


def _heading(head):
    """The header row, or two rows if columns are grouped, with a rule below each group."""
    groups, names = grouped(head)
    lines, at = [], 1
    if len(groups) > 1:
        lines.append(
            _line(rf"\multicolumn{{{n}}}{{c}}{{{_escaped(group)}}}" if group else "&" * (n - 1) for group, n in groups)
        )
        for group, n in groups:
            lines += [rf"\cmidrule(lr){{{at}-{at + n - 1}}}"] * bool(group)
            at += n
    return [*lines, _line(map(_escaped, names))]


def _row(texts):
    name, more = re.fullmatch(r"(.*?)((?: †)?(?:, .*)?)", texts[0]).groups()
    first = rf"\texttt{{{_escaped(name)}}}" + _escaped(more)
    return _line([first, *(rf"\textbf{{{_cell(text)}}}" if isinstance(text, Best) else _cell(text) for text in texts[1:])])


def _line(texts):
    return " & ".join(texts) + r" \\"


def _cell(text):
    if text == MISSING:
        return "--"
    return SPREAD.sub(r" {\\scriptsize$\\pm$\1}", _escaped(text))


def _escaped(text):
    return MINUS.sub("−", text).translate(CHARACTERS).replace("--", "-{}-")


def _label(table, used):
    """``tab:`` with the table's name, metric and tasks, and a number if another table has the same."""
    words = "-".join([table.name, *(str(value).removeprefix("f1_") for value in table.about.values())])
    plain = "tab:" + re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")
    label, number = plain, 2
    while label in used:
        label, number = f"{plain}-{number}", number + 1
    used.add(label)
    return label
