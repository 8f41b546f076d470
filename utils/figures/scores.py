"""Figures of test scores: forgetting, confusion matrices, per-class scores, and the trade-off along λ."""

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
    MOST_ROWS,
    PAGE,
    SMALL,
    VERMILION,
    CannotDraw,
    averaged,
    counts,
    label,
    legend_below,
    over,
    row_styles,
    subplots,
    wrapped,
)
from utils.methods import COMBINED, METHODS, PAPER, SEQUENCE, START
from utils.results import METRIC_TITLES
from utils.results.measures import alpha_curve, lambda_curve, result_matrix
from utils.results.runs import over_folds

# Macro beside weighted F1: on a corpus dominated by one emotion, only macro F1 separates models.
SHOWN = ("f1_weighted", "f1_macro")
BEFORE, AFTER = BLUE, VERMILION
# Open markers for points that may overlap others, which stay visible inside.
OPEN = {"markersize": 6, "fillstyle": "none", "markeredgewidth": 1.3}
# Emotion panels per line, at page width.
ABREAST = 4
NOTHING = "no run that learned one task after another"


def earlier_tasks(orders):
    """(order, index from 1) of every task that is followed by others."""
    return [(order, index) for order in orders for index in range(1, len(order))]


def rows_shown(results):
    """Rows that learn tasks sequentially, and combined models only if named by --settings.

    If there are more than MOST_ROWS, only those of the study, and those named by --settings.
    """
    combined = results.rows_that(lambda method: method.how == COMBINED)
    rows = tuple(row for row in results.learners if row not in combined or row in results.named)
    chosen = tuple(row for row in rows if row in PAPER or row in results.named)
    return chosen if chosen and len(rows) > MOST_ROWS else rows


def _moments(order):
    """Names of the two scores on an earlier task."""
    return "after task 1" if len(order) == 2 else "after that task", f"after task {len(order)}"


def _panel_name(order, index):
    """A panel's task, and, for a sequence of two, the task learned after it."""
    names = [wrapped(f"task {number}: {name}") for number, name in enumerate(order, 1)]
    return "\n".join(names if len(order) == 2 else names[index - 1 : index])


def _order_of(orders):
    """A line with the order of three or more tasks, which is shown nowhere else in a figure."""
    return f"{' → '.join(orders[0])}\n" if len(orders[0]) > 2 else ""


