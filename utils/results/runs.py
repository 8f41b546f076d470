"""The runs under an output folder, which of them are comparable, and all their test scores in one tidy table."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from utils.errors import UserError
from utils.files import CONFIG, HISTORY, METRICS, PREDICTIONS, read_json
from utils.identity import differences, identity, read_run_config
from utils.methods import ALONE, COMBINED, JOINT, KEMDY, METHODS, SEQUENCE, START
from utils.metrics import accuracies, majority_scores, occurring
from utils.results import CALIBRATION, METRIC_TITLES, OCCURRING, RECALL, TESTS
from utils.results.statistics import FEWEST_FOLDS, interval, p_value, probability_within

COLUMNS = ("experiment", "method", "sequence", "trained", "fold", "seed", "tested", "when", "metric", "value")
# Default baselines of paired differences.
BASELINES = ("finetune", "adapter")
# Config entries in which the runs of one row may differ: their position in the grid, and their starting models.
MAY_DIFFER = {"--num_fold", "--seed", "--exp_name", "--init_name", "--alpha", "starting model", "sequence of tasks"}
# The classes of a corpus, or of all corpora of a sequence: equal only within one sequence.
LABELS = {"labels"}


@dataclass(frozen=True)
class FoundRun:
    """A run folder, or a score file of a run that may be elsewhere (see utils/results/score.py).

    ``metrics`` is None for an unfinished run; ``problem`` is the reason why its files cannot be used, if any.
    """

    path: Path
    config: dict
    metrics: dict | None = None
    problem: str | None = None
    from_file: bool = False

    @property
    def experiment(self):
        """Name of its row: the experiment's name without the seed, or the folder's name if it cannot be read."""
        return self.config.get("experiment", self.path.parts[-3])

    @property
    def method(self):
        return self.config.get("method")

    @property
    def task(self):
        return self.config.get("task", self.path.name)

    @cached_property
    def sequence(self):
        """Tasks in learning order; sorted if the order is irrelevant, as for a joint run."""
        tasks = self.config["sequence"]
        return tuple(tasks if METHODS[self.method].in_order else sorted(tasks))

    @property
    def started_from(self):
        """Row of the model that it starts from, for a method of the kind SEQUENCE."""
        return METHODS[self.method].starts_from if len(self.sequence) == 2 else self.experiment

    @property
    def fold(self):
        return self.config.get("fold")

    @property
    def is_combined(self):
        """Return whether it was combined from finished runs, without training."""
        return self.method is not None and METHODS[self.method].how == COMBINED

    @property
    def trial_of(self):
        """The tuned row of which it is a trial, or None (see utils/results/tuning.py)."""
        return self.config.get("arguments", {}).get("trial_of")

    @property
    def train_half(self):
        """The seed of --train_half (see leakage.py); None if all training utterances were kept."""
        return self.config.get("arguments", {}).get("train_half")

    @property
    def key(self):
        """(fold, seed), by which runs of two rows are paired."""
        return self.config["fold"], self.config["seed"]

    @cached_property
    def identity(self):
        return identity(self.config)

    @cached_property
    def session_matrices(self):
        """Confusion matrices by test session, ``{task: {session: (classes, classes)}}``; empty for a score file."""
        path, found = self.path / PREDICTIONS, defaultdict(dict)
        if not path.is_file():
            return found
        table = pd.read_csv(path, usecols=["task", "session", "emotion", "predicted"], dtype=str, keep_default_na=False)
        index = {label: number for number, label in enumerate(self.config["labels"])}
        for (task, session), rows in table.groupby(["task", "session"]):
            matrix = found[task][session] = np.zeros((len(index), len(index)))
            np.add.at(matrix, (rows["emotion"].map(index), rows["predicted"].map(index)), 1)
        return found


def find_runs(output_root):
    """Every run folder ``<exp_name>/fold_<k>/<task>`` under ``output_root``, finished or not, sorted by path."""
    runs = [_read_run(path.parent) for path in sorted(Path(output_root).glob(f"*/fold_*/*/{CONFIG}"))]
    # The experiment of an unreadable config.json is taken from the other runs in its folder.
    experiment_of = {run.path.parts[-3]: run.experiment for run in runs if run.config}
    return [
        run if run.config else replace(run, config={"experiment": experiment_of.get(run.experiment, run.experiment)})
        for run in runs
    ]


def _read_run(folder):
    config, metrics = {}, None
    try:
        config = read_run_config(folder / CONFIG)
        if (method := config["method"]) not in METHODS:
            config = {"experiment": config["experiment"]}
            raise UserError(f"{folder / CONFIG} is of the method {method!r}, which utils/methods.py does not declare")
        if (folder / METRICS).exists():
            metrics = read_json(folder / METRICS)
            if metrics.get("run") != config["run"]:
                raise UserError(f"{folder / METRICS} is not of the run in {CONFIG}")
    except UserError as error:
        return FoundRun(folder, config, problem=str(error))
    return FoundRun(folder, config, metrics)


def usual_rows(found):
    """Names of the rows found under the methods' own names, including tuned ones."""
    names = {run.experiment for run in found}
    return [row for name in METHODS for row in (name, f"{name}_tuned") if row in names]


