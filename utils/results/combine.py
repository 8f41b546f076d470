"""Task-agnostic rows, combined from finished runs without training: ``bash run-combine.sh``.

From the adapters of several corpora: routing per utterance, by nearest centroid or by entropy, the mean of their probabilities,
or the mean of their weights. From finetune: the weighted mean of the models before and after learning a corpus (WiSE-FT,
Wortsman et al., CVPR 2022). Each fold, seed and set or order of corpora gets a run folder like those of other methods, without
a best_model.pt.
"""

from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError, one_line_errors, printable
from utils.files import BEST_MODEL, CONFIG, DIGESTS, METRICS, PREDICTIONS, run_folder, write_json, write_text
from utils.flags import Parser, count, named_path, seed_number
from utils.methods import COMBINED, METHODS, SEQUENCE, START, task_folder
from utils.training.arguments import add_reopening_flags, ending

# torch is imported within functions to keep --help fast.

ALPHAS = tuple(number / 10 for number in range(11))
HALF = 0.5


class Job(NamedTuple):
    """Rows made from the same models, which share their evaluations.

    Attributes:
        make: the function that makes them.
        rows: names of methods.
        parents: FoundRuns, in the order of ``sequence``, or the models before and after the last task.
        sequence: the tasks, sorted if their order is irrelevant.
        evaluations: number of evaluations of a model on a split.
    """

    make: object
    rows: tuple
    parents: tuple
    sequence: tuple
    evaluations: int

    def folder(self, output_root, row):
        """Path of a row's run folder."""
        last = self.parents[-1]
        name = task_folder(self.sequence) if METHODS[row].in_order else "+".join(self.sequence)
        return run_folder(output_root, f"{row}{self.suffix}", last.fold, name)

    @property
    def suffix(self):
        """Suffix of the parents' experiment names, such as -seed13."""
        return ending(Namespace(**self.parents[-1].config["arguments"]))


def combine(output_root, folds=None, seeds=None, overwrite=False, **changes):
    """Make all rows for which finished runs exist under the methods' own names.

    Args:
        output_root: folder of the runs, and of the rows that are written.
        folds, seeds: only these, if given.
        overwrite: also remake finished rows.
        changes: flags that override the runs' own, as in ``utils.training.reopen.reopen``.

    Raises:
        UserError: if there is nothing to combine, or a run or corpus cannot be used.
    """
    from tqdm import tqdm

    from utils.identity import FileDigests
    from utils.results.runs import find_runs

    def tell(line):
        tqdm.write(printable(line))

    runs = {
        (run.experiment, run.sequence, run.key): run
        for run in find_runs(output_root)
        if run.metrics
        and run.experiment == run.method
        and (run.path / BEST_MODEL).exists()
        and (folds is None or run.fold in folds)
        and (seeds is None or run.config["seed"] in seeds)
    }
    digests, jobs = FileDigests(output_root / DIGESTS), []
    for job in [*adapter_jobs(runs, tell), *weight_jobs(runs, digests, tell)]:
        parents = _parents(job, output_root, digests)
        rows = tuple(row for row in job.rows if overwrite or not _is_done(job.folder(output_root, row), parents, tell))
        jobs.append((job._replace(rows=rows), parents))
    if not jobs:
        raise UserError(
            f"--output_root {output_root} holds nothing to combine: the adapters of two corpora, or finetune and {START}, "
            "under these names and finished for the same fold and seed"
        )
    jobs = [(job, parents) for job, parents in jobs if job.rows]
    with tqdm(total=sum(job.evaluations for job, _ in jobs), desc="evaluations", disable=None) as bar:
        for job, parents in jobs:
            for row, made in job.make(job, changes | {"output_root": output_root}, bar.update):
                folder = job.folder(output_root, row)
                scores = _write(folder, row, job, parents, *made)
                tell(f"{folder}: macro F1 " + ", ".join(f"{name} {of['f1_macro']:.3f}" for name, of in scores.items()))


