"""Figures of test scores: forgetting, confusion matrices, single classes, and the trade-off along λ."""

from collections import Counter

import numpy as np
from matplotlib import colormaps
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from utils.errors import UserError
from utils.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    PAGE,
    SMALL,
    VERMILION,
    CannotDraw,
    label,
    label_colours,
    legend_below,
    over,
    over_counts,
    row_styles,
    subplots,
)
from utils.methods import COMBINED, METHODS, PAPER, SEQUENCE, START
from utils.results import METRIC_TITLES
from utils.results.measures import alpha_curve, lambda_curve, result_matrix
from utils.results.runs import over_folds

# Macro beside weighted F1: on a corpus of mostly one emotion only the former tells models apart.
SHOWN = ("f1_weighted", "f1_macro")
BEFORE, AFTER = BLUE, VERMILION
# Panels of classes beside each other, at a page's width.
ABREAST = 4


NOTHING = "no run that learned one task after another"


def earlier_tasks(orders):
    """(order, index from 1) of every task that others follow."""
    return [(order, index) for order in orders for index in range(1, len(order))]


def learners_shown(results):
    """Rows that learn one task after another; of those that combine models, which are many, only what --settings names."""
    combined = results.rows_that(lambda method: method.how == COMBINED)
    return tuple(row for row in results.learners if row not in combined or row in results.named)


def draw_forgetting(results, orders):
    """Scores on earlier tasks when they were learned and after the last task (the paper's figure 2).

    Bars are means over folds, error bars their standard deviation. A model a task is not changed by later tasks, so its two
    bars are one score.
    """
    tasks, rows = earlier_tasks(orders), learners_shown(results)
    height = 0.85 + len(tasks) * (0.45 + 0.28 * len(rows))
    figure, panels = subplots(len(tasks), len(SHOWN), COLUMN, height, sharex="col", sharey=True, squeeze=False)
    lines = _references(results)
    for panel_row, (order, index) in zip(panels, tasks):
        for panel, metric in zip(panel_row, SHOWN):
            _forgetting_panel(panel, results, rows, order, index, metric)
            _reference_lines(panel, results, order, index, metric, lines)
        text = f"{order[0]},\nthen {order[1]}" if len(order) == 2 else f"on {order[index - 1]}"
        panel_row[0].set_ylabel(text, fontsize=SMALL)
    if not any(panel.patches for panel in panels.flat):
        raise CannotDraw(NOTHING)
    for panel, metric in zip(panels[-1], SHOWN):
        panel.set_xlabel(METRIC_TITLES[metric] + ("\non the first corpus" if len(orders[0]) == 2 else ""))
    panels[0, 0].set_yticks(range(len(rows)), map(label, rows))
    panels[0, 0].invert_yaxis()
    handles = [Patch(color=BEFORE, label="when learned"), Patch(color=AFTER, label="after the last task")]
    handles += [Line2D([], [], color=colour, linestyle=style, label=words) for _, colour, style, words in lines]
    legend_below(figure, handles, 2, f"{_order_of(orders)}mean and standard deviation over {over(results.of_row(*rows))}")
    return figure


def _order_of(orders):
    """The order of three tasks or more, which a figure has no other place for, as a line."""
    return f"{' → '.join(orders[0])}\n" if len(orders[0]) > 2 else ""


def _forgetting_panel(panel, results, rows, order, index, metric):
    for position, row in enumerate(rows):
        matrix = result_matrix(results, row, order, metric)
        for at, offset, colour in (((index, index), -0.2, BEFORE), ((len(order), index), 0.2, AFTER)):
            estimate = over_folds(matrix[at])
            if estimate is None:
                continue
            mean, std, y = estimate.mean, estimate.std or 0, position + offset
            panel.barh(y, mean, 0.38, color=colour, xerr=estimate.std, error_kw={"lw": 0.8, "capsize": 1.5})
            # In the bar where it has room, else behind its error bar.
            x, text_colour = (0.02, "white") if mean - std > 0.25 or mean + std > 0.75 else (mean + std + 0.03, "black")
            panel.text(x, y, f"{mean:.2f}", va="center", color=text_colour, fontsize=SMALL)
    panel.set_xlim(0, 1)
    panel.set_xticks((0, 0.5, 1), ("0", ".5", "1"))


def _references(results):
    """START's score, that of the first SEQUENCE row and the majority class's: [(row or None, colour, line style, name)]."""
    rows = {START: label(START)} if results.of_row(START) else {}
    rows |= {row: f"{label(row)}, after" for row in results.rows_that(lambda method: method.how == SEQUENCE)[:1]}
    colours = row_styles(rows)
    return [*((row, colours[row][0], "--", name) for row, name in rows.items()), (None, GREY, ":", "majority class")]


def _reference_lines(panel, results, order, index, metric, lines):
    task = order[index - 1]
    for row, colour, style, _ in lines:
        floor = {(fold, 0): score for fold, score in results.majority(task, metric).items()}
        estimate = over_folds(results.final_scores(row, order, task, metric) if row else floor)
        if estimate:
            panel.axvline(estimate.mean, color=colour, linestyle=style, linewidth=1.0, zorder=0)


