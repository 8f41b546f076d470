"""Score files: the test scores of a model, which others can combine with their own.

``python -m utils.results.score MODEL --task KEMDy19 --output FILE.json`` tests any model on the test split of a local corpus,
and ``evaluate.py --scores FILE...`` joins such files. A score file names no utterance, speaker, session or path:

format    version of the format, FORMAT
model     part of the run's config.json, and the digest of the model
tests     as in metrics.json: ``test``, and ``test_without_text`` if measured
rows      the same scores, one per row, for other programs
sha256    of all of these
"""

import hashlib
import json
import os
from dataclasses import replace
from functools import reduce
from pathlib import Path

from utils.errors import UserError, one_line_errors
from utils.files import BEST_MODEL, METRICS, read_json, require_folder, write_json
from utils.flags import Parser, count, folder_name, named_path
from utils.identity import told_fold
from utils.methods import COMBINED, METHODS
from utils.results import METRIC_TITLES, TESTS
from utils.training.arguments import add_reopening_flags, corpus_name

FORMAT = 1
# Facts of a run or an exported file that a score file repeats unchanged.
FACTS = ("method", "model", "task", "sequence", "k_fold", "seed", "labels")


def score(named, task, fold=None, without_text=False, experiment=None, **changes):
    """Test a model on a corpus, with the model's input lengths and classes.

    Scores that a run has already measured on the same utterances are taken from its metrics.json.

    Args:
        named: a run folder, an exported file, or ``hub:OWNER/NAME``.
        task: name of the corpus.
        fold: fold of the test split; by default the model's own.
        without_text: also test with every transcript empty; if writable, a run's metrics.json is updated with the result.
        experiment: name of the model's row in tables; by default the run's, or the method's.
        changes: ``cpu``, ``num_workers``, ``data_root``, ``skip_bad_files``, ``text_model`` and ``speech_model``, as in
            ``utils.training.reopen.reopen``.

    Returns:
        (facts, tests): ``model`` and ``tests`` of a score file.

    Raises:
        UserError: if the model or the corpus cannot be used, if the model lacks a class of the corpus, or if it may have been
            trained on the test split.
    """
    from utils.data.batches import Sound, UtteranceDataset
    from utils.metrics import test_scores
    from utils.training.engine import calibration, evaluate
    from utils.training.sources import load_model
    from utils.training.start import make_tasks, read_corpora

    source = load_model(named, changes.get("text_model"), changes.get("speech_model"))
    facts, labels, metrics = source.facts, source.facts["labels"], source.metrics
    run = _run_of(facts, task, facts["fold"] if fold is None else fold, changes)
    found = make_tasks(run, read_corpora(run, [task]), labels, tokenizer=source.tokenizer)[task]
    _require_unseen(named, facts, found, run.args.num_fold)
    model, split = source.model.to(run.accelerator.device), found.splits["test"]

    def test(dataset, what):
        result = evaluate(run, model, dataset, what)
        scores = test_scores(result.labels, result.predicted, labels)
        return scores | (calibration(result, facts["temperature"]) if facts["temperature"] else {})

    tests = {}
    if metrics and task in metrics["test"] and facts["corpora"][task]["digest"] == found.corpus.digest:
        tests["test"] = {task: metrics["test"][task]}
    else:
        tests["test"] = {task: test(split, f"test {task}")}
    if without_text:
        empty = split.utterances.assign(text="")
        dataset = UtteranceDataset(empty, labels, source.tokenizer, run.args.max_text_len, Sound(run.args.max_seq_len))
        tests["test_without_text"] = {task: test(dataset, f"test {task} without text")}
        if metrics and os.access(source.path, os.W_OK):
            kept = metrics.get("test_without_text", {}) | tests["test_without_text"]
            write_json(source.path / METRICS, metrics | {"test_without_text": kept})
    return _facts(source, found, run.args.num_fold, experiment), tests


