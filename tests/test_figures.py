"""Figures: what they show of invented runs, that nothing is cut off, and that they follow the models."""

import pandas as pd
import pytest
import torch
from invented import FOUR, SEVEN, A, B, C, all_methods, change_metrics, invent, three_tasks, two_tasks
from matplotlib import pyplot as plt
from matplotlib.text import Text

from utils.errors import UserError
from utils.figures import architecture, curves, draw_all, draw_curves_of, pages, scores, style
from utils.methods import METHODS
from utils.results.runs import Results, find_runs


@pytest.fixture(autouse=True)
def prepared():
    style.prepare()
    yield
    plt.close("all")


def require_readable(figure):
    """Fixed width, no text below 7 points, and nothing cut off at the edges or written over an axis's name."""
    assert figure.get_figwidth() in (style.COLUMN, style.PAGE)
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert len(texts) > 5 and min(text.get_fontsize() for text in texts) >= 7
    page, drawn = figure.bbox_inches, figure.get_tightbbox()
    assert (drawn.min >= page.min - 0.01).all() and (drawn.max <= page.max + 0.01).all()
    names = [name.get_window_extent() for panel in figure.axes for name in (panel.xaxis.label, panel.yaxis.label)]
    names = [box for box in names if box.width > 1]
    assert not any(one.overlaps(other) for index, one in enumerate(names) for other in names[:index])


@pytest.mark.parametrize("tasks", [2, 3])
def test_every_figure_is_readable_at_its_width(tmp_path, tasks):
    make, sequence, counts = ((two_tasks, [A, B], None), (three_tasks, [A, B, C], FOUR))[tasks - 2]
    make(tmp_path)
    for value in (10.0, 1000.0):
        for length in range(2, len(sequence) + 1):
            test = dict.fromkeys(sequence[:length], 0.5 + value / 10_000)
            about = {"method": "ewc", "counts": counts, "arguments": {"ewc_lambda": value}}
            invent(tmp_path, f"lambda_{value:g}", sequence[:length], test, dict.fromkeys(test, 0.6), **about)
    rows = ["finetune", "lambda_10", "lambda_1000", "adapter", "joint"]
    results = Results(find_runs(tmp_path), rows, ["finetune", "adapter"])
    (orders,) = pages(results.orders).values()
    for draw in (scores.draw_forgetting, scores.draw_emotions, scores.draw_lambda):
        require_readable(draw(results, orders))
    few = Results(results.runs, ["adapter"])
    require_readable(scores.draw_forgetting(few, orders))
    require_readable(scores.draw_emotions(few, orders))
    for row in (*results.learners, "joint"):
        for sequences in pages(curves.sequences_of(results.runs, row)).values():
            require_readable(curves.draw_curves(results.runs, row, sequences))
    require_readable(scores.draw_confusion(results, ("joint", "lambda_10"), sequence[0]))


def test_figures_are_written_as_png_and_pdf_or_say_what_they_lack(tmp_path):
    invent(tmp_path, "task_a", [A], {A: 0.5}, synthetic=True)
    invent(tmp_path, "adapter", [A], {A: 0.5}, synthetic=True)
    results = Results(find_runs(tmp_path))
    lines = list(draw_all(results, tmp_path / "figures"))
    for name, start in (("storage.png", b"\x89PNG"), ("storage.pdf", b"%PDF"), ("forgetting.pdf", b"%PDF")):
        assert (tmp_path / "figures" / name).read_bytes().startswith(start)
    assert "lambda: not drawn, no experiments that differ in --ewc_lambda alone, and no wise_ft_tuned" in lines
    (tmp_path / "in the way").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        list(draw_all(results, tmp_path / "in the way" / "figures"))
    with pytest.raises(UserError, match="--confusion mine"):
        scores.draw_confusion(results, ["mine", "adapter"])


def test_forgetting_is_that_of_each_earlier_task(tmp_path):
    three_tasks(tmp_path)
    figure = scores.draw_forgetting(Results(find_runs(tmp_path)), [(A, B, C)])
    bars = [[text.get_text() for text in panel.texts] for panel in figure.axes[::2]]
    # finetune and adapter, when learned and at the end, on A and on B.
    assert bars == [["0.70", "0.30", "0.85", "0.85"], ["0.80", "0.65", "0.75", "0.75"]]
    assert [panel.get_ylabel() for panel in figure.axes[::2]] == [f"task 1: {A}", f"task 2: {B}"]
    assert {"after that task", "after task 3"} < {text.get_text() for text in figure.legends[0].get_texts()}