def adapter_jobs(runs, tell):
    """Yield a Job per fold, seed and set of corpora learned as a sequence; without sequences, for all corpora with adapters."""
    from utils.results.merge import require_alike

    orders = {sequence for row, sequence, _ in runs if METHODS[row].how == SEQUENCE}
    sets = {frozenset(order[:length]) for order in orders for length in range(2, len(order) + 1)}
    own = [(sequence[0], key) for row, sequence, key in runs if row == "adapter"]
    rows, told = _rows_of("adapter"), []
    for tasks in sorted(map(sorted, sets or {frozenset(task for task, _ in own)})):
        for key in sorted(dict.fromkeys(key for _, key in own)):
            if len(tasks) < 2 or not all((task, key) in own for task in tasks):
                continue
            parents, made = tuple(runs["adapter", (task,), key] for task in tasks), rows
            if len({tuple(of["fingerprint"] for of in run.config["encoders"].values()) for run in parents}) > 1:
                tell(f"no rows of {', '.join(str(run.path) for run in parents)}: they are over different encoders")
                continue
            try:
                for parent in parents[1:]:
                    require_alike(parents[0].config, parent.config, parents[0].path, parent.path)
            except UserError as reason:
                if tasks not in told:  # same for all folds and seeds
                    tell(f"adapter_merged is not made of {', '.join(tasks)}: {reason}")
                    told.append(tasks)
                made = tuple(row for row in rows if METHODS[row].answers)
            evaluations = len(tasks) * (len(tasks) + ("adapter_merged" in made))
            yield Job(combine_adapters, made, parents, tuple(tasks), evaluations)


def weight_jobs(runs, digests, tell):
    """Yield a Job for each run of finetune whose starting model exists."""
    for (row, sequence, key), after in sorted(runs.items(), key=lambda item: item[0]):
        if row != "finetune":
            continue
        before = runs.get((after.started_from, sequence[:-1], key))
        (digest,) = digests(before.path / BEST_MODEL) if before else (None,)
        if digest != after.config["started_from"]["sha256"]:
            tell(f"{after.path}: no wise_ft of it, since the model that it started from is not here")
            continue
        yield Job(combine_weights, _rows_of(row), (before, after), sequence, 2 * len(ALPHAS) * len(sequence))


def _rows_of(name):
    return tuple(row for row, method in METHODS.items() if method.how == COMBINED and method.of == name)


def _parents(job, output_root, digests):
    """The entry ``parents`` of a row's config.json."""
    found = digests(*(run.path / BEST_MODEL for run in job.parents))
    return [{"run": run.path.relative_to(output_root).as_posix(), "sha256": digest} for run, digest in zip(job.parents, found)]


def _is_done(folder, parents, tell):
    from utils.identity import read_run_config

    if not (folder / METRICS).exists():
        return False
    if read_run_config(folder / CONFIG).get("parents") == parents:
        tell(f"{folder} is finished: skipped (--overwrite makes it again)")
        return True
    tell(f"{folder} was made of other models than lie there now: made again")
    return False


def combine_adapters(job, changes, advance):
    """Yield (row, arguments of ``_write``) for the rows made from several adapters."""
    from utils.metrics import softmax, test_scores
    from utils.results import METRIC_TITLES
    from utils.results.merge import mean_state
    from utils.training.engine import logits_of
    from utils.training.reopen import reopen
    from utils.training.routing import answer, centroids_of, over_union, pristine_text_encoder, split_features, union

    names, classes = job.sequence, union(run.config["labels"] for run in job.parents)
    probabilities, centroids, merged = {name: [] for name in names}, [], None
    for number, parent in enumerate(job.parents, 1):
        run, model, config, tasks = reopen(parent.path, changes, names, cached=True, classes=classes)
        centroids.append(centroids_of(parent.path, run, model, tasks[parent.task]))
        for name in names:
            logits = logits_of(run, model, tasks[name].splits["test"], name)
            probabilities[name].append(over_union(softmax(logits), config["labels"], classes))
            advance()
        if "adapter_merged" in job.rows:
            state = {name: tensor.cpu().clone() for name, tensor in model.checkpoint_state().items()}
            # Running mean of the adapters so far.
            merged = mean_state(merged or state, state, 1 / number)
    splits = {name: task.splits["test"] for name, task in tasks.items()}
    text_encoder = pristine_text_encoder(run)
    features = {name: split_features(run, text_encoder, model.speech_encoder, split, name) for name, split in splits.items()}
    about = {"test_right": {}, "test_wrong": {}}
    for index, name in enumerate(names):
        scores = [test_scores(splits[name].labels, of.argmax(axis=1), classes) for of in probabilities[name]]
        about["test_right"][name] = scores.pop(index)
        numbers = ("f1_micro", *METRIC_TITLES)
        about["test_wrong"][name] = {metric: sum(of[metric] for of in scores) / len(scores) for metric in numbers}
    for row in job.rows:
        how, more = METHODS[row].answers, {}
        if how:
            answers = {name: answer(how, probabilities[name], features[name], centroids) for name in names}
            if how != "mean":
                more = {name: {"routing": float((answers[name][1] == index).mean())} for index, name in enumerate(names)}
            answers = {name: of for name, (of, _) in answers.items()}
        else:
            model.load_checkpoint_state(merged)
            answers = {}
            for name in names:
                answers[name] = softmax(logits_of(run, model, splits[name], name))
                advance()
        yield row, (run, model, tasks, answers, more, about, {})