def draw_confusion(results, rows=None, task=None):
    """Confusion matrices of two rows on one task (the paper's figure 3): rows normalised, counts below the shares.

    Args:
        results: Results.
        rows: names of two; by default the first two learners that are told the task, or the first two at all.
        task: the task tested; by default the last of the tasks.

    Raises:
        UserError: if a row or the task is named that was not found.
    """
    task = task or results.tasks[-1]
    known = {run.experiment for run in results.runs}
    for flag, name, among in (("--confusion_task", task, results.tasks), *(("--confusion", row, known) for row in rows or ())):
        if name not in among:
            raise UserError(f"{flag} {name}: there is no such run, but {', '.join(sorted(among))}")
    told = results.rows_that(lambda method: method.told_task, results.learners)
    rows = rows or (told if len(told) > 1 else results.rows)[:2]
    matrices = [_pooled(results, row, task) for row in rows]
    every = dict.fromkeys(name for counts, _ in matrices for pair in counts for name in pair)
    labels = [name for name in every if any(name in pair and n for counts, _ in matrices for pair, n in counts.items())]
    figure, panels = subplots(1, len(rows), PAGE, max(2.6, 1.3 + 0.35 * len(labels)), sharey=True, squeeze=False)
    for panel, row, (pooled, runs) in zip(panels[0], rows, matrices):
        counts = np.array([[pooled[true, predicted] for predicted in labels] for true in labels])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (at, column), share in np.ndenumerate(shares):
            text, colour = f"{100 * share:.0f} %\n{counts[at, column]:,}", "white" if share > 0.5 else "black"
            panel.text(column, at, text, ha="center", va="center", fontsize=SMALL, color=colour, linespacing=0.95)
        panel.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(len(labels)), labels)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        panel.set_title(f"{row}\ntested on {task} ({over(runs)})")
        panel.set_xlabel("predicted")
    panels[0, 0].set_ylabel("true")
    return figure


def _pooled(results, row, task):
    """A row's confusion matrix over folds and seeds, ``{(true, predicted): count}``, and its runs."""
    # Where it was learned first, if it was: there it is the longest ago.
    orders = sorted(results.orders, key=lambda order: order[0] != task) or [results.tasks]
    order = next((order for order in orders if task in order), results.tasks)
    runs = [run for run in results.of_row(row) if run.sequence == results.run_of(row, order, task)]
    runs = [run for run in runs if task in run.metrics["test"]]
    if not runs:
        raise CannotDraw(f"no run of {row} that is tested on {task}")
    counts = Counter()
    for run in runs:
        labels = run.config["labels"]
        for (at, column), count in np.ndenumerate(run.metrics["test"][task]["confusion_matrix"]):
            counts[labels[at], labels[column]] += int(count)
    return counts, runs


def draw_emotions(results, orders):
    """F1 of each class on earlier tasks when they were learned and after the last one, as slopes.

    Of more rows than fit on a page those of the study, and what --settings names.
    """
    tasks, rows = earlier_tasks(orders), learners_shown(results)
    if len(rows) > 2 * ABREAST:
        rows = tuple(row for row in rows if row in PAPER or row in results.named)
    columns = min(len(rows), ABREAST)
    lines = [(order, index, rows[at : at + ABREAST]) for order, index in tasks for at in range(0, len(rows), ABREAST)]
    if not lines:
        raise CannotDraw(NOTHING)
    figure, panels = subplots(len(lines), columns, PAGE, 0.3 + 2.3 * len(lines), sharex=True, sharey=True, squeeze=False)
    for panel_row, (order, index, names) in zip(panels, lines):
        for panel, row in zip(panel_row, names):
            _slopes(panel, results, row, order, index)
            panel.set_title(label(row).replace("\n", " "))
        for panel in panel_row[len(names) :]:
            panel.axis("off")
        task = order[index - 1]
        after = f"before and after {order[1]}" if len(order) == 2 else f"when learned and after {order[-1]}"
        panel_row[0].set_ylabel(f"F1 on {task}\n{after}")
    if not any(panel.lines for panel in panels.flat):
        raise CannotDraw(NOTHING)
    text = f"{_order_of(orders)}means over {over(results.of_row(*rows))}; their standard deviations are in the tables"
    figure.supxlabel(text, fontsize=SMALL)
    panels[0, 0].set_xlim(-0.12, 1.0 + 0.34 * columns)
    panels[0, 0].set_ylim(0, 1)
    panels[0, 0].set_xticks((0, 1), ("before" if len(orders[0]) == 2 else "learned", "after"))
    return figure