def test_confusion_matrices_are_pooled_over_folds_class_by_class(tmp_path):
    for fold in (0, 1):
        invent(tmp_path, "adapter", [B], {B: 0.5}, fold=fold, counts=FOUR)
        # Another model may have the classes in another order, and more of them.
        invent(tmp_path, "joint", [A, B], {A: 0.5, B: 0.5}, fold=fold, counts={"fear": 0} | dict(reversed(FOUR.items())))
    figure = scores.draw_confusion(Results(find_runs(tmp_path)), ("adapter", "joint"), B)
    for panel in figure.axes:  # what was never predicted is empty
        assert [text.get_text() for text in panel.texts] == ["100 %\n12", "100 %\n4", "100 %\n4"]
    assert figure.axes[0].get_title() == "adapter\ntested on KEMDy20 (2 folds)"
    assert (figure.axes[0].get_ylabel(), figure.axes[0].get_xlabel()) == ("true", "predicted")


def test_figures_say_over_how_many_folds_and_seeds_they_average(tmp_path):
    for fold, seed in ((0, 12), (0, 13), (1, 12), (1, 13)):
        invent(tmp_path, "finetune", [A, B], {A: 0.3, B: 0.8}, {A: 0.7, B: 0.2}, fold, seed)
    assert style.averaged(*style.counts(find_runs(tmp_path))) == "mean and standard deviation over 2 folds (2 seeds each)"
    invent(tmp_path, "ewc", [A, B], {A: 0.3, B: 0.8}, {A: 0.7, B: 0.2})
    runs = find_runs(tmp_path)
    assert style.averaged(*style.counts(runs), spread=False) == "mean over up to 2 folds (2 seeds each)"
    assert style.averaged(*style.counts([run for run in runs if run.fold == 0])) == "mean over up to 2 seeds of one fold"
    assert style.averaged(*style.counts([run for run in runs if run.experiment == "ewc"])) == "one fold"


def test_emotions_at_0_are_inside_their_panel_and_no_text_covers_another(tmp_path):
    for task in (A, B):
        invent(tmp_path, "adapter", [task], {task: 0.0})
        invent(tmp_path, "task_a", [task], {task: 0.0})
    for order in ((A, B), (B, A)):
        invent(tmp_path, "finetune", order, dict.fromkeys(order, 0.0), dict.fromkeys(order, 0.0))
    figure = scores.draw_emotions(Results(find_runs(tmp_path)), [(A, B), (B, A)])
    require_readable(figure)
    for panel in figure.axes:
        assert [text.get_text() for text in panel.texts] == ["0.00"] * len(SEVEN)
        boxes = [text.get_window_extent() for text in (*panel.texts, *panel.get_yticklabels())]
        assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
        assert all(panel.get_xlim()[0] < line.get_xdata()[0] for line in panel.lines)
    # Of a model a task the ring and the dot are one place; fine-tuning is marked beside them.
    markers = [line.get_marker() for line in figure.axes[1].lines]
    assert {marker: markers.count(marker) for marker in "o|"} == {"o": 2 * len(SEVEN), "|": len(SEVEN)}


def test_of_many_rows_those_of_the_study_are_drawn_or_those_named(tmp_path):
    all_methods(tmp_path, folds=1)
    study = ("finetune", "ewc", "adapter", "adapter_wo_pretraining")
    assert scores.rows_shown(Results(find_runs(tmp_path))) == study
    named = Results(find_runs(tmp_path), [*METHODS])
    assert scores.rows_shown(named) == named.learners and len(named.learners) > 15
    figure = scores.draw_forgetting(named, [(A, B), (B, A)])
    require_readable(figure)
    assert figure.get_figheight() < 9


