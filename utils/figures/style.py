"""Common style of all figures: drawn at print size, as PNG and as PDF for papers."""

import logging
import textwrap
import warnings
from collections import Counter
from itertools import cycle

import matplotlib

matplotlib.use("Agg")  # writes files, needs no display

import matplotlib.pyplot as plt
from matplotlib import font_manager

from utils.errors import UserError
from utils.files import atomic_write
from utils.methods import METHODS

# Widths in inches of one column and of both in a two-column paper; no text is smaller than SMALL points at that size.
COLUMN, PAGE = 3.5, 7.16
SMALL, NORMAL = 7, 8
# With more rows, colours become indistinguishable and figures longer than a page.
MOST_ROWS = 8
# Okabe and Ito's colour-blind safe palette.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#000000 #E69F00 #56B4E9 #009E73 #0072B2 #D55E00 #CC79A7".split()
GREY = "#777777"
LABEL_COLOURS = dict(angry=VERMILION, disgust=GREEN, fear=PURPLE, happy=ORANGE, neutral=BLACK, sad=BLUE, surprise=SKY)
# For other classes, and for rows not named after a method: dark enough on white, and distinct from those above.
FURTHER = ("#CC6677", "#999933", "#6699CC", "#AA7744", "#AA4466", "#665544", "#888888")
# For the first task, the second, and so on.
TASK_COLOURS = BLUE, VERMILION, GREEN, ORANGE, PURPLE, BLACK, *FURTHER
MARKERS = "sD^vPX<>*hp"
# Common fonts with Hangul on Linux, Windows and macOS.
HANGUL_FONTS = "NanumGothic", "Noto Sans CJK KR", "Noto Sans KR", "UnDotum", "Malgun Gothic", "Apple SD Gothic Neo"


class CannotDraw(Exception):
    """Raised if runs for a figure are missing; the message names them."""


def label(row):
    """A row's name in figures, on one line."""
    method = row.removesuffix("_tuned")
    if row in METHODS or method not in METHODS:
        return (METHODS[row].label if row in METHODS else "") or row
    return f"{label(method)}, tuned"


def wrapped(text, width=20):
    """Wrap a name to about ``width`` characters per line, at spaces and underscores."""
    return textwrap.fill(text.replace("_", "_ "), width, break_long_words=False).replace("_ ", "_")


def row_styles(rows):
    """A colour and a marker for each row, ``{row: (colour, marker)}``; a method's own and tuned rows have its colour."""
    further = cycle((BLACK, GREY, *FURTHER))
    methods = [METHODS.get(row.removesuffix("_tuned")) for row in rows]
    colours = [method.colour if method else next(further) for method in methods]
    return dict(zip(rows, zip(colours, cycle(MARKERS))))


def label_colours(labels):
    """A colour for each class, ``{label: colour}``."""
    return LABEL_COLOURS | dict(zip((label for label in labels if label not in LABEL_COLOURS), cycle(FURTHER)))


def hangul_font():
    """The name of an installed font with Hangul, or None."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in HANGUL_FONTS if name in installed), None)


def prepare():
    """Set matplotlib's defaults for all figures."""
    plt.rcdefaults()
    plt.rc("font", family=[*filter(None, ("DejaVu Sans", hangul_font()))], size=NORMAL)
    plt.rc("axes", titlesize=NORMAL, labelsize=NORMAL, linewidth=0.6)
    plt.rc("axes.spines", top=False, right=False)
    plt.rc(("xtick", "ytick"), labelsize=SMALL)
    plt.rc(("xtick.major", "ytick.major"), width=0.6)
    plt.rc("legend", fontsize=SMALL, frameon=False)
    plt.rc("lines", linewidth=1.2)
    plt.rc("pdf", fonttype=42)  # embed fonts, keep text as text
    plt.rc("savefig", dpi=300)


def subplots(rows, columns, width, height, **options):
    """A figure of ``width`` by ``height`` inches and its panels, laid out so that all labels fit."""
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def mark_synthetic(figure):
    """Mark the figure as synthetic at its top."""
    figure.suptitle("SYNTHETIC corpora and encoders: a demonstration, not a result", color="#B00000", fontsize=SMALL)


def legend_below(figure, handles, columns, text):
    """Add a legend below the panels in at most ``columns`` columns, with ``text``, which explains the marks, as its title."""
    of_line = int(15 * figure.get_figwidth())  # characters of size SMALL
    text = "\n".join(wrapped(line, of_line) for line in text.splitlines())
    for number in range(columns, 0, -1):
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=number, columnspacing=1.0, handlelength=1.6,
            title=text, title_fontsize=SMALL,
        )  # fmt: skip
        if number == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    legend.get_title().set_multialignment("center")


def counts(runs):
    """(number of folds, number of seeds, whether every row has all of these) of some runs."""
    folds, seeds = (len({run.key[part] for run in runs}) for part in (0, 1))
    of_row = Counter((run.experiment, run.sequence) for run in runs)
    return folds, seeds, set(of_row.values()) <= {folds * seeds}


def over(folds, seeds, complete=True):
    """Text such as "5 folds (3 seeds each)", with "up to" if not all rows have all of these (see ``counts``)."""
    if folds > 1:
        text = f"{folds} folds" + (f" ({seeds} seeds each)" if seeds > 1 else "")
    else:
        text = f"{seeds} seeds of one fold" if seeds > 1 else "one fold"
    return text if complete else f"up to {text}"


def averaged(folds, seeds, complete=True, spread=True):
    """Description of marks, such as "mean and standard deviation over 5 folds"; for one run just "one fold"."""
    what = "mean over " if folds * seeds > 1 else ""
    if folds > 1 and spread:
        what = "mean and standard deviation over "
    return what + over(folds, seeds, complete)


def write_figures(figures, folder, synthetic=False):
    """Draw figures and write each as PNG and PDF.

    Args:
        figures: ``{file name without suffix: a function that draws it}``.
        folder: a Path; created if missing.
        synthetic: whether their numbers are synthetic.

    Yields:
        One line per figure: the files written, or the reason why it cannot be drawn.

    Raises:
        UserError: if the folder is not writable.
    """
    prepare()
    for name, draw in figures.items():
        try:
            figure = draw()
            if synthetic:
                mark_synthetic(figure)
            yield save(figure, folder, name)
        except CannotDraw as reason:
            plt.close("all")
            yield f"{name}: not drawn, {reason}"
        except OSError as error:
            raise UserError(f"{folder}: figures cannot be written there ({error.strerror})") from None


def save(figure, folder, name):
    """Write ``folder/name.png`` and ``.pdf``, deterministically.

    Returns:
        A line that names the files, with a note if no installed font has a character.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = (folder / f"{name}.{suffix}" for suffix in ("png", "pdf"))
    # It logs every font table that it omits from the PDF.
    logging.getLogger("fontTools.subset").setLevel(logging.ERROR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path, metadata in ((png, {"Software": None}), (pdf, {"CreationDate": None})):
            with atomic_write(path) as file:
                figure.savefig(file, format=path.suffix[1:], metadata=metadata)
    plt.close(figure)
    boxes = "; empty boxes stand for characters of no installed font (for Hangul, fonts-nanum)"
    missing = any("missing from font" in str(warning.message) for warning in caught)
    return f"wrote {png} and {pdf.name}{boxes if missing else ''}"