def combine_weights(job, changes, advance):
    """Yield (row, arguments of ``_write``) for the weighted means of two fusion models, with weight α of the second."""
    from utils.metrics import f1_scores, softmax
    from utils.results.merge import mean_state
    from utils.training.checkpoints import read_state
    from utils.training.engine import evaluate
    from utils.training.reopen import reopen

    before, after = (read_state(parent.path / BEST_MODEL) for parent in job.parents)
    run, model, _, tasks = reopen(job.parents[-1].path, changes, job.sequence)
    along, answers = [], {}
    for alpha in ALPHAS:
        model.load_checkpoint_state(mean_state(before, after, alpha))
        point = {"alpha": alpha, "valid": {}, "test": {}}
        for split in ("valid", "test"):
            found = {}
            for name in job.sequence:
                found[name] = evaluate(run, model, tasks[name].splits[split], name)
                point[split][name] = f1_scores(found[name].labels, found[name].predicted)
                advance()
        along.append(point)
        answers[alpha] = {name: softmax(of.logits) for name, of in found.items()}  # of the test splits
    best = max(along, key=lambda point: sum(of["f1_macro"] for of in point["valid"].values()))["alpha"]
    for row in job.rows:
        tuned = METHODS[row].keeps_data
        alpha = best if tuned else HALF
        yield row, (run, model, tasks, answers[alpha], {}, {"along_alpha": along} if tuned else {}, {"alpha": alpha})


def _write(folder, row, job, parents, run, model, tasks, answers, scores, more, arguments):
    """Write a row's run folder, metrics.json last.

    Args:
        folder: the run folder.
        row: its method.
        job: its Job.
        parents: from ``_parents``.
        run, model, tasks: from reopening the last parent.
        answers: ``{task: probabilities (n, classes) on its test split}``.
        scores: additional test scores, ``{task: {name: score}}``.
        more: additional content of metrics.json.
        arguments: additional arguments in config.json.

    Returns:
        ``{task: test scores}``.
    """
    import uuid

    import pandas as pd

    from utils.metrics import calibration_error, test_scores
    from utils.training.engine import prediction_table
    from utils.training.facts import run_facts

    splits = {name: tasks[name].splits["test"] for name in job.sequence}
    tests = {}
    for name, of in answers.items():
        labels = splits[name].labels
        tests[name] = test_scores(labels, of.argmax(axis=1), run.labels) | {"ece": calibration_error(of, labels)}
        tests[name] |= scores.get(name, {})
    predictions = pd.concat([prediction_table(name, splits[name], of, run.labels) for name, of in answers.items()])
    config = run_facts(run, model, tasks, None)
    del config["started_from"]
    task = job.sequence[-1] if METHODS[row].in_order else "+".join(job.sequence)
    config |= {"method": row, "experiment": row, "task": task, "sequence": list(job.sequence), "parents": parents}
    config["arguments"] |= {"task": task, "experiment": row, "exp_name": f"{row}{job.suffix}", **arguments}
    config["parameters"] |= {"trained": 0}
    config["run"] = uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    write_json(folder / CONFIG, config)
    write_text(folder / PREDICTIONS, predictions.to_csv(index=False, float_format="%.9g"))
    write_json(folder / METRICS, {"run": config["run"], "task": task, "test": tests, **more})
    return tests


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.results.combine",
        description="Make the task-agnostic rows from finished runs of adapter, task_a and finetune.",
        example="python -m utils.results.combine --folds 0 1",
    )
    parser.add_argument("--output_root", type=named_path, default="outputs", help="folder of the runs, also for the output")
    parser.add_argument("--folds", type=count, nargs="+", metavar="K", help="only these folds (default: all available)")
    parser.add_argument("--seeds", type=seed_number, nargs="+", metavar="N", help="only these seeds (default: all available)")
    parser.add_argument("--overwrite", action="store_true", help="also remake finished rows")
    add_reopening_flags(parser)
    args = vars(parser.parse_args())
    combine(Path(args.pop("output_root")), **args)


if __name__ == "__main__":
    main()
