"""Learning curves over all tasks of a sequence, also for unfinished runs."""

from itertools import cycle, islice

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from utils.figures.style import (
    COLUMN,
    GREY,
    PAGE,
    SMALL,
    TASK_COLOURS,
    CannotDraw,
    averaged,
    counts,
    label,
    legend_below,
    subplots,
    wrapped,
)
from utils.files import HISTORY
from utils.methods import JOINT, METHODS, SEQUENCE
from utils.results import METRIC_TITLES
from utils.results.runs import longest

SHOWN = ("f1_weighted", "f1_macro", "loss")
TITLES = METRIC_TITLES | {"loss": "cross-entropy"}


def sequences_of(runs, row):
    """Sequences that a row's runs have learned or are learning; single tasks for methods with one model per task."""
    return sorted(longest(run.sequence for run in runs if run.experiment == row and not run.problem))


def draw_curves(runs, row, sequences):
    """Validation scores and losses of all tasks over the epochs of the first task, then of the second, and so on.

    Lines are means over the folds that have reached an epoch, bands their standard deviation. A later task starts from the best
    epoch of the previous one, not its last; the first model of a sequence belongs to the method that the row starts from.

    Args:
        runs: FoundRuns of the row and of the method that it starts from, finished or not.
        row: an experiment.
        sequences: some of ``sequences_of``, one column each.
    """
    method = METHODS[next(run.method for run in runs if run.experiment == row)]
    columns = [stages(runs, row, method, sequence) for sequence in sequences]
    if not any(len(tables[-1]) for tables in columns):
        raise CannotDraw(f"no epoch of {row} is done")
    width = COLUMN if len(sequences) <= 2 else PAGE
    figure, panels = subplots(len(SHOWN), len(sequences), width, 4.6, sharex="col", sharey="row", squeeze=False)
    for column, sequence, tables in zip(panels.T, sequences, columns):
        for panel, quantity in zip(column, SHOWN):
            _draw_panel(panel, sequence, tables, quantity)
            panel.set_ylim(0, 1 if quantity != "loss" else None)
        if len(sequence) <= 2:  # for longer ones, the legend shows the order
            title = (" and " if method.how == JOINT else ", then ").join(sequence)
            column[0].set_title(wrapped(title, 26), fontsize=SMALL)
        column[-1].set_xlabel("epoch", labelpad=2)
        column[-1].xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    for panel, quantity in zip(panels[:, 0], SHOWN):
        panel.set_ylabel(TITLES[quantity])
    of_row = [run for run in runs if run.experiment == row]
    of_row = [run for run in of_row if any(run.sequence == sequence[: len(run.sequence)] for sequence in sequences)]
    unfinished = sum(run.metrics is None for run in of_row)
    text = f"{label(row)}: {averaged(*counts(of_row))}"
    text += f"\n{unfinished} of {len(of_row)} runs unfinished" if unfinished else ""
    legend_below(figure, _handles(method, sequences[0]), 2 if width == COLUMN else 4, text)
    return figure


def _handles(method, sequence):
    names = [f"task {number}" + (f", {name}" if len(sequence) > 2 else "") for number, name in enumerate(sequence, 1)]
    if method.how == JOINT:
        names = sequence
    elif len(sequence) == 1:
        names = [""]
    handles = [
        Line2D([], [], color=colour, label=f"{name}, validation" if name else "validation")
        for colour, name in zip(cycle(TASK_COLOURS), names)
    ]
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="training loss"))
    if len(sequence) > 1 and method.how != JOINT:
        starts = "task 2 starts" if len(sequence) == 2 else "next task starts"
        handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label=starts))
    return handles


def stages(runs, row, method, sequence):
    """history.csv of the runs that learned each task of ``sequence``, one table per task (see ``histories``); one for joint.

    Only the row's own folds and seeds are used.
    """
    keys = {run.key for run in runs if run.experiment == row and run.sequence == sequence[: len(run.sequence)]}
    lengths = [len(sequence)] if method.how == JOINT else range(1, len(sequence) + 1)
    of_start = {1: method.starts_from} if method.how == SEQUENCE else {}
    return [histories(runs, of_start.get(length, row), sequence[:length], keys) for length in lengths]


def histories(runs, row, sequence, keys):
    """history.csv of a row's runs of a sequence in one table, with columns ``fold`` and ``seed``; empty without runs.

    Raises:
        CannotDraw: if a file cannot be read.
    """
    runs = [run for run in runs if run.experiment == row and not run.problem]
    runs = [run for run in runs if run.sequence == sequence and run.key in keys]
    if any(run.from_file for run in runs):
        raise CannotDraw(f"the score files of {row} hold no {HISTORY}")
    try:
        # An unfinished run has no history before its first evaluation.
        runs = [run for run in runs if run.metrics or (run.path / HISTORY).exists()]
        tables = [pd.read_csv(run.path / HISTORY).assign(fold=run.key[0], seed=run.key[1]) for run in runs]
    except (OSError, ValueError) as error:
        raise CannotDraw(f"{HISTORY} of {row} cannot be read ({error})") from None
    return pd.concat(tables) if tables else pd.DataFrame()


def _draw_panel(panel, sequence, tables, quantity):
    border, colours = 0, list(islice(cycle(TASK_COLOURS), len(sequence)))
    for index, table in enumerate(tables):
        for task, colour in zip(sequence, colours):
            _draw(panel, table, f"{task}_valid_{quantity}", border, colour)
        if quantity == "loss":  # joint has one loss for all tasks
            _draw(panel, table, "train_loss", border, colours[index] if len(tables) == len(sequence) else GREY, ":")
        if border:
            panel.axvline(border, color=GREY, linestyle="--", linewidth=0.8, zorder=0)
        border += int(table["epoch"].max()) if len(table) else 0


def _draw(panel, table, column, start, colour, style="-"):
    if column not in table:
        return
    over_seeds = table.dropna(subset=[column]).groupby(["epoch", "fold"])[column].mean()
    by_epoch = over_seeds.groupby("epoch")
    mean, std = by_epoch.mean(), by_epoch.std().fillna(0)
    panel.plot(start + mean.index, mean, color=colour, linestyle=style)
    panel.fill_between(start + mean.index, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