def _slopes(panel, results, row, order, index):
    """Draw a line a class from its F1 when the task was learned to that after the last one."""
    labels, ends = results.labels(order[index - 1]), {}
    colours = label_colours(dict.fromkeys(name for task in results.tasks for name in results.labels(task)))
    for name in labels:
        matrix = result_matrix(results, row, order, name)
        before, after = over_folds(matrix[index, index]), over_folds(matrix[len(order), index])
        if before and after:
            panel.plot((0, 1), (before.mean, after.mean), "o-", color=colours[name], markersize=3)
            ends[name] = after.mean
    for (name, score), height in zip(ends.items(), spread(list(ends.values()), 0.068)):
        panel.text(1.07, height, f"{name} {score:.2f}", color=colours[name], va="center", fontsize=SMALL)


def spread(values, gap):
    """Positions for labels near ``values``, at least ``gap`` apart and between 0 and 1, in the order of the values given."""
    order = np.argsort(values)
    steps = gap * np.arange(len(values))

    def pushed_up(values):
        """Each as near above its value as the one below it allows, and the topmost below 1."""
        positions = np.maximum.accumulate(np.maximum(values, gap / 2) - steps) + steps
        return np.minimum(positions, 1 - gap / 2 - steps[::-1])

    ordered = np.array(values, dtype=float)[order]
    # The mean of pushing all up and all down keeps the distances of both.
    result = np.empty_like(ordered)
    result[order] = (pushed_up(ordered) + 1 - pushed_up(1 - ordered[::-1])[::-1]) / 2
    return result


def short_number(value):
    """1e6 as 1M, 10000.0 as 10k, 0.5 as 0.5."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def draw_lambda(results, orders):
    """Old tasks against the new one along EWC's λ, with the baselines as points on the same folds, and along the weight α of
    the later of two models (wise_ft_tuned).

    Of several old tasks it is the mean of their scores.
    """
    figure, panels = subplots(len(SHOWN), len(orders), COLUMN, 4.1, squeeze=False)
    styles, of_alpha, alphas, estimates = row_styles(results.baselines), METHODS["wise_ft_tuned"].colour, {}, []
    values = sorted({value for order in orders for value in lambda_curve(results, order, SHOWN[0])[0]})
    # Darker with λ: the points lie too close together to be labelled.
    shades = dict(zip(values, colormaps["YlOrBr"](np.linspace(0.3, 1, len(values)))))
    for panel_row, metric in zip(panels, SHOWN):
        for panel, order in zip(panel_row, orders):
            (curve, others), (along_alpha, more) = (of(results, order, metric) for of in (lambda_curve, alpha_curve))
            if not curve and not along_alpha:
                panel.axis("off")
                continue
            if curve:
                x, x_std, y, y_std = zip(*map(_old_and_new, curve.values()))
                panel.errorbar(x, y, y_std, x_std, fmt="-", color="#BBBBBB", linewidth=0.8, elinewidth=0.5, zorder=1)
                panel.scatter(x, y, s=14, color=[shades[value] for value in curve], zorder=2)
            if along_alpha:
                x, _, y, _ = zip(*map(_old_and_new, along_alpha.values()))
                panel.plot(x, y, ".-", color=of_alpha, linewidth=0.8, markersize=3, zorder=2)
            panel.margins(0.15)
            for row, of in (others or more).items():
                x, _, y, _ = _old_and_new(of)
                panel.plot(x, y, styles[row][1], color=styles[row][0], markersize=4.5, zorder=3)
            panel.set_xlabel(f"{order[0]} (old)" if len(order) == 2 else "mean of the old tasks", labelpad=2)
            panel.set_ylabel(f"{order[-1]} (new)", labelpad=2)
            panel.set_title(METRIC_TITLES[metric])
            estimates.append(next(iter((curve or along_alpha).values()))[0])
            if along_alpha:
                alphas = along_alpha
    if not estimates:
        raise CannotDraw("no experiments that differ in --ewc_lambda alone, and no wise_ft_tuned")
    handles = [
        Line2D([], [], color=shades[value], marker="o", markersize=3.5, ls="", label=f"λ {short_number(value)}")
        for value in values
    ]
    for row, (colour, marker) in styles.items():
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, ls="", label=label(row)))
    if alphas:
        words = f"WiSE-FT, α {min(alphas):g} to {max(alphas):g}"
        handles.append(Line2D([], [], color=of_alpha, marker=".", markersize=3, linewidth=0.8, label=words))
    folds, seeds = (max(map(len, counts)) for counts in zip(*((of.per_fold, of.seeds) for of in estimates)))
    what = " and ".join(filter(None, ("EWC along λ" if values else "", "WiSE-FT along α" if alphas else "")))
    spread = " and standard deviation" if values else ""
    text = f"{_order_of(orders)}{what}:\nmean{spread} over {over_counts(folds, seeds)}"
    legend_below(figure, handles, 4 if values else 2, text)
    return figure


def _old_and_new(estimates):
    """Mean and standard deviation over folds of the mean of all tasks but the last, and those of the last."""
    *old, new = estimates
    per_fold = [np.mean([estimate.per_fold[fold] for estimate in old]) for fold in new.per_fold]
    return np.mean(per_fold), np.std(per_fold, ddof=1) if len(per_fold) > 1 else 0, new.mean, new.std or 0