def is_lambda_point(run):
    """Return whether the run can be a point of the curve along λ."""
    return run.method == "ewc" and "ewc_lambda" in run.config["arguments"] and not run.trial_of and run.train_half is None


class Results:
    """Rows of comparable runs.

    Rows that are not shown are kept if a shown one refers to them: starting models, joint, the baselines, the rows under the
    methods' own names, and the experiments along λ.

    Args:
        found: from ``find_runs``, plus the runs of tuned rows.
        settings: names of the rows, in order; by default ``usual_rows``.
        baselines: rows from which paired differences are computed; by default BASELINES, as far as found.

    Attributes:
        rows, baselines: names of those shown, in order.
        named: those of ``settings``.
        runs: the finished runs of all kept rows.
        table: a DataFrame with COLUMNS; ``sequence`` is a tuple, ``metric`` as for ``scores``, a calibration error, or
            ``routing``: the fraction of utterances routed to the adapter of their corpus.
        left_out: for each excluded row, a line with the reason.

    Raises:
        UserError: if there is no experiment of a given name, or no row is left.
    """

    def __init__(self, found, settings=None, baselines=None):
        names = {run.experiment for run in found}
        for name in settings or ():
            if name not in names and name not in METHODS:
                raise UserError(f"--settings {name}: there is no such experiment, but {', '.join(sorted(names)) or 'none'}")
        for name in baselines or ():
            if name not in names:
                raise UserError(f"--baseline {name}: there is no such experiment")
        self.named = tuple(settings or ())
        rows = tuple(dict.fromkeys(settings or usual_rows(found)))
        baselines = tuple(baselines or (name for name in BASELINES if name in names))
        along_lambda = (run.experiment for run in found if is_lambda_point(run))
        own_rows = [run.method for run in found if run.experiment in rows and run.method]
        own_rows += [METHODS[name].of for name in own_rows if METHODS[name].of]
        own_rows += [METHODS[name].starts_from for name in own_rows if METHODS[name].how == SEQUENCE]
        kept = dict.fromkeys((*rows, *baselines, START, JOINT, *along_lambda, *own_rows))
        by_row = {name: [run for run in found if run.experiment == name] for name in [*METHODS, *kept] if name in kept}
        by_row, self.left_out = comparable({name: runs for name, runs in by_row.items() if runs})
        if self.left_out and not any(name in by_row for name in rows):
            raise UserError(self.left_out[0])
        self.rows = tuple(name for name in rows if name in by_row)
        self.baselines = tuple(name for name in baselines if name in by_row)
        self.runs = [run for of in by_row.values() for run in of]
        self._methods = {run.experiment: METHODS[run.method] for run in self.runs}
        self.table = score_table(self.runs)
        self._scores = defaultdict(dict)
        for experiment, _, sequence, _, fold, seed, tested, when, metric, value in self.table.itertuples(index=False):
            self._scores[experiment, sequence, tested, metric, when][fold, seed] = value

    def scores(self, row, sequence, tested, metric, when="test"):
        """Test scores of a row's runs of one sequence, ``{(fold, seed): score}``.

        Args:
            row: an experiment.
            sequence: tasks in learning order; for joint in any order.
            tested: the tested task.
            metric: one of METRIC_TITLES, OCCURRING, a class for its own F1, or RECALL and a class for its recall.
            when: one of ``utils.results.TESTS``.
        """
        return self._scores.get((row, tuple(sequence), tested, metric, when), {})

    def final_scores(self, row, order, tested, metric):
        """Scores on ``tested`` after learning all of ``order``, as in ``scores``."""
        return self.scores(row, self.run_of(row, order, tested), tested, metric)

    def run_of(self, row, order, tested):
        """Sequence of the row's run whose tests are those on ``tested`` after learning all of ``order``."""
        method = self.method(row)
        if method.how == ALONE:
            return (tested,)
        return tuple(order) if method.in_order else tuple(sorted(order))

    def estimate(self, values, tasks, kind=None):
        """``over_folds`` with the ``ratio`` of the tasks.

        Args:
            values: ``{(fold, seed): number}``.
            tasks: the tasks on whose test splits the numbers were measured.
            kind: class of the Estimate.
        """
        return over_folds(values, kind or Estimate, self.ratio(tasks, {fold for fold, _ in values}))

    def ratio(self, tasks, folds):
        """Ratio of test to training utterances, averaged over folds; the largest of several tasks."""
        known = [of for task in tasks if folds <= (of := self._ratios[task]).keys()]
        return max((float(np.mean([of[fold] for fold in folds])) for of in known), default=None) if folds else None

    @cached_property
    def _ratios(self):
        """Ratio of test to training utterances, ``{task: {fold: ratio}}``."""
        ratios = defaultdict(dict)
        for run in self.runs:
            for task, corpus in run.config["corpora"].items():
                test, train = (sum(corpus["splits"][split]["labels"].values()) for split in ("test", "train"))
                ratios[task][run.fold] = test / train
        return ratios

    def method(self, row):
        """Return the Method of a row."""
        return self._methods[row]

    def of_row(self, *rows):
        """The runs of the given rows."""
        return [run for run in self.runs if run.experiment in rows]

    def rows_that(self, condition, rows=None):
        """Names of the shown rows (or of ``rows``) whose Method meets a condition."""
        return tuple(row for row in (self.rows if rows is None else rows) if condition(self.method(row)))

    @property
    def tuned(self):
        """Rows made from trials (see utils/results/tuning.py)."""
        return tuple(row for row in self.rows if "tuned" in self.of_row(row)[0].config)

    @property
    def keeping(self):
        """Rows that need recordings of earlier tasks, for training or for model selection by validation on all tasks."""
        return tuple(
            row for row in self.rows if self.method(row).keeps_data or row in self.tuned and self.method(row).how == SEQUENCE
        )

    @property
    def learners(self):
        """Rows that learn tasks sequentially."""
        return self.rows_that(lambda method: method.how != JOINT and not method.reference)

    @cached_property
    def joint(self):
        """Name of the row trained jointly on all tasks, or None."""
        names = dict.fromkeys(run.experiment for run in self.runs if METHODS[run.method].how == JOINT)
        return JOINT if JOINT in names else next(iter(names), None)

    @cached_property
    def synthetic(self):
        return any(run.config["synthetic"] for run in self.runs)

    @cached_property
    def tasks(self):
        """All tasks, those of the published study first, the others by name."""
        names = {name for run in self.runs for name in run.sequence}
        return tuple(sorted(names, key=lambda name: (name not in KEMDY, name)))

    @cached_property
    def is_published_pair(self):
        """Return whether all tasks are those of the published study."""
        return set(self.tasks) <= set(KEMDY)

    @cached_property
    def orders(self):
        """The learning orders of tasks: both orders of the published study's corpora, else those of the longest runs."""
        if self.is_published_pair:
            return (KEMDY, KEMDY[::-1])
        return longest(run.sequence for run in self.runs if METHODS[run.method].how == SEQUENCE)

    def labels(self, tested):
        """The classes of a task that occur in the test split of any fold, in the models' order."""
        support = Counter()
        for run in self.runs:
            for name, of in (run.metrics["test"].get(tested) or {"per_class": {}})["per_class"].items():
                support[name] = max(support[name], of["support"])
        return tuple(name for name, n in support.items() if n)

    def majority(self, tested, metric):
        """Score of always predicting the training split's majority class, ``{fold: score}`` for all folds of any run."""
        folds = {run.fold: run.config["corpora"][tested]["splits"] for run in self.runs if tested in run.config["corpora"]}
        counts = {fold: (splits["train"]["labels"], splits["test"]["labels"]) for fold, splits in sorted(folds.items())}
        return {fold: majority_scores(*of)[metric] for fold, of in counts.items()}


