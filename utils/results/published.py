"""The published scores, fold by fold, and ours beside them."""

from functools import cache
from pathlib import Path

from utils.data.kemdy import CORPORA
from utils.errors import UserError
from utils.files import read_json
from utils.results.runs import METRIC_TITLES, SETTINGS, Estimate, are_synthetic, over_folds, table_scores
from utils.results.tables import Signed, Table

FILE = Path(__file__).with_suffix(".json")
CAPTION = (
    "Published: 40 epochs, batches of 8, seed 12, klue/bert-base and wav2vec2-base-960h; mean ± standard deviation over folds. "
    "The score is that on the corpus tested: finetune and ewc learned it first and the other after it.",
    "The published ewc scores are no target. The Fisher information was estimated on KEMDy20 in both orders: the score on "
    "KEMDy19 was made with that of the corpus being learned, not of the one to be guarded. The score on KEMDy20, where it was "
    "the right one, does not beat finetune.",
    "Always answering 'neutral' scores weighted F1 .226 on KEMDy19 and .805 on KEMDy20 (macro .133): on KEMDy20 only macro F1 "
    "separates models.",
)


@cache
def published_scores():
    """``{setting: {corpus: {metric: [score of fold 0, …]}}}``."""
    return read_json(FILE)


def published_estimate(setting, corpus, metric):
    """The published score over five folds, as an Estimate."""
    return Estimate(dict(enumerate(published_scores()[setting][corpus][metric])))


def published_tables(runs, metrics):
    """With runs, ours beside the published scores for each metric and corpus; without, the published table itself.

    Returns:
        A list of Tables. Ours counts as near where it lies within two standard deviations, over the published folds, of the
        published mean.

    Raises:
        UserError: if the runs are of another number of folds.
    """
    if not runs:
        return [
            Table(
                "published",
                f"Published, {METRIC_TITLES[metric]}",
                "setting",
                {setting: {task: published_estimate(setting, task, metric) for task in CORPORA} for setting in SETTINGS},
                {"metric": metric},
                CAPTION,
                digits=6,
            )
            for metric in metrics
        ]
    k_fold = {run.config["arguments"].get("k_fold", 5) for run in runs}
    if k_fold != {5}:
        raise UserError(f"--published: the published scores are of 5 folds, these runs of {max(k_fold)}")
    return [_beside(runs, metric, task) for metric in metrics for task in CORPORA]


def _beside(runs, metric, task):
    rows, whose = {}, "ours, synthetic" if are_synthetic(runs) else "ours"
    for setting in SETTINGS:
        theirs = published_estimate(setting, task, metric)
        ours = over_folds(table_scores(runs, setting, task, metric))
        off = None if ours is None else Signed(ours.mean - theirs.mean)
        near = None if ours is None else abs(off) <= 2 * theirs.std
        verdict = {"difference": off, "within 2 std": near}
        for name, estimate, more in (
            (f"{setting}, {whose}", ours, verdict),
            (f"{setting}, published", theirs, dict.fromkeys(verdict)),
        ):
            per_fold = estimate.per_fold if estimate else {}
            folds = {f"fold {fold}": per_fold.get(fold) for fold in theirs.per_fold}
            rows[name] = {**folds, "mean": estimate, **more}
    title = f"Tested on {task}: {METRIC_TITLES[metric]}, ours beside the published"
    return Table("beside_published", title, "setting", rows, {"metric": metric, "tested_on": task}, CAPTION)
