"""The paper's figures and more, drawn from runs: every one as PNG to read and as PDF for papers."""

from functools import partial
from pathlib import Path

from utils.errors import UserError
from utils.figures import style
from utils.figures.architecture import draw_architecture, draw_storage
from utils.figures.curves import draw_curves, sequences_of
from utils.figures.scores import draw_confusion, draw_emotions, draw_forgetting, draw_lambda, rows_shown
from utils.methods import COMBINED
from utils.results.runs import stray_within


def pages(orders):
    """The orders of one figure, ``{what its file name ends in: orders}``.

    Both orders of two tasks share one, and so do single tasks; any other order has its own.
    """
    groups = {}
    for order in orders:
        groups.setdefault(frozenset(order) if len(order) == 2 else order if len(order) > 2 else None, []).append(order)
    return {f"_{'+'.join(of[0])}" if index else "": of for index, of in enumerate(groups.values())}


def draw_all(results, folder, confusion=None, confusion_task=None):
    """Draw every figure for which there are enough runs.

    Args:
        results: ``utils.results.runs.Results``.
        folder: made if missing.
        confusion: the two rows of the confusion matrices; by default the first two that are told the task.
        confusion_task: the task that these are tested on; by default the last.

    Yields:
        One line a figure, as ``style.write_figures``, and one that names the rows that are left out.
    """
    # Parameter counts are real where scores are synthetic.
    of_models = {"architecture": partial(draw_architecture, results), "storage": partial(draw_storage, results)}
    of_scores = {"confusion": partial(draw_confusion, results, confusion, confusion_task)}
    shown = rows_shown(results)
    for which, orders in pages(results.orders).items():
        of_scores[f"forgetting{which}"] = partial(draw_forgetting, results, orders)
        of_scores[f"lambda{which}"] = partial(draw_lambda, results, orders)
        if len(shown) <= style.MOST_ROWS:
            of_scores[f"emotions{which}"] = partial(draw_emotions, results, orders)
    if len(shown) > style.MOST_ROWS:  # both orders would be longer than a page
        for order in results.orders:
            of_scores[f"emotions_{'+'.join(order)}"] = partial(draw_emotions, results, [order])
    for row in results.rows_that(lambda method: method.how != COMBINED, shown):
        of_scores |= _curves(results.runs, row)
    yield from style.write_figures(of_models, Path(folder))
    yield from style.write_figures(of_scores, Path(folder), results.synthetic)
    if len(shown) < len(results.learners):
        yield f"forgetting, emotions and curves are those of {', '.join(shown)}; --settings names others"


def draw_curves_of(runs, names, folder, synthetic):
    """Draw the learning curves of some experiments, finished or not.

    Args:
        runs: from ``utils.results.runs.find_runs``.
        names: of the experiments.
        folder: made if missing.
        synthetic: are the runs?

    Yields:
        One line a figure, as ``style.write_figures``.

    Raises:
        UserError: if a name is not that of an experiment found, or its runs are of different settings.
    """
    figures, known = {}, sorted({run.experiment for run in runs})
    for name in names:
        if name not in known:
            raise UserError(f"--curves {name}: there is no such experiment, but {', '.join(known)}")
        if reason := stray_within(name, [run for run in runs if run.experiment == name]):
            raise UserError(f"--curves {name}: {reason}")
        figures |= _curves(runs, name)
    yield from style.write_figures(figures, Path(folder), synthetic)


def _curves(runs, row):
    """The figures of a row's learning curves, as for ``style.write_figures``."""
    of_page = pages(sequences_of(runs, row))
    return {f"curves_{row}{which}": partial(draw_curves, runs, row, sequences) for which, sequences in of_page.items()}