def _run_of(facts, task, fold, changes):
    """A Run for testing a model, without a folder."""
    from argparse import Namespace

    from utils.training.run import Run

    told = {name: facts[name] for name in ("k_fold", "seed", "sequence")}
    told |= {"task": task, "num_fold": fold, "exp_name": facts["method"], "text_model": facts["encoders"]["text"]["name"]}
    # A merged model only has the arguments that its parents share.
    args = {"data_root": "data", "output_root": "outputs", "skip_bad_files": False, "batch_size": 32, "mixed_precision": "auto"}
    args |= {**facts["arguments"], **told, **changes}
    if args["mixed_precision"] != "no":  # bf16 if supported here
        args["mixed_precision"] = "auto"
    return Run(Namespace(**args), facts["method"])


def _require_unseen(named, facts, task, fold):
    """Raise UserError if the model may have been trained on the test split of a Task."""
    if task.name not in facts["sequence"]:
        return
    then = facts["corpora"].get(task.name)
    if then is not None:
        unseen = told_fold(then) == task.fold_digest
    else:  # the model was trained further without this corpus, so that only the fold number is known
        unseen = fold == facts["fold"]
    if not unseen:
        raise UserError(
            f"{named} was trained on fold {facts['fold']} of {facts['k_fold']} of {task.name}, and may have seen the test "
            f"split of fold {fold} of {task.corpus.root}"
        )


def _facts(source, task, fold, experiment):
    """The entry ``model`` of a score file."""
    from utils.results.export import ARGUMENTS, name_without_path
    from utils.training.facts import corpus_facts, parameter_counts

    facts = source.facts
    pretrained = not facts["arguments"].get("without_pretraining", False)
    encoders = {}
    for kind, of in facts["encoders"].items():
        name = name_without_path(of) if source.path.is_dir() else of["name"]
        encoders[kind] = {"name": name, "fingerprint": of["fingerprint"], "pretrained": pretrained}
    there = corpus_facts(task, facts["labels"])
    about = {name: there[name] for name in ("digest", "synthetic", "is_kemdy", "utterances")} | {"fold": task.fold_digest}
    about["splits"] = {split: {"labels": there["splits"][split]["labels"]} for split in ("train", "test")}
    parameters = parameter_counts(source.model)
    if METHODS[facts["method"]].how == COMBINED:
        parameters["trained"] = 0
    return {
        **{name: facts[name] for name in FACTS},
        "experiment": experiment or facts.get("experiment", facts["method"]),
        "fold": fold,
        "synthetic": facts["synthetic"] or task.corpus.synthetic,
        "digest": source.digest,
        "parameters": parameters,
        "arguments": {name: facts["arguments"][name] for name in ARGUMENTS if name in facts["arguments"]},
        "encoders": encoders,
        "corpora": {task.name: about},
    }


def write_scores(path, facts, tests):
    """Write the results of ``score`` as a score file."""
    from utils.results.runs import FoundRun, score_table

    rows = score_table([FoundRun(path, facts, tests)]).to_dict("records")
    content = {"format": FORMAT, "model": facts, "tests": tests, "rows": rows}
    write_json(path, content | {"sha256": _digest(content)})


def _digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_scores(path):
    """Read a score file as a FoundRun.

    Raises:
        UserError: if it is not a score file, is damaged, or has another format version.
    """
    from utils.results.runs import FoundRun

    content = read_json(path)
    if not {"format", "model", "tests", "rows", "sha256"} <= content.keys():
        raise UserError(f"{path} is no score file, which 'python -m utils.results.score' writes")
    if content["format"] != FORMAT:
        raise UserError(f"{path} is of format {content['format']!r:.20}, this version reads {FORMAT}: score the model again")
    if content.pop("sha256") != _digest(content):
        raise UserError(f"{path} is damaged or was edited (its checksum is another): copy it again")
    facts = content["model"]
    if facts["method"] not in METHODS:
        raise UserError(f"{path} is of the method {facts['method']!r}, which utils/methods.py does not declare")
    return FoundRun(Path(path), facts, content["tests"], from_file=True)


