"""Figures of test scores: forgetting, confusion matrices, single emotions, and the trade-off along λ."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from utils.data.kemdy import EMOTIONS
from utils.figures.style import (
    BLUE,
    COLUMN,
    EMOTION_COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    SETTING_COLOURS,
    SMALL,
    VERMILION,
    CannotDraw,
    label,
    legend_below,
    over,
    subplots,
)
from utils.results.measures import LEARNERS, ORDERS, lambda_curve, result_matrix
from utils.results.runs import CONTINUAL, METRIC_TITLES, is_lambda_run, majority, over_folds, table_scores, trained_task

# Macro beside weighted F1: on a corpus of mostly one emotion only the former tells models apart.
SHOWN = ("f1_weighted", "f1_macro")
BEFORE, AFTER = BLUE, VERMILION


def of_settings(runs):
    """The runs of the settings, without those of a grid of λ."""
    return [run for run in runs if not is_lambda_run(run)]


def draw_forgetting(runs):
    """Scores on the first corpus before and after the second is learned, for both orders (the paper's figure 2).

    Bars are means over folds, error bars their standard deviation. An adapter of the first corpus is not touched by the
    second, so its two bars are one score.
    """
    figure, panels = subplots(len(ORDERS), len(SHOWN), COLUMN, 4.0, sharex="col", sharey=True)
    for row, order in zip(panels, ORDERS):
        for panel, metric in zip(row, SHOWN):
            _forgetting_panel(panel, runs, *order, metric)
        row[0].set_ylabel(f"{order[0]}, then {order[1]}", fontsize=SMALL)
    if not any(panel.patches for panel in panels.flat):
        raise CannotDraw("no run of finetune, ewc or an adapter")
    for panel, metric in zip(panels[-1], SHOWN):
        panel.set_xlabel(f"{METRIC_TITLES[metric]}\non the first corpus")
    panels[0, 0].set_yticks(range(len(LEARNERS)), map(label, LEARNERS))
    panels[0, 0].invert_yaxis()
    lines = {"task_a": (GREEN, "--"), "finetune, after": (VERMILION, "--"), "commonest label": (GREY, ":")}
    handles = [Patch(color=BEFORE, label="before the second"), Patch(color=AFTER, label="after it")]
    handles += [Line2D([], [], color=colour, linestyle=style, label=name) for name, (colour, style) in lines.items()]
    legend_below(figure, handles, 3, f"mean and standard deviation over {over(of_settings(runs))}")
    return figure


def _forgetting_panel(panel, runs, first, second, metric):
    for position, method in enumerate(LEARNERS):
        matrix = result_matrix(runs, method, first, second, metric)
        for index, offset, colour in (((1, 1), -0.2, BEFORE), ((2, 1), 0.2, AFTER)):
            estimate = over_folds(matrix[index])
            if estimate is None:
                continue
            panel.barh(
                position + offset, estimate.mean, 0.38, color=colour, xerr=estimate.std, error_kw={"lw": 0.8, "capsize": 1.5}
            )
            # In the bar where it has room, else behind its error bar.
            inside = estimate.mean > 0.3
            place = 0.02 if inside else estimate.mean + (estimate.std or 0) + 0.03
            colour = "white" if inside else "black"
            panel.text(place, position + offset, f"{estimate.mean:.2f}", va="center", color=colour, fontsize=SMALL)
    lines = (
        (over_folds(table_scores(runs, "task_a", first, metric)), GREEN, "--"),
        (over_folds(table_scores(runs, "finetune", first, metric)), VERMILION, "--"),
        (majority(runs, first, metric), GREY, ":"),
    )
    for estimate, colour, style in lines:
        if estimate is not None:
            panel.axvline(estimate.mean, color=colour, linestyle=style, linewidth=1.0, zorder=0)
    panel.set_xlim(0, 1)
    panel.set_xticks((0, 0.5, 1), ("0", ".5", "1"))


def draw_confusion(runs, settings, task):
    """Confusion matrices of two settings on one corpus (the paper's figure 3): rows normalised, counts below the shares.

    Args:
        runs: from ``utils.results.runs.comparable_runs``.
        settings: two of METHODS.
        task: the corpus tested.
    """
    figure, panels = subplots(1, 2, PAGE, 3.7, sharey=True)
    for panel, setting in zip(panels, settings):
        of = [run for run in runs if (run.method, run.task) == (setting, trained_task(setting, task))]
        if not of:
            raise CannotDraw(f"no run of {setting} that is tested on {task}")
        counts = np.sum([run.metrics["test"][task]["confusion_matrix"] for run in of], axis=0)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            panel.text(
                column, row, f"{100 * share:.0f} %\n{counts[row, column]:,}", ha="center", va="center", fontsize=SMALL,
                color="white" if share > 0.5 else "black", linespacing=0.95,
            )  # fmt: skip
        panel.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=45, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(len(EMOTIONS)), EMOTIONS)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        panel.set_title(f"{setting}\ntested on {task} ({over(of)})")
        panel.set_xlabel("answered")
    panels[0].set_ylabel("annotated")
    return figure


def draw_emotions(runs):
    """F1 of each emotion on the first corpus before and after the second, as slopes, for both orders."""
    methods = (*CONTINUAL, "adapter")
    figure, panels = subplots(len(ORDERS), len(methods), PAGE, 5.0, sharex=True, sharey=True)
    drawn = False
    for row, (first, second) in zip(panels, ORDERS):
        for panel, method in zip(row, methods):
            ends = {}
            for emotion in EMOTIONS:
                matrix = result_matrix(runs, method, first, second, emotion)
                before, after = over_folds(matrix[1, 1]), over_folds(matrix[2, 1])
                if before and after:
                    panel.plot((0, 1), (before.mean, after.mean), "o-", color=EMOTION_COLOURS[emotion], markersize=3)
                    ends[emotion] = after.mean
            for (emotion, score), height in zip(ends.items(), spread(list(ends.values()), 0.062)):
                panel.text(1.07, height, f"{emotion} {score:.2f}", color=EMOTION_COLOURS[emotion], va="center", fontsize=SMALL)
            drawn = drawn or bool(ends)
        row[0].set_ylabel(f"F1 on {first}\nbefore and after {second}")
    if not drawn:
        raise CannotDraw("no run of finetune, ewc or adapter")
    for panel, method in zip(panels[0], methods):
        panel.set_title(label(method))
    figure.supxlabel(f"means over {over(of_settings(runs))}; their standard deviations stand in the tables", fontsize=SMALL)
    panels[0, 0].set_xlim(-0.12, 2.0)
    panels[0, 0].set_ylim(0, 1)
    panels[0, 0].set_xticks((0, 1), ("before", "after"))
    return figure


def spread(values, gap):
    """Positions for labels near ``values``, at least ``gap`` apart, in the order of the values given."""
    order = np.argsort(values)
    positions = np.array(values, dtype=float)[order]
    # Pushed up from below, then the whole back by what the labels gained on average, a few times.
    for _ in range(50):
        overlap = gap - np.diff(positions)
        if (overlap <= 1e-9).all():
            break
        for index in np.flatnonzero(overlap > 1e-9):
            move = max(gap - (positions[index + 1] - positions[index]), 0) / 2
            positions[index] -= move
            positions[index + 1] += move
    result = np.empty_like(positions)
    result[order] = positions
    return result


def _label_points(panel, values, x, y):
    """Write each λ beside its point, the values of points that nearly coincide together, by turns above and below."""
    scale = max(np.ptp(x), 1e-9), max(np.ptp(y), 1e-9)
    groups = []
    for value, *point in zip(values, x, y):
        name = short_number(value)
        if groups and np.hypot(*((np.array(point) - groups[-1][1]) / scale)) < 0.12:
            groups[-1][0].append(name)
        else:
            groups.append(([name], np.array(point)))
    for number, (names, point) in enumerate(groups):
        panel.annotate(
            ", ".join(names), point, (4, -10 if number % 2 else 4), textcoords="offset points", fontsize=SMALL, zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def short_number(value):
    """1e6 as 1M, 10000.0 as 10k, 0.5 as 0.5."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def draw_lambda(runs):
    """Old task against new task along ewc's λ, both orders, with finetune and adapter as points on the same folds."""
    figure, panels = subplots(len(SHOWN), len(ORDERS), COLUMN, 3.9)
    drawn = False
    for row, metric in zip(panels, SHOWN):
        for panel, (first, second) in zip(row, ORDERS):
            curve, others = lambda_curve(runs, first, second, metric)
            if not curve:
                continue
            old, new = ([pair[index].mean for pair in curve.values()] for index in (0, 1))
            spread = [[pair[index].std or 0 for pair in curve.values()] for index in (0, 1)]
            panel.errorbar(
                old, new, spread[1], spread[0], fmt="o-", color=ORANGE, markersize=3, elinewidth=0.5, ecolor="#E8C98A", zorder=1
            )
            panel.margins(0.2)
            _label_points(panel, list(curve), old, new)
            for method, pair in others.items():
                marker = {"finetune": "s", "adapter": "D"}[method]
                panel.plot(pair[0].mean, pair[1].mean, marker, color=SETTING_COLOURS[method], markersize=4.5, zorder=3)
            panel.set_xlabel(f"{first} (old)", labelpad=2)
            panel.set_ylabel(f"{second} (new)", labelpad=2)
            panel.set_title(METRIC_TITLES[metric])
            drawn = True
    if not drawn:
        raise CannotDraw("no run of run-ewc-lambda.sh")
    handles = [Line2D([], [], color=ORANGE, marker="o", markersize=3, label="EWC along λ")]
    for method, marker in (("finetune", "s"), ("adapter", "D")):
        handles.append(Line2D([], [], color=SETTING_COLOURS[method], marker=marker, markersize=4.5, ls="", label=method))
    legend_below(figure, handles, 3, f"mean and standard deviation over {over([run for run in runs if is_lambda_run(run)])}")
    return figure