def longest(sequences):
    """Unique sequences of tasks, without those that are a prefix of another."""
    found = dict.fromkeys(sequences)
    return tuple(order for order in found if not any(other[: len(order)] == order for other in found if other != order))


def score_table(runs):
    """All test scores of finished runs, as a DataFrame with COLUMNS and one score per row."""
    records = []
    for run in runs:
        about = (run.experiment, run.method, run.sequence, run.task, *run.key)
        for when in TESTS:
            for tested, test in run.metrics.get(when, {}).items():
                test = accuracies(test) | test
                values = {metric: test[metric] for metric in (*METRIC_TITLES, *CALIBRATION, "routing") if metric in test}
                for label, of in test.get("per_class", {}).items():
                    values |= {label: of["f1"], RECALL + label: of["recall"]}
                if found := [of["f1"] for of in occurring(test)]:
                    values[OCCURRING] = sum(found) / len(found)
                records += [(*about, tested, when, metric, value) for metric, value in values.items()]
    return pd.DataFrame(records, columns=COLUMNS)


def comparable(by_row):
    """Exclude rows that must not be averaged or compared.

    Args:
        by_row: ``{row: [FoundRun]}``; among equally frequent versions of a corpus, the first one is kept.

    Returns:
        (``{row: [finished FoundRun]}``, a line for each excluded row).
    """
    kept, lines = {}, []
    for row, runs in by_row.items():
        reason = stray_within(row, runs)
        if reason:
            lines.append(f"{row} is left out: {reason}")
        elif finished := [run for run in runs if run.metrics]:
            kept[row] = finished
    facts = {row: {fact: (value, run) for run in runs for fact, value in _facts(run).items()} for row, runs in kept.items()}
    for fact in dict.fromkeys(fact for of in facts.values() for fact in of):
        having = {row: facts[row][fact] for row in kept if fact in facts[row]}
        if not having:
            continue
        standard = Counter(value for value, _ in having.values()).most_common(1)[0][0]  # ties: the first
        example = next(run for value, run in having.values() if value == standard)
        for row, (value, run) in having.items():
            if value != standard:
                differ = f"{run.path} and {example.path} differ in {fact}"
                lines.append(f"{row} is left out: {differ}; keep them under different --output_root")
                del kept[row]
    return kept, lines


