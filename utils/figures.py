"""The paper's figures, drawn from finished runs."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # to files, also where there is no screen

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from utils.arguments import other_task
from utils.kemdy import CORPORA
from utils.results import majority_cell, score_cell

# Okabe and Ito's colours, which the colour-blind can tell apart.
BEFORE, AFTER = "#0072B2", "#D55E00"
LINES = {
    "task_a": ("#009E73", "--", "task_a"),
    "finetune": (AFTER, "--", "finetune, after"),
    "majority": ("#777777", ":", "commonest label"),
}
LABELS = {"finetune": "finetune", "ewc": "EWC", "adapter": "adapter", "adapter_wo_pretraining": "adapter w/o\npretraining"}
METRICS = {"f1_weighted": "weighted F1", "f1_macro": "macro F1"}


def draw_forgetting(runs, folder):
    """Figure 2: scores on the first corpus before and after the second is learned, for both orders of the corpora.

    Bars are means over folds, error bars their standard deviation; an adapter of the first corpus is not touched by the
    second, so its two bars are one score.

    Args:
        runs: from ``utils.results.find_runs``.
        folder: made if missing; gets forgetting.png.

    Returns:
        The picture's path.
    """
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(len(METRICS), len(CORPORA), figsize=(9, 6.6), sharey="row", squeeze=False)
    for row, (metric, title) in zip(panels, METRICS.items()):
        for panel, first_task in zip(row, CORPORA):
            _draw_panel(panel, runs, first_task, metric)
        row[0].set_ylabel(f"{title} on the first corpus")
        row[0].set_ylim(bottom=0)
    for panel, first_task in zip(panels[0], CORPORA):
        panel.set_title(f"{first_task} first, then {other_task(first_task)}")
    handles = [Patch(color=BEFORE, label="before the second corpus"), Patch(color=AFTER, label="after it")]
    handles += [Line2D([], [], color=colour, linestyle=style, lw=1.1, label=label) for colour, style, label in LINES.values()]
    synthetic = any(run.config["synthetic"] for run in runs)
    if synthetic:
        figure.suptitle("SYNTHETIC corpora and encoders: a demonstration, not a result", color="#B00000", y=0.985)
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 0.98 if synthetic else 1))
    path = Path(folder) / "forgetting.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)
    return path


def _draw_panel(panel, runs, first_task, metric):
    positions = np.arange(len(LABELS))
    for offset, colour in ((-0.2, BEFORE), (0.2, AFTER)):
        for position, method in zip(positions, LABELS):
            when = "test_before" if colour == BEFORE and method in ("finetune", "ewc") else "test"
            cell = score_cell(runs, method, first_task, metric, when)
            if cell is None:
                continue
            panel.bar(position + offset, cell.mean, 0.38, color=colour, yerr=cell.std, error_kw={"lw": 0.9, "capsize": 2})
            panel.annotate(
                f"{cell.mean:.2f}",
                (position + offset, 0),
                (0, 3),
                textcoords="offset points",
                ha="center",
                color="white",
                fontsize=8,
            )
    cells = {method: score_cell(runs, method, first_task, metric) for method in ("task_a", "finetune")}
    cells["majority"] = majority_cell(runs, first_task, metric)
    for name, (colour, style, _) in LINES.items():
        if cells[name] is not None:
            panel.axhline(cells[name].mean, color=colour, linestyle=style, linewidth=1.1, zorder=0)
    panel.set_xticks(positions, LABELS.values())
