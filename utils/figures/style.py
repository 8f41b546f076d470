"""How every figure looks: drawn at the size it is printed at, as PNG to read and PDF for papers."""

import logging
import warnings

import matplotlib

matplotlib.use("Agg")  # to files, also where there is no screen

import matplotlib.pyplot as plt
from matplotlib import font_manager

from utils.files import whole_file
from utils.methods import METHODS

# Inches of one column and of both in a two-column paper; no text is smaller than SMALL points at that size.
COLUMN, PAGE = 3.5, 7.16
SMALL, NORMAL = 7, 8
# Okabe and Ito's colours, which the colour-blind can tell apart.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
GREY = "#777777"
LABEL_COLOURS = {
    "angry": VERMILION,
    "disgust": GREEN,
    "fear": PURPLE,
    "happy": ORANGE,
    "neutral": BLACK,
    "sad": BLUE,
    "surprise": SKY,
}
# For other classes, and for rows that are no method's: dark enough on white, and not among those above.
FURTHER = ("#882255", "#999933", "#44AA99", "#6699CC", "#AA4466", "#661100", "#888888")
MARKERS = "sD^vPX<>*hp"
# The usual fonts with Hangul, of Linux, Windows and macOS.
HANGUL_FONTS = (
    *("NanumGothic", "Noto Sans CJK KR", "Noto Sans KR", "UnDotum", "Baekmuk Dotum"),
    *("Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic"),
)


class CannotDraw(Exception):
    """There are not enough runs for a figure; the message says what is missing."""


def label(row):
    """A row's name as figures write it."""
    return (METHODS[row].label if row in METHODS else "") or row


def row_styles(rows):
    """A colour and a marker for each row, ``{row: (colour, marker)}``: its method's colour, or a further one under other names."""
    others = [row for row in rows if row not in METHODS]
    further = [BLACK, GREY, *FURTHER]
    colours = {row: METHODS[row].colour for row in rows if row in METHODS}
    colours |= {row: further[index % len(further)] for index, row in enumerate(others)}
    return {row: (colours[row], MARKERS[index % len(MARKERS)]) for index, row in enumerate(rows)}


def label_colours(labels):
    """A colour for each class, ``{label: colour}``."""
    others = [label for label in labels if label not in LABEL_COLOURS]
    return LABEL_COLOURS | {label: FURTHER[index % len(FURTHER)] for index, label in enumerate(others)}


def hangul_font():
    """Name of an installed font with Hangul, or None."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in HANGUL_FONTS if name in installed), None)


def prepare():
    """Set matplotlib's defaults for all figures."""
    fallback = hangul_font()
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "font.family": ["DejaVu Sans", *([fallback] if fallback else [])],
            "font.size": NORMAL,
            "axes.titlesize": NORMAL,
            "axes.labelsize": NORMAL,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "legend.fontsize": SMALL,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "lines.linewidth": 1.2,
            # Text stays text in the PDF, with its font inside.
            "pdf.fonttype": 42,
            "savefig.dpi": 300,
        }
    )


def subplots(rows, columns, width, height, **options):
    """A figure of ``width`` by ``height`` inches and its panels, which make room for all labels."""
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def mark_synthetic(figure):
    """Write across the figure's head that its numbers are synthetic."""
    figure.suptitle("SYNTHETIC corpora and encoders: a demonstration, not a result", color="#B00000", fontsize=SMALL)


def legend_below(figure, handles, columns, text):
    """A legend below the panels, headed by what the marks are and over what."""
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.0, handlelength=1.6,
        title=text, title_fontsize=SMALL,
    )  # fmt: skip


def over(runs):
    """Over what figures average, such as "2 folds, 3 seeds in each"."""
    return over_counts(*(len({run.key[part] for run in runs}) for part in (0, 1)))


def over_counts(folds, seeds):
    """The same of numbers of folds and of seeds."""
    text = f"{folds} folds" if folds > 1 else "one fold"
    return f"{text}, {seeds} seeds in each" if seeds > 1 else text


def save(figure, folder, name):
    """Write ``folder/name.png`` and ``.pdf``, the same bytes for the same figure.

    Returns:
        What was written, in one line; it says so where no installed font has a character.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = (folder / f"{name}.{suffix}" for suffix in ("png", "pdf"))
    # It tells of every table in a font that it leaves out of the PDF.
    logging.getLogger("fontTools.subset").setLevel(logging.ERROR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path, metadata in ((png, {"Software": None}), (pdf, {"CreationDate": None})):
            with whole_file(path) as file:
                figure.savefig(file, format=path.suffix[1:], metadata=metadata)
    plt.close(figure)
    boxes = any("missing from font" in str(warning.message) for warning in caught)
    hint = "; empty boxes stand for characters of no installed font (for Hangul, fonts-nanum)" if boxes else ""
    return f"wrote {png} and {pdf.name}{hint}"
