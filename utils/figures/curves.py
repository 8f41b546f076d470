"""Learning curves over both tasks."""

import pandas as pd
from matplotlib.lines import Line2D

from utils.figures.style import BLUE, COLUMN, GREY, SMALL, VERMILION, CannotDraw, legend_below, over, subplots
from utils.files import HISTORY
from utils.results.measures import ORDERS
from utils.results.runs import ADAPTERS, METRIC_TITLES

SHOWN = ("f1_weighted", "f1_macro", "loss")
TITLES = METRIC_TITLES | {"loss": "cross-entropy"}
COLOURS = BLUE, VERMILION


def draw_curves(runs, method):
    """Validation scores and losses of both tasks over the epochs of the first and then of the second, for both orders.

    Lines are means over folds, bands their standard deviation. The second task starts from the best epoch of the first,
    not from its last; finetune and ewc start from task_a's model.
    """
    figure, panels = subplots(len(SHOWN), len(ORDERS), COLUMN, 4.6, sharex="col", sharey="row")
    drawn = False
    for column, (first, second) in zip(panels.T, ORDERS):
        start = histories(runs, method if method in ADAPTERS else "task_a", first)
        later = histories(runs, method, second)
        border = int(start["epoch"].max()) if len(start) else 0
        for panel, quantity in zip(column, SHOWN):
            _draw(panel, start, f"{first}_valid_{quantity}", 0, COLOURS[0])
            _draw(panel, later, f"{second}_valid_{quantity}", border, COLOURS[1])
            if method in ADAPTERS and len(start) and len(later):
                # Nothing touches the first task's adapters any more: they stay at their best epoch.
                kept = _at_best_epoch(runs, method, first, f"{first}_valid_{quantity}", start)
                panel.plot((border, border + later["epoch"].max()), (kept, kept), color=COLOURS[0])
            else:
                _draw(panel, later, f"{first}_valid_{quantity}", border, COLOURS[0])
            if quantity == "loss":
                _draw(panel, start, "train_loss", 0, COLOURS[0], ":")
                _draw(panel, later, "train_loss", border, COLOURS[1], ":")
            panel.axvline(border, color=GREY, linestyle="--", linewidth=0.8, zorder=0)
            panel.set_ylim(0, 1 if quantity != "loss" else None)
        column[0].set_title(f"{first}, then {second}", fontsize=SMALL)
        column[-1].set_xlabel("epoch", labelpad=2)
        drawn = drawn or len(later) > 0
    if not drawn:
        raise CannotDraw(f"no run of {method}")
    for panel, quantity in zip(panels[:, 0], SHOWN):
        panel.set_ylabel(TITLES[quantity])
    handles = [Line2D([], [], color=colour, label=f"{name} task") for colour, name in zip(COLOURS, ("first", "second"))]
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="in training"))
    handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label="second task starts"))
    legend_below(figure, handles, 2, f"mean and standard deviation over {over([r for r in runs if r.method == method])}")
    return figure


def histories(runs, method, task):
    """history.csv of all runs of a method and task in one table, with columns ``fold`` and ``seed``; empty if there are none.

    Raises:
        CannotDraw: if one cannot be read.
    """
    tables = []
    for run in runs:
        if (run.method, run.task) == (method, task):
            try:
                table = pd.read_csv(run.path / HISTORY)
                table["epoch"]
            except (OSError, ValueError, KeyError) as error:
                raise CannotDraw(f"{run.path / HISTORY} cannot be read ({error})") from None
            tables.append(table.assign(fold=run.key[0], seed=run.key[1]))
    return pd.concat(tables) if tables else pd.DataFrame()


def _draw(panel, table, column, start, colour, style="-"):
    if column not in table:
        return
    over_seeds = table.dropna(subset=[column]).groupby(["epoch", "fold"])[column].mean()
    by_epoch = over_seeds.groupby("epoch")
    mean, std = by_epoch.mean(), by_epoch.std().fillna(0)
    panel.plot(start + mean.index, mean, color=colour, linestyle=style)
    panel.fill_between(start + mean.index, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)


def _at_best_epoch(runs, method, task, column, table):
    best = {run.key: run.metrics["best_epoch"] for run in runs if (run.method, run.task) == (method, task)}
    rows = table[[best[fold, seed] == epoch for fold, seed, epoch in zip(table["fold"], table["seed"], table["epoch"])]]
    return rows.groupby("fold")[column].mean().mean()