def test_curves_of_unfinished_runs_are_drawn_by_name(tmp_path):
    invent(tmp_path, "task_a", [A], {A: 0.5})
    for fold in (0, 1):
        path = invent(tmp_path, "finetune", [A, B], {A: 0.3, B: 0.5}, fold=fold)
    (path / "metrics.json").unlink()
    pd.read_csv(path / "history.csv")[:2].to_csv(path / "history.csv", index=False)
    runs = find_runs(tmp_path)
    lines = list(draw_curves_of(runs, ["finetune", "task_a"], tmp_path / "figures", False))
    assert [line.split("figures/")[1].split(".")[0] for line in lines] == ["curves_finetune", "curves_task_a"]
    figure = curves.draw_curves(runs, "finetune", [(A, B)])
    require_readable(figure)
    text = figure.legends[0].get_title().get_text()
    assert text == "finetune: mean and standard deviation over 2 folds\n1 of 2 runs unfinished"
    (path / "history.csv").unlink()
    (path.parents[1] / "fold_0" / B / "metrics.json").unlink()
    assert len(curves.histories(find_runs(tmp_path), "finetune", (A, B), {(0, 12), (1, 12)})) == 3
    with pytest.raises(UserError, match="--curves mine: there is no such experiment, but finetune, task_a"):
        list(draw_curves_of(runs, ["mine"], tmp_path / "figures", False))


def test_curves_average_folds_and_mark_where_tasks_start(tmp_path):
    for fold in (0, 1):
        invent(tmp_path, "task_a", [A], {A: 0.5}, fold=fold)
        path = invent(tmp_path, "finetune", [A, B], {A: 0.3, B: 0.5}, {A: 0.7, B: 0.2}, fold=fold)
        invent(tmp_path, "finetune", [A, B, C], {A: 0.3, B: 0.5, C: 0.5}, fold=fold)
        if fold:
            table = pd.read_csv(path / "history.csv")
            (table + 0.2).assign(epoch=table["epoch"]).to_csv(path / "history.csv", index=False)
    figure = curves.draw_curves(find_runs(tmp_path), "finetune", [(A, B, C)])
    lines = {tuple(line.get_xdata()): list(line.get_ydata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 3}
    assert lines[0, 1, 2] == pytest.approx([0.1, 0.3, 0.2]) and lines[2, 3, 4] == pytest.approx([0.2, 0.4, 0.3])
    assert lines[4, 5, 6] == pytest.approx([0.1, 0.3, 0.2])
    borders = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert borders == [2, 4]


def test_the_figures_of_the_models_follow_them():
    drawn = [draw(None) for draw in (architecture.draw_architecture, architecture.draw_storage)]
    for figure in drawn:
        require_readable(figure)
    assert "concatenate\n768 + 256" in {text.get_text() for text in drawn[0].axes[0].texts}
    assert "1,750" in {text.get_text() for text in drawn[1].axes[0].get_yticklabels()}
    model, whole, text_name, speech_name = architecture.model_of(None)
    # The published sizes with KoBERT's vocabulary.
    assert whole == 186_762_631 and (text_name, speech_name) == ("KoBERT", "wav2vec2-base")
    parts = architecture.parts_of(model)
    assert sum(count for count, owned in parts.values() if owned) == 13_241_607
    frozen = {"embeddings", "attention", "feed-forward", "pooler", "speech convolutions", "speech layers"}
    assert {name for name, (_, owned) in parts.items() if not owned} == frozen
    # A part that the figure does not know, or one of which a task owns a half, is no picture of the model any more.
    model.new_part = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="new_part"):
        architecture.parts_of(model)


def test_combined_rows_have_a_curve_and_no_panel_of_emotions_unless_named(tmp_path):
    two_tasks(tmp_path)
    invent(tmp_path, "adapter_mean", [A, B], {A: 0.5, B: 0.5})
    path = invent(tmp_path, "wise_ft_tuned", [A, B], {A: 0.5, B: 0.5}, arguments={"alpha": 0.5})
    scores_at = {alpha: {"f1_weighted": alpha, "f1_macro": alpha / 2} for alpha in (0.0, 0.5, 1.0)}
    change_metrics(path, along_alpha=[{"alpha": at, "test": {A: of, B: of}} for at, of in scores_at.items()])
    results = Results(find_runs(tmp_path))
    figure = scores.draw_lambda(results, [(A, B)])
    require_readable(figure)
    assert [list(panel.lines[0].get_xdata()) for panel in figure.axes] == [[0, 0.5, 1], [0, 0.25, 0.5]]
    assert "WiSE-FT, α 0 to 1" in [text.get_text() for text in figure.legends[0].get_texts()]
    titles = {panel.get_title() for panel in scores.draw_emotions(results, [(A, B)]).axes}
    assert "adapter" in titles and "adapter, mean" not in titles
    named = Results(find_runs(tmp_path), ["finetune", "adapter_mean"])
    assert "adapter, mean" in {panel.get_title() for panel in scores.draw_emotions(named, [(A, B)]).axes}