def draw_forgetting(results, orders):
    """Scores on earlier tasks when they were learned and after the last task (the paper's figure 2).

    Bars are means over folds, error bars their standard deviation. With one model per task, later tasks change nothing, and
    both bars are the same score.
    """
    tasks, rows = earlier_tasks(orders), rows_shown(results)
    # With many rows, two tasks side by side, or the figure would not fit on a page.
    abreast = min(len(tasks), 2) if len(rows) > MOST_ROWS else 1
    lines = -(-len(tasks) // abreast)
    height = 0.95 + lines * (0.45 + 0.28 * max(len(rows), 4))  # the panel's name needs the height of four rows
    width = COLUMN if abreast == 1 else PAGE
    figure, panels = subplots(lines, abreast * len(SHOWN), width, height, sharey=True, squeeze=False)
    references = _references(results, orders[0])
    pairs = panels.reshape(-1, len(SHOWN))
    for pair, (order, index) in zip(pairs, tasks):
        for panel, metric in zip(pair, SHOWN):
            _forgetting_panel(panel, results, rows, order, index, metric)
            _reference_lines(panel, results, order, index, metric, references)
            panel.set_xlabel(METRIC_TITLES[metric] + (" on task 1" if len(order) == 2 else ""))
        pair[0].set_ylabel(_panel_name(order, index), fontsize=SMALL)
    for panel in pairs[len(tasks) :].flat:
        panel.axis("off")
    if not any(panel.patches for panel in panels.flat):
        raise CannotDraw(NOTHING)
    panels[0, 0].set_yticks(range(len(rows)), [wrapped(label(row)) for row in rows])
    panels[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    handles = [Patch(color=colour, label=moment) for colour, moment in zip((BEFORE, AFTER), _moments(orders[0]))]
    handles += [Line2D([], [], color=colour, linestyle=style, label=words) for _, colour, style, words in references]
    text = f"{_order_of(orders)}{averaged(*counts(results.of_row(*rows)))}"
    legend_below(figure, handles, 2 if width == COLUMN else 5, text)
    return figure


def _forgetting_panel(panel, results, rows, order, index, metric):
    for position, row in enumerate(rows):
        matrix = result_matrix(results, row, order, metric)
        for at, offset, colour in (((index, index), -0.2, BEFORE), ((len(order), index), 0.2, AFTER)):
            estimate = over_folds(matrix[at])
            if estimate is None:
                continue
            mean, std, y = estimate.mean, estimate.std or 0, position + offset
            panel.barh(y, mean, 0.38, color=colour, xerr=estimate.std, error_kw={"lw": 0.8, "capsize": 1.5})
            # In the bar if there is space, else after its error bar.
            x, text_colour = (0.02, "white") if mean - std > 0.25 or mean + std > 0.75 else (mean + std + 0.03, "black")
            # White background, or reference lines would cross it.
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5} if text_colour == "black" else None
            panel.text(x, y, f"{mean:.2f}", va="center", color=text_colour, fontsize=SMALL, bbox=behind)
    panel.set_xlim(0, 1)
    panel.set_xticks((0, 0.5, 1), ("0", ".5", "1"))


def _references(results, order):
    """Reference lines for START, the first SEQUENCE row and the majority class: [(row or None, colour, line style, name)]."""
    rows = {START: label(START)} if results.of_row(START) else {}
    if row := _fine_tuned(results):
        rows[row] = f"{label(row)}, {_moments(order)[1]}"
    colours = row_styles(rows)
    return [*((row, colours[row][0], "--", name) for row, name in rows.items()), (None, GREY, ":", "majority class")]


def _fine_tuned(results):
    """The first row of the kind SEQUENCE, with which others are compared, or None."""
    return next(iter(results.rows_that(lambda method: method.how == SEQUENCE)), None)


def _reference_lines(panel, results, order, index, metric, references):
    task = order[index - 1]
    for row, colour, style, _ in references:
        floor = {(fold, 0): score for fold, score in results.majority(task, metric).items()}
        estimate = over_folds(results.final_scores(row, order, task, metric) if row else floor)
        if estimate:
            panel.axvline(estimate.mean, color=colour, linestyle=style, linewidth=1.0, zorder=0)


def draw_confusion(results, rows=None, task=None):
    """Confusion matrices of two rows on one task (the paper's figure 3), row-normalized, with counts below the fractions.

    Cells without predictions stay empty.

    Args:
        results: Results.
        rows: two names; by default the first two learners that are given the task identity, or the first two at all.
        task: the test task; by default the last of the tasks.

    Raises:
        UserError: if a given row or task was not found.
    """
    task = task or results.tasks[-1]
    known = {run.experiment for run in results.runs}
    for flag, name, among in (("--confusion_task", task, results.tasks), *(("--confusion", row, known) for row in rows or ())):
        if name not in among:
            raise UserError(f"{flag} {name}: there is no such run, but {', '.join(sorted(among))}")
    told = results.rows_that(lambda method: method.told_task, results.learners)
    rows = rows or (told if len(told) > 1 else results.rows)[:2]
    matrices = [_pooled(results, row, task) for row in rows]
    every = dict.fromkeys(name for pooled, _ in matrices for pair in pooled for name in pair)
    labels = [name for name in every if any(name in pair and n for pooled, _ in matrices for pair, n in pooled.items())]
    figure, panels = subplots(1, len(rows), PAGE, max(2.6, 1.3 + 0.35 * len(labels)), sharey=True, squeeze=False)
    for panel, row, (pooled, runs) in zip(panels[0], rows, matrices):
        pooled_counts = np.array([[pooled[true, predicted] for predicted in labels] for true in labels])
        shares = pooled_counts / np.maximum(pooled_counts.sum(axis=1, keepdims=True), 1)
        panel.imshow(np.where(pooled_counts, shares, np.nan), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (at, column), share in np.ndenumerate(shares):
            if not pooled_counts[at, column]:
                continue
            percent, colour = "<1" if share < 0.005 else f"{100 * share:.0f}", "white" if share > 0.5 else "black"
            text = f"{percent} %\n{pooled_counts[at, column]:,}"
            panel.text(column, at, text, ha="center", va="center", fontsize=SMALL, color=colour, linespacing=0.95)
        panel.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(len(labels)), labels)
        panel.tick_params(length=0)
        panel.spines[:].set(visible=True, color="#CCCCCC")
        title = label(row), f"tested on {task} ({over(*counts(runs))})"
        panel.set_title("\n".join(wrapped(line, 44) for line in title))
        panel.set_xlabel("predicted")
    panels[0, 0].set_ylabel("true")
    return figure


def _pooled(results, row, task):
    """A row's confusion matrix over folds and seeds, ``{(true, predicted): count}``, and its runs."""
    # Preferably from an order in which it was learned first, so that the most was learned after it.
    orders = sorted(results.orders, key=lambda order: order[0] != task) or [results.tasks]
    order = next((order for order in orders if task in order), results.tasks)
    runs = [run for run in results.of_row(row) if run.sequence == results.run_of(row, order, task)]
    runs = [run for run in runs if task in run.metrics["test"]]
    if not runs:
        raise CannotDraw(f"no run of {row} that is tested on {task}")
    pooled = Counter()
    for run in runs:
        labels = run.config["labels"]
        for (at, column), count in np.ndenumerate(run.metrics["test"][task]["confusion_matrix"]):
            pooled[labels[at], labels[column]] += int(count)
    return pooled, runs


def draw_emotions(results, orders):
    """F1 of each class on earlier tasks when learned (rings) and after the last task (dots), with a panel per row.

    Each class has its own line, so that names and numbers never overlap, even if many are 0. With one model per task, later
    tasks change nothing, and dots are inside their rings. Such panels show the distance to the grey marks: the first row of the
    kind SEQUENCE after the last task.
    """
    tasks, rows = earlier_tasks(orders), rows_shown(results)
    columns = min(len(rows), ABREAST)
    lines = [(order, index, rows[at : at + ABREAST]) for order, index in tasks for at in range(0, len(rows), ABREAST)]
    if not lines:
        raise CannotDraw(NOTHING)
    heights = [0.55 + 0.15 * max(len(results.labels(order[index - 1])), 7) for order, index, _ in lines]  # the panel's name: 7
    options = {"sharey": "row", "squeeze": False, "gridspec_kw": {"height_ratios": heights}}
    figure, panels = subplots(len(lines), columns, PAGE, 0.7 + sum(heights), **options)
    compared = _fine_tuned(results)
    for panel_row, (order, index, names) in zip(panels, lines):
        for panel, row in zip(panel_row, names):
            _dots(panel, results, row, order, index, compared if row != compared else None)
            panel.set_title(wrapped(label(row), 24))
            panel.set_xlabel("F1 on task 1" if len(order) == 2 else f"F1 on task {index}", labelpad=2, x=0.38)
        for panel in panel_row[len(names) :]:
            panel.axis("off")
        labels = results.labels(order[index - 1])
        panel_row[0].set_yticks(range(len(labels)), labels)
        panel_row[0].set_ylim(max(len(labels), 1) - 0.5, -0.5)
        panel_row[0].set_ylabel(_panel_name(order, index), fontsize=SMALL)
    if not any(panel.lines for panel in panels.flat):
        raise CannotDraw(NOTHING)
    before, after = _moments(orders[0])
    handles = [
        Line2D([], [], color=BEFORE, marker="o", markersize=6, fillstyle="none", ls="", label=before),
        Line2D([], [], color=AFTER, marker="o", markersize=3.5, ls="", label=f"{after} (numbers)"),
    ]
    if compared:
        handles.append(Line2D([], [], color=GREY, marker="|", markersize=7, ls="", label=f"{label(compared)}, {after}"))
    text = f"{_order_of(orders)}{averaged(*counts(results.of_row(*rows)), spread=False)}"
    legend_below(figure, handles, 3, text)
    return figure


def _dots(panel, results, row, order, index, compared):
    """Draw a ring, a dot and the dot's value for each class, with a mark for the row compared with."""
    for y, name in enumerate(results.labels(order[index - 1])):
        matrix = result_matrix(results, row, order, name)
        before, after = over_folds(matrix[index, index]), over_folds(matrix[len(order), index])
        if not after:
            continue
        if before:
            panel.plot((before.mean, after.mean), (y, y), color=GREY, linewidth=0.8, zorder=1)
            panel.plot(before.mean, y, "o", color=BEFORE, markersize=6, fillstyle="none", zorder=2)
        panel.plot(after.mean, y, "o", color=AFTER, markersize=3.5, zorder=3)
        panel.text(1.1, y, f"{after.mean:.2f}", va="center", color=AFTER, fontsize=SMALL)
        other = compared and over_folds(results.final_scores(compared, order, order[index - 1], name))
        if other:
            panel.plot(other.mean, y, "|", color=GREY, markersize=7, markeredgewidth=1.2, zorder=1.5)
    panel.set_xlim(-0.06, 1.4)
    panel.set_xticks((0, 0.5, 1), ("0", ".5", "1"))
    panel.spines["bottom"].set_bounds(0, 1)
    panel.spines["left"].set_visible(False)
    panel.tick_params("y", length=0)
    panel.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)


