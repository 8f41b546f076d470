"""The paper's figures and more, drawn from runs: every one as PNG to read and as PDF for papers."""

from functools import partial
from pathlib import Path

from utils.errors import UserError
from utils.figures import style
from utils.figures.architecture import draw_architecture, draw_storage
from utils.figures.curves import draw_curves
from utils.figures.scores import draw_confusion, draw_emotions, draw_forgetting, draw_lambda
from utils.methods import COMBINED


def pages(orders):
    """The orders of one figure, ``{what its file name ends in: orders}``: both orders of two tasks, otherwise each alone."""
    groups = {}
    for order in orders:
        groups.setdefault(frozenset(order) if len(order) == 2 else order, []).append(order)
    return {f"_{'+'.join(of[0])}" if index else "": of for index, of in enumerate(groups.values())}


def draw_all(results, folder, confusion=None, confusion_task=None):
    """Draw every figure for which there are enough runs.

    Args:
        results: ``utils.results.runs.Results``.
        folder: made if missing.
        confusion: the two rows of the confusion matrices; by default the first two that are told the task.
        confusion_task: the task that these are tested on; by default the last.

    Yields:
        One line a figure: what was written, or what is missing for it.

    Raises:
        UserError: if the folder cannot be written.
    """
    # Parameter counts are real where scores are synthetic.
    of_models = {"architecture": partial(draw_architecture, results), "storage": partial(draw_storage, results)}
    of_scores = {"confusion": partial(draw_confusion, results, confusion, confusion_task)}
    for which, orders in pages(results.orders).items():
        of_scores[f"forgetting{which}"] = partial(draw_forgetting, results, orders)
        of_scores[f"emotions{which}"] = partial(draw_emotions, results, orders)
        of_scores[f"lambda{which}"] = partial(draw_lambda, results, orders)
        for row in results.rows_that(lambda method: method.how != COMBINED, results.learners):
            of_scores[f"curves_{row}{which}"] = partial(draw_curves, results, row, orders)
    style.prepare()
    for name, draw in (of_models | of_scores).items():
        try:
            figure = draw()
            if results.synthetic and name in of_scores:
                style.mark_synthetic(figure)
            yield style.save(figure, Path(folder), name)
        except style.CannotDraw as reason:
            style.plt.close("all")
            yield f"{name}: not drawn, {reason}"
        except OSError as error:
            raise UserError(f"--figures {folder} cannot be written ({error.strerror})") from None
