"""The published scores by fold, compared with ours."""

from functools import cache
from pathlib import Path

from utils.errors import UserError
from utils.files import read_json
from utils.methods import KEMDY, PAPER
from utils.results import METRIC_TITLES
from utils.results.runs import Estimate
from utils.results.tables import Signed, Table

FILE = Path(__file__).with_suffix(".json")
# Numbers of usable utterances in the corpora of the published scores.
UTTERANCES = {"KEMDy19": 9627, "KEMDy20": 12828}
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


def incomparable_corpora(runs):
    """Corpora whose scores cannot be compared with the published ones: ``{name: reason}``."""
    reasons = {}
    for name, corpus in ((name, corpus) for run in runs for name, corpus in run.config["corpora"].items()):
        if name not in KEMDY or not corpus["is_kemdy"]:
            reasons[name] = "no corpus of the published study"
        elif not corpus["synthetic"] and corpus["utterances"] != UTTERANCES[name]:
            reasons[name] = f"{corpus['utterances']:,} usable utterances, and the published corpus has {UTTERANCES[name]:,}"
    return reasons


def published_tables(results, metrics):
    """Our scores beside the published ones for each metric and corpus, or, without runs, only the published table.

    Args:
        results: Results, or None.
        metrics: names of metrics; UA was not published.

    Returns:
        (a list of Tables, a list of sentences). Our score counts as near if it is within two standard deviations (over the
        published folds) of the published mean.

    Raises:
        UserError: if the runs have a different number of folds, or none of the metrics was published.
    """
    metrics = [metric for metric in metrics if metric != "ua"]
    if not metrics:
        raise UserError("--published --metric ua: UA was not published, but weighted, macro and wa were")
    if results is None:
        return [_published(metric) for metric in metrics], []
    k_fold = {run.config["k_fold"] for run in results.of_row(*PAPER)}
    if k_fold - {5}:
        raise UserError(f"--published: the published scores are of 5 folds, these runs of {max(k_fold - {5})}")
    reasons = incomparable_corpora(results.runs)
    lines = [f"Not compared with the published numbers: {name} ({reason})." for name, reason in reasons.items()]
    return [_beside(results, metric, task, reasons.keys()) for metric in metrics for task in KEMDY], lines


def _published(metric):
    rows = {setting: {task: published_estimate(setting, task, metric) for task in KEMDY} for setting in PAPER}
    title = f"Published, {METRIC_TITLES[metric]}"
    return Table("published", title, "setting", rows, {"metric": metric}, CAPTION, digits=6)


def _beside(results, metric, task, incomparable):
    rows, whose = {}, "ours, synthetic" if results.synthetic else "ours"
    order = (task, *(other for other in KEMDY if other != task))
    rows_found = {run.experiment for run in results.runs}
    for setting in PAPER:
        theirs = published_estimate(setting, task, metric)
        ours = None
        if setting in rows_found and not incomparable & set(results.run_of(setting, order, task)):
            ours = results.estimate(results.final_scores(setting, order, task, metric), [task])
        for whom, estimate in ((whose, ours), ("published", theirs)):
            per_fold = estimate.per_fold if estimate else {}
            cells = rows[f"{setting}, {whom}"] = {f"fold {fold}": per_fold.get(fold) for fold in theirs.per_fold}
            cells |= {"mean": estimate, "difference": None, "within 2 std": None}
        if ours:
            off = ours.mean - theirs.mean
            rows[f"{setting}, {whose}"] |= {"difference": Signed(off), "within 2 std": abs(off) <= 2 * theirs.std}
    title = f"Tested on {task}: {METRIC_TITLES[metric]}, ours beside the published"
    return Table("beside_published", title, "setting", rows, {"metric": metric, "tested_on": task}, CAPTION)