def short_number(value):
    """Format 1e6 as 1M, 10000.0 as 10k, 0.5 as 0.5."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def draw_lambda(results, orders):
    """Scores on old tasks against the new one along EWC's λ, and along the weight α of the later of two models
    (wise_ft_tuned), with the baselines as points on the same folds.

    For several old tasks it is the mean of their scores.
    """
    options = {"sharex": "row", "sharey": "row", "squeeze": False}
    figure, panels = subplots(len(SHOWN), len(orders), COLUMN, 4.1, **options)
    styles, of_alpha, alphas, estimates = row_styles(results.baselines), METHODS["wise_ft_tuned"].colour, {}, []
    values = sorted({value for order in orders for value in lambda_curve(results, order, SHOWN[0])[0]})
    # Darker for larger λ, since the points are too close together for labels.
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
                panel.plot(x, y, styles[row][1], color=styles[row][0], zorder=3, **OPEN)
            old = f"task 1: {order[0]}" if len(order) == 2 else f"mean of tasks 1 to {len(order) - 1}"
            panel.set_xlabel(wrapped(old), labelpad=2)
            panel.set_ylabel(wrapped(f"task {len(order)}: {order[-1]}"), labelpad=2)
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
        handles.append(Line2D([], [], color=colour, marker=marker, ls="", label=label(row), **OPEN))
    if alphas:
        words = f"WiSE-FT, α {min(alphas):g} to {max(alphas):g}"
        handles.append(Line2D([], [], color=of_alpha, marker=".", markersize=3, linewidth=0.8, label=words))
    folds, seeds = (max(map(len, counts)) for counts in zip(*((of.per_fold, of.seeds) for of in estimates)))
    what = " and ".join(filter(None, ("EWC along λ" if values else "", "WiSE-FT along α" if alphas else "")))
    text = f"{_order_of(orders)}{what}:\n{averaged(folds, seeds, spread=bool(values))}"
    figure.set_figheight(3.65 + 0.15 * -(-len(handles) // 3))
    legend_below(figure, handles, 4 if values else 2, text)
    return figure


def _old_and_new(estimates):
    """Mean and standard deviation over folds, for the mean of all tasks but the last, and for the last task."""
    *old, new = estimates
    per_fold = [np.mean([estimate.per_fold[fold] for estimate in old]) for fold in new.per_fold]
    return np.mean(per_fold), np.std(per_fold, ddof=1) if len(per_fold) > 1 else 0, new.mean, new.std or 0
