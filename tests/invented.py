"""Run folders with invented scores, of any methods, tasks and classes, as training writes them."""

import json

import numpy as np
import pandas as pd

from utils.files import run_folder
from utils.identity import FORMAT
from utils.methods import ALONE, COMBINED, JOINT, METHODS, joint_folder, task_folder

A, B, C = "KEMDy19", "KEMDy20", "MELD"
SEVEN = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
# Always predicting the first: weighted F1 .45, as .6 of precision and all of recall make .75 of one class in three.
FOUR = {"angry": 6, "happy": 2, "sad": 2, "contempt": 0}
ENCODERS = {kind: {"name": f"e/{kind}", "fingerprint": "1" * 64, "pretrained": True} for kind in ("text", "speech")}


def scored(score, counts):
    """Test scores of which all are ``score``, but for macro F1, which is half of it."""
    per_class = {name: {"precision": score, "recall": score, "f1": score, "support": n} for name, n in counts.items()}
    f1 = {"f1_weighted": score, "f1_macro": score / 2, "f1_micro": score}
    matrix = np.diag(list(counts.values())).tolist()
    calibration = {"ece": 0.2, "ece_calibrated": 0.1}
    return {"n": sum(counts.values()), **f1, **calibration, "per_class": per_class, "confusion_matrix": matrix}


def invent(root, experiment, sequence, test, before=None, fold=0, seed=12, counts=None, method=None, valid=None, **config):
    """Write a finished run, and return its folder, which bears the seed as well where it is not 12.

    Args:
        experiment: its row.
        sequence: tasks in the order learned.
        test, before: score of the best model and of the starting model, ``{task: score}``.
        counts: utterances of each class in every split.
        method: by default the name of the experiment.
        valid: macro F1 on validation splits, ``{task: score}``; by default as tested.
        config: further facts of config.json, and as ``arguments`` further flags.
    """
    counts = counts or dict.fromkeys(SEVEN, 2)
    method = METHODS[method or experiment]
    exp_name = experiment + ("" if seed == 12 else f"-seed{seed}")
    joint = method.how == JOINT
    path = run_folder(root, exp_name, fold, (joint_folder if joint else task_folder)(sequence))
    path.mkdir(parents=True)
    task = JOINT if joint else sequence[-1]
    flags = {"task": task, "num_fold": fold, "seed": seed, "exp_name": exp_name, "experiment": experiment, "num_epochs": 2}
    splits = {split: {"labels": counts, "sessions": [index]} for index, split in enumerate(("train", "valid", "test"))}
    corpora = {"root": "data", "synthetic": False, "is_kemdy": True, "utterances": 14, "digest": "1", "splits": splits}
    facts = {"format": FORMAT, "run": "1", "method": method.name, "model": method.model, "experiment": experiment, "task": task}
    facts |= {"sequence": list(sequence), "fold": fold, "k_fold": 5, "seed": seed, "synthetic": False, "labels": list(counts)}
    facts |= {"corpora": dict.fromkeys(test, corpora), "encoders": ENCODERS, "started_from": None}
    facts |= {"parameters": {"total": 1000, "trained": 1000, "stored": 1000}, **config}
    facts["arguments"] = flags | config.get("arguments", {})
    (path / "config.json").write_text(json.dumps(facts))
    scores = [{name: scored(score, counts) for name, score in of.items()} for of in (test, before or {})]
    metrics = {"run": "1", "best_epoch": 1, "temperature": 1.5, "test": scores[0], "test_before": scores[1]}
    metrics["valid"] = {name: {"f1_macro": score} for name, score in (valid or test).items()}
    (path / "metrics.json").write_text(json.dumps(metrics))
    history = {f"{name}_valid_{what}": [0.1, 0.3, 0.2] for name in test for what in ("loss", "f1_weighted", "f1_macro")}
    pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [None, 1.0, 0.5], **history}).to_csv(path / "history.csv", index=False)
    return path


def change(path, **facts):
    """Change what a run's config.json says; ``arguments`` in part."""
    config = json.loads((path / "config.json").read_text())
    facts["arguments"] = config["arguments"] | facts.get("arguments", {})
    (path / "config.json").write_text(json.dumps(config | facts))


def change_metrics(path, **facts):
    """Change what a run's metrics.json says."""
    metrics = json.loads((path / "metrics.json").read_text())
    (path / "metrics.json").write_text(json.dumps(metrics | facts))


def three_tasks(root):
    """Two folds of finetune, adapter and joint in the order A, B, C, with four classes of which one never occurs."""
    for fold, shift in ((0, 0.0), (1, 0.1)):
        about = {"fold": fold, "counts": FOUR}
        invent(root, "task_a", [A], {A: 0.7}, **about)
        invent(root, "finetune", [A, B], {A: 0.8 + shift, B: 0.8}, {A: 0.7, B: 0.2}, **about)
        invent(root, "finetune", [A, B, C], {A: 0.3, B: 0.6 + shift, C: 0.7}, {A: 0.8 + shift, B: 0.8, C: 0.1}, **about)
        for task, score in ((A, 0.85), (B, 0.75), (C, 0.65)):
            invent(root, "adapter", [task], {task: score}, **about)
        invent(root, "joint", [A, B], {A: 0.9, B: 0.82}, **about)
        invent(root, "joint", [B, A, C] if fold else [A, B, C], {A: 0.88, B: 0.8, C: 0.75 + shift}, **about)


def two_tasks(root):
    """Two folds of everything in both orders of the published study's corpora."""
    for fold, shift in ((0, 0.0), (1, 0.1)):
        invent(root, "task_a", [A], {A: 0.7}, fold=fold)
        for first, second in ((A, B), (B, A)):
            for method, kept in (("finetune", 0.3), ("ewc", 0.4)):
                test = {first: kept + shift, second: 0.8}
                invent(root, method, [first, second], test, {first: 0.7, second: 0.2}, fold)
        invent(root, "adapter", [A], {A: 0.65}, fold=fold)
        invent(root, "adapter", [B], {B: 0.75 + shift}, fold=fold)
        invent(root, "joint", [A, B], {A: 0.72, B: 0.9}, fold=fold)


def all_methods(root, folds=3):
    """Every method of the registry, in both orders of the published study's corpora; each is .01 better than the one before."""
    for number, method in enumerate(METHODS.values()):
        for fold in range(folds):
            score = 0.3 + 0.01 * number + 0.02 * (fold + number) % 0.05
            about = {"fold": fold, "method": method.name}
            if method.how == ALONE:
                for task in (A, B):
                    invent(root, method.name, [task], {task: score}, **about)
            elif method.how == JOINT or (method.how == COMBINED and not method.in_order):
                invent(root, method.name, [A, B], {A: score, B: score}, **about)
            else:
                for order in ((A, B), (B, A)):
                    scores = {order[0]: score, order[1]: 0.9}
                    invent(root, method.name, order, scores, {order[0]: 0.8, order[1]: 0.2}, **about)
