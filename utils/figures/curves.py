"""Learning curves over all tasks of a sequence."""

from itertools import cycle, islice

import pandas as pd
from matplotlib.lines import Line2D

from utils.figures.style import COLUMN, GREY, SMALL, TASK_COLOURS, CannotDraw, legend_below, over, subplots
from utils.files import HISTORY
from utils.methods import ALONE
from utils.results import METRIC_TITLES

SHOWN = ("f1_weighted", "f1_macro", "loss")
TITLES = METRIC_TITLES | {"loss": "cross-entropy"}


def draw_curves(results, row, orders):
    """Validation scores and losses of all tasks over the epochs of the first, then of the second, and so on, a column an order.

    Lines are means over folds, bands their standard deviation. A later task starts from the best epoch of the one before, not
    from its last; the first model of a sequence is that of the method it starts from.
    """
    columns = [(order, stages(results, row, order)) for order in orders]
    if not any(len(later) for _, tables in columns for later in tables[1:]):
        raise CannotDraw(f"no run of {row}")
    figure, panels = subplots(len(SHOWN), len(orders), COLUMN, 4.6, sharex="col", sharey="row", squeeze=False)
    for column, (order, tables) in zip(panels.T, columns):
        for panel, quantity in zip(column, SHOWN):
            _draw_column(panel, results, row, order, tables, quantity)
            panel.set_ylim(0, 1 if quantity != "loss" else None)
        if len(order) == 2:  # of more the legend has the order
            column[0].set_title(", then ".join(order), fontsize=SMALL)
        column[-1].set_xlabel("epoch", labelpad=2)
    for panel, quantity in zip(panels[:, 0], SHOWN):
        panel.set_ylabel(TITLES[quantity])
    names = ("first task", "second task") if len(orders[0]) == 2 else orders[0]
    handles = [Line2D([], [], color=colour, label=name) for colour, name in zip(cycle(TASK_COLOURS), names)]
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="in training"))
    starts = "second task starts" if len(names) == 2 else "next task starts"
    handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label=starts))
    legend_below(figure, handles, 2, f"mean and standard deviation over {over(results.of_row(row))}")
    return figure


def stages(results, row, order):
    """history.csv of the runs that learned each task of ``order``, a table a task (see ``histories``)."""
    if results.method(row).how == ALONE:
        return [histories(results, row, (task,)) for task in order]
    later = [histories(results, row, order[:length]) for length in range(2, len(order) + 1)]
    return [histories(results, results.method(row).starts_from, order[:1]), *later]


def _draw_column(panel, results, row, order, tables, quantity):
    border, colours = 0, list(islice(cycle(TASK_COLOURS), len(order)))
    for index, table in enumerate(tables):
        end = border + (int(table["epoch"].max()) if len(table) else 0)
        for earlier, (task, colour) in enumerate(zip(order[: index + 1], colours)):
            column = f"{task}_valid_{quantity}"
            if earlier < index and results.method(row).how == ALONE:
                if len(tables[earlier]) and len(table):
                    # No later task changes the model of this one: it stays at its best epoch.
                    kept = _at_best_epoch(results, row, (task,), column, tables[earlier])
                    panel.plot((border, end), (kept, kept), color=colour)
            else:
                _draw(panel, table, column, border, colour)
        if quantity == "loss":
            _draw(panel, table, "train_loss", border, colours[index], ":")
        if border:
            panel.axvline(border, color=GREY, linestyle="--", linewidth=0.8, zorder=0)
        border = end


def histories(results, row, sequence):
    """history.csv of all runs of a row and sequence in one table, with columns ``fold`` and ``seed``; empty if there are none.

    Raises:
        CannotDraw: if one cannot be read.
    """
    runs = [run for run in results.of_row(row) if run.sequence == tuple(sequence)]
    if any(run.from_file for run in runs):
        raise CannotDraw(f"the score files of {row} hold no {HISTORY}")
    try:
        tables = [pd.read_csv(run.path / HISTORY).assign(fold=run.key[0], seed=run.key[1]) for run in runs]
    except (OSError, ValueError) as error:
        raise CannotDraw(f"{HISTORY} of {row} cannot be read ({error})") from None
    return pd.concat(tables) if tables else pd.DataFrame()


def _draw(panel, table, column, start, colour, style="-"):
    if column not in table:
        return
    over_seeds = table.dropna(subset=[column]).groupby(["epoch", "fold"])[column].mean()
    by_epoch = over_seeds.groupby("epoch")
    mean, std = by_epoch.mean(), by_epoch.std().fillna(0)
    panel.plot(start + mean.index, mean, color=colour, linestyle=style)
    panel.fill_between(start + mean.index, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)


def _at_best_epoch(results, row, sequence, column, table):
    best = {run.key: run.metrics["best_epoch"] for run in results.of_row(row) if run.sequence == sequence}
    rows = table[[best[fold, seed] == epoch for fold, seed, epoch in zip(table["fold"], table["seed"], table["epoch"])]]
    return rows.groupby("fold")[column].mean().mean()
