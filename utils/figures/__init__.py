"""The paper's figures and more, drawn from runs: every one as PNG to read and as PDF for papers."""

from pathlib import Path

from utils.errors import UserError
from utils.figures import style
from utils.figures.architecture import draw_architecture, draw_storage
from utils.figures.curves import draw_curves
from utils.figures.scores import draw_confusion, draw_emotions, draw_forgetting, draw_lambda
from utils.results.runs import are_synthetic


def draw_all(runs, folder, confusion, confusion_task):
    """Draw every figure that the runs suffice for.

    Args:
        runs: from ``utils.results.runs.comparable_runs``.
        folder: made if missing.
        confusion: the two settings of the confusion matrices.
        confusion_task: the corpus that these are tested on.

    Yields:
        One line a figure: what was written, or what is missing for it.

    Raises:
        UserError: if the folder cannot be written.
    """
    # Parameter counts are real where scores are synthetic.
    of_models = {"architecture": lambda: draw_architecture(runs), "storage": lambda: draw_storage(runs)}
    of_scores = {
        "forgetting": lambda: draw_forgetting(runs),
        "confusion": lambda: draw_confusion(runs, confusion, confusion_task),
        "emotions": lambda: draw_emotions(runs),
        "lambda": lambda: draw_lambda(runs),
    }
    for method in ("finetune", "ewc", "adapter"):
        of_scores[f"curves_{method}"] = lambda method=method: draw_curves(runs, method)
    synthetic = are_synthetic(runs)
    style.prepare()
    for name, draw in (of_models | of_scores).items():
        try:
            figure = draw()
            if synthetic and name in of_scores:
                style.mark_synthetic(figure)
            yield style.save(figure, Path(folder), name)
        except style.CannotDraw as reason:
            style.plt.close("all")
            yield f"{name}: not drawn, {reason}"
        except OSError as error:
            raise UserError(f"--figures {folder} cannot be written ({error.strerror})") from None
