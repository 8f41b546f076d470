"""The paper's figures and more, drawn from runs, each as PNG and as PDF for papers."""

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
    """Group orders by figure, ``{suffix of the file name: orders}``.

    Both orders of two tasks share a figure, and so do single tasks; any other order gets its own.
    """
    groups = {}
    for order in orders:
        groups.setdefault(frozenset(order) if len(order) == 2 else order if len(order) > 2 else None, []).append(order)
    return {f"_{'+'.join(of[0])}" if index else "": of for index, of in enumerate(groups.values())}


def draw_all(results, folder, confusion=None, confusion_task=None):
    """Draw every figure for which there are enough runs.

    Args:
        results: ``utils.results.runs.Results``.
        folder: created if missing.
        confusion: the two rows for confusion matrices; by default the first two that are given the task identity.
        confusion_task: their test task; by default the last.

    Yields:
        One line per figure, as in ``style.write_figures``, and one that names omitted rows.
    """
    # Parameter counts are real even if scores are synthetic.
    of_models = {"architecture": partial(draw_architecture, results), "storage": partial(draw_storage, results)}
    of_scores = {"confusion": partial(draw_confusion, results, confusion, confusion_task)}
    shown = rows_shown(results)
    for which, orders in pages(results.orders).items():
        of_scores[f"forgetting{which}"] = partial(draw_forgetting, results, orders)
        of_scores[f"lambda{which}"] = partial(draw_lambda, results, orders)
        if len(shown) <= style.MOST_ROWS:
            of_scores[f"emotions{which}"] = partial(draw_emotions, results, orders)
    if len(shown) > style.MOST_ROWS:  # both orders would not fit on a page
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
        names: names of the experiments.
        folder: created if missing.
        synthetic: whether the runs are synthetic.

    Yields:
        One line per figure, as in ``style.write_figures``.

    Raises:
        UserError: if there is no experiment of a given name, or its runs have different settings.
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
    """A row's learning curves, in the form that ``style.write_figures`` expects."""
    of_page = pages(sequences_of(runs, row))
    return {f"curves_{row}{which}": partial(draw_curves, runs, row, sequences) for which, sequences in of_page.items()}
