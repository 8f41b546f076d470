"""Figures of test scores: forgetting, confusion matrices, single emotions, and the trade-off along λ."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

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
    subplots,
)
from utils.kemdy import EMOTIONS
from utils.measures import LEARNERS, ORDERS, lambda_curve, result_matrix
from utils.results import CONTINUAL, METRIC_TITLES, majority, over_folds, table_scores, trained_task

# Macro beside weighted F1: on a corpus of mostly one emotion only the former tells models apart.
SHOWN = ("f1_weighted", "f1_macro")
BEFORE, AFTER = BLUE, VERMILION


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
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.0, handlelength=1.6)
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
            panel.text(0.02, position + offset, f"{estimate.mean:.2f}", va="center", color="white", fontsize=SMALL)
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
        runs: from ``utils.results.comparable_runs``.
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
        folds, seeds = ({run.key[part] for run in of} for part in (0, 1))
        over = f"{len(folds)} folds" + (f", {len(seeds)} seeds" if len(seeds) > 1 else "")
        panel.set_title(f"{setting}\ntested on {task} ({over})")
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
        row[0].set_ylabel(f"F1 on {first} before and after {second}")
    if not drawn:
        raise CannotDraw("no run of finetune, ewc or adapter")
    for panel, method in zip(panels[0], methods):
        panel.set_title(label(method))
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


def draw_lambda(runs):
    """Old task against new task along ewc's λ, both orders, with finetune and adapter as points on the same folds."""
    figure, panels = subplots(len(SHOWN), len(ORDERS), COLUMN, 3.9)
    drawn = False
    for row, metric in zip(panels, SHOWN):
        for panel, (first, second) in zip(row, ORDERS):
            curve, others = lambda_curve(runs, first, second, metric)
            old, new = ([pair[index].mean for pair in curve.values()] for index in (0, 1))
            panel.plot(old, new, "o-", color=ORANGE, markersize=3)
            for value, point in zip(curve, zip(old, new)):
                panel.annotate(f"{value:g}", point, (3, 3), textcoords="offset points", fontsize=SMALL)
            for method, pair in others.items():
                marker = {"finetune": "s", "adapter": "D"}[method]
                panel.plot(pair[0].mean, pair[1].mean, marker, color=SETTING_COLOURS[method], markersize=4.5)
            panel.margins(0.2)
            panel.set_xlabel(f"{first} (old)", labelpad=2)
            panel.set_ylabel(f"{second} (new)", labelpad=2)
            panel.set_title(METRIC_TITLES[metric])
            drawn = drawn or bool(curve)
    if not drawn:
        raise CannotDraw("no run of run-ewc-lambda.sh")
    handles = [Line2D([], [], color=ORANGE, marker="o", markersize=3, label="EWC along λ")]
    for method, marker in (("finetune", "s"), ("adapter", "D")):
        handles.append(Line2D([], [], color=SETTING_COLOURS[method], marker=marker, markersize=4.5, ls="", label=method))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