def join_scores(found, paths):
    """Merge runs and score files: those of the same model become one run with all of their tests.

    Args:
        found: from ``utils.results.runs.find_runs``.
        paths: paths of score files.

    Returns:
        A list of FoundRuns.

    Raises:
        UserError: if a file cannot be used, if two different models would be the same run, or if results of the same test
            differ.
    """
    parts = {}  # by model; a run folder comes first, if there is one
    for run in found:
        if run.metrics:
            parts.setdefault(_key(run), [run])
    for run in map(read_scores, paths):
        same = parts.setdefault(_key(run), [])
        for other in same:
            _require_agreement(other, run)
        same.append(run)
    united = [reduce(_united, of) for of in parts.values()]
    here = {run.path: run for run in united}
    return [*(here.pop(run.path, run) for run in found), *here.values()]


def _key(run):
    return run.experiment, run.sequence, run.key


def _require_agreement(one, other):
    """Raise UserError unless two FoundRuns are of the same model and agree on the tests that both have."""
    if _model_digest(one) != _model_digest(other):
        raise UserError(
            f"{one.path} and {other.path} are of two models, and both are row {one.experiment}, trained on "
            f"{', then '.join(one.sequence)}, fold {one.key[0]}, seed {one.key[1]}: score one of them under another --exp_name"
        )
    for when in TESTS:
        here, there = one.metrics.get(when, {}), other.metrics.get(when, {})
        for task in here.keys() & there.keys():
            if here[task]["confusion_matrix"] != there[task]["confusion_matrix"]:
                raise UserError(f"{one.path} and {other.path} have other results of one model on {task}: leave one of them out")


def _united(one, other):
    """Merge two FoundRuns of the same model."""
    metrics = one.metrics | {when: tests | one.metrics.get(when, {}) for when, tests in other.metrics.items()}
    corpora = other.config["corpora"] | one.config["corpora"]
    synthetic = one.config["synthetic"] or other.config["synthetic"]
    return replace(one, config=one.config | {"corpora": corpora, "synthetic": synthetic}, metrics=metrics)


def _model_digest(run):
    if run.from_file:
        return run.config["digest"]
    from utils.training.checkpoints import read_state, state_digest

    return state_digest(read_state(run.path / BEST_MODEL))


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.results.score",
        description="Test a model on the test split of a corpus, and write its scores to a file, which evaluate.py --scores "
        "joins with others.",
        example="python -m utils.results.score model.safetensors --task KEMDy20 --output scores.json",
    )
    parser.add_argument("model", type=named_path, metavar="MODEL", help="a run folder, an exported file, or hub:OWNER/NAME")
    parser.add_argument("--task", type=corpus_name, required=True, help="corpus to test on: a folder under --data_root")
    parser.add_argument("--num_fold", type=count, metavar="K", help="fold of the test split (default: the model's own)")
    parser.add_argument("--output", type=named_path, required=True, metavar="FILE.json", help="score file to write")
    parser.add_argument("--without_text", action="store_true", help="also test with every transcript empty")
    parser.add_argument("--exp_name", type=folder_name, metavar="ROW", help="row in tables (default: the run's, or the method)")
    parser.add_argument(
        "--skip_bad_files", action="store_true", help="test without unusable audio files instead of refusing to start"
    )
    add_reopening_flags(parser)
    args = vars(parser.parse_args())
    named, output = args.pop("model"), args.pop("output")
    require_folder(output)
    told = {name: args.pop(flag) for name, flag in (("fold", "num_fold"), ("experiment", "exp_name"))}
    if not args["skip_bad_files"]:
        del args["skip_bad_files"]  # the run's own value applies
    from utils.metrics import accuracies

    facts, tests = score(named, args.pop("task"), **told, **args)
    write_scores(output, facts, tests)
    for when, of in tests.items():
        for task, test in of.items():
            test = accuracies(test) | test
            scores = ", ".join(f"{title} {test[name]:.4f}" for name, title in METRIC_TITLES.items())
            print(f"{when.replace('_', ' ')} {task}, fold {facts['fold']}: {scores}")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