def _facts(run):
    """Facts that must be equal in all runs of a table, in the order of comparison."""
    facts = {"being synthetic": run.config["synthetic"]}
    for name, corpus in run.config["corpora"].items():
        facts[f"the utterances of {name}"] = corpus["digest"]
        facts[f"the sessions of {name}, fold {run.fold}"] = run.identity[f"folds of {name}"]
    return facts


def stray_within(row, runs):
    """The reason why the runs of a row must not be averaged, naming two of them; None if they may be."""
    for run in runs:
        if run.problem:
            return f"{run.problem}; run it again with --overwrite, or move it away"
    expected = METHODS.get(row)
    first_of, twins, facts = {}, {}, {}
    for run in runs:
        first = first_of.setdefault(row, run)
        if run.method != (expected.name if expected else first.method):
            other = f"{first.path} of {first.method}" if run is not first else f"the row is {row}'s"
            return f"{run.path} is a run of {run.method}, and {other}: give it another --exp_name"
        of_sequence = first_of.setdefault(run.sequence, run)
        tuned = run.config.get("tuned", {}).get("varied", ())
        differing = run_differences(first, run, LABELS.union(tuned)) or run_differences(of_sequence, run, tuned)
        if differing:
            return f"{first.path} and {run.path} differ in {', '.join(differing)}: keep them under different experiment names"
        twin = twins.setdefault((run.sequence, run.key), run)
        if twin is not run:
            return f"{twin.path} and {run.path} are both of fold {run.key[0]} and seed {run.key[1]}: move one away"
        for fact, value in _facts(run).items():
            other, known = facts.setdefault(fact, (run, value))
            if known != value:
                return f"{other.path} and {run.path} differ in {fact}: keep them under different --output_root"
    return None


def run_differences(one, other, more=(), words="{} and {}"):
    """Config differences that make two runs incomparable: flags with both values, encoders, classes.

    Corpora are compared separately, since the runs of a sequence do not share all of them.

    Args:
        one, other: FoundRuns.
        more: additional names that may differ, such as "--ewc_lambda".
        words: format of a flag's two values.
    """
    here, there = one.identity, other.identity
    if one.from_file or other.from_file:  # a score file holds only some of the arguments
        here, there = ({name: of[name] for name in here.keys() & there.keys()} for of in (here, there))
    corpora = {name for name in here | there if name.startswith(("corpus ", "folds of "))}
    # Sessions can be withdrawn only from a run's own corpora.
    corpora |= {name for name in here.keys() ^ there.keys() if name.startswith("set of withdrawn ")}
    return differences(here, there, {*MAY_DIFFER, *more, *corpora}, words)


@dataclass(frozen=True)
class Estimate:
    """A quantity over folds.

    Attributes:
        per_fold: maps a fold to its mean over ``seeds``.
        ratio: ratio of a fold's test to its training utterances; None if unknown.
        p_holm: ``p`` adjusted for a family of differences; None if not adjusted.
    """

    per_fold: dict
    seeds: tuple = ()
    ratio: float | None = None
    p_holm: float | None = None

    @cached_property
    def mean(self):
        return float(np.mean(list(self.per_fold.values())))

    @cached_property
    def std(self):
        """Standard deviation over folds (n − 1); None for one fold."""
        return float(np.std(list(self.per_fold.values()), ddof=1)) if len(self.per_fold) > 1 else None

    def _by(self, statistic):
        """A statistic of the folds' values and the ratio; None with fewer than three folds or an unknown ratio."""
        enough = len(self.per_fold) >= FEWEST_FOLDS and self.ratio is not None
        return statistic(list(self.per_fold.values()), self.ratio) if enough else None

    @cached_property
    def interval(self):
        """Bounds of the 95 % confidence interval of the mean, corrected for training data shared by folds, or None."""
        return self._by(interval)

    @cached_property
    def p(self):
        """Two-sided p-value for a mean of 0, corrected like ``interval``, or None."""
        return self._by(p_value)

    @cached_property
    def p_within(self):
        """Probability that the mean is within ± .01, or None."""
        return self._by(probability_within)


@dataclass(frozen=True)
class Bootstrapped(Estimate):
    """An Estimate whose ``interval`` comes from resampling the test splits' sessions."""

    bounds: tuple = ()

    @property
    def interval(self):
        return self.bounds


def over_folds(values, kind=Estimate, ratio=None):
    """Average ``{(fold, seed): number}`` within each fold, over the seeds that all folds have.

    There is no interval without the ratio, which ``Results.estimate`` provides.

    Returns:
        An Estimate of the given ``kind``, on which its format in tables depends; None if there is nothing to average.
    """
    common = tuple(sorted(common_seeds(values)))
    folds = sorted({fold for fold, _ in values})
    if not common:
        return None
    return kind({fold: float(np.mean([values[fold, seed] for seed in common])) for fold in folds}, common, ratio)


def common_seeds(keys):
    """The seeds that all folds have, from keys (fold, seed)."""
    seeds = defaultdict(set)
    for fold, seed in keys:
        seeds[fold].add(seed)
    return set.intersection(*seeds.values()) if seeds else set()


def combine(function, *quantities):
    """Apply ``function`` elementwise to several ``{(fold, seed): number}``, over the keys that all of them have."""
    keys = [key for key in quantities[0] if all(key in other for other in quantities[1:])] if quantities else []
    return {key: function(*(values[key] for values in quantities)) for key in keys}


def difference(one, other):
    """``one - other``, elementwise."""
    return combine(lambda a, b: a - b, one, other)


def mean(quantities):
    """The elementwise mean."""
    return combine(lambda *values: sum(values) / len(values), *quantities)


def folder_size(run):
    """Size of a run's files in bytes."""
    return sum(path.stat().st_size for path in run.path.iterdir() if path.is_file())


def epochs_done(run):
    """Number of epochs in the run's history, without epoch 0."""
    try:
        with open(run.path / HISTORY, encoding="utf-8") as file:
            return max(sum(1 for _ in file) - 2, 0)
    except OSError:
        return 0
