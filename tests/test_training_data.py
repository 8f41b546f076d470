"""What of a corpus is trained on, and how often: halves by coins, withdrawn sessions, samplers."""

import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from conftest import digest, flags, folder, read, run_main
from torch.nn.functional import cross_entropy

import adapter
import continual_learning_init
import evaluate
import ewc
import finetune
from utils.data.batches import BalancedBatchSampler, balanced_weights
from utils.data.corpus import fold_of, read_corpus
from utils.data.folds import kept_by_coin, split_utterances
from utils.results.export import export
from utils.training.arguments import complete, training_parser
from utils.training.checkpoints import read_export
from utils.training.engine import backward
from utils.training.strategy import Strategy

A, B = "KEMDy19", "KEMDy20"


def drawn(labels, epoch=1, processes=1, cap=None):
    """How often each utterance is drawn in an epoch, by all processes."""
    counts = np.zeros(len(labels), dtype=int)
    for index in range(processes):
        sampler = BalancedBatchSampler(labels, 6, 12, index, processes, cap)
        sampler.epoch = epoch
        for step, batch in enumerate(sampler):
            if index < sampler.global_size(step):
                np.add.at(counts, batch, 1)
    return counts


def test_no_utterance_is_drawn_more_often_than_the_cap_and_classes_are_balanced_as_far_as_it_allows():
    labels = np.array([0] * 600 + [1] * 60 + [2] * 6)
    counts = drawn(labels, cap=5)
    assert counts.max() == 5 and counts.sum() == len(labels)
    by_class = np.bincount(labels, counts)
    assert by_class[2] == 30  # uncapped it is drawn some 222 times
    assert 200 < by_class[1] <= 300
    assert (drawn(labels, cap=1) == 1).all()
    assert (drawn(labels, cap=5, processes=3) == counts).all()
    assert (drawn(labels, cap=5, epoch=2) != counts).any()
    assert (drawn(labels, cap=10_000) == drawn(labels)).all()


def test_a_capped_epoch_does_not_begin_with_the_rare_classes():
    labels = np.array([0] * 900 + [1] * 100)
    first = [np.flatnonzero(labels[np.concatenate(_batches(labels, epoch))] == 1).mean() for epoch in range(1, 21)]
    assert abs(np.mean(first) - 499.5) < 30


def _batches(labels, epoch):
    sampler = BalancedBatchSampler(labels, 50, 12, cap=1)
    sampler.epoch = epoch
    return sampler.global_batches()


def test_a_weighted_loss_counts_every_class_alike():
    labels = np.array([0, 0, 0, 2])  # class 1 is absent
    weights = balanced_weights(labels, 3)
    assert weights.tolist() == pytest.approx([4 / 6, 0, 2])
    assert weights[labels].mean().item() == pytest.approx(1)
    logits = torch.tensor([[1.0, 0.0, -1.0]] * 4, requires_grad=True)
    model = lambda speech, text: logits  # noqa: E731
    training = SimpleNamespace(model=model, bare=model, strategy=Strategy(), class_weights=weights)
    batch = {"labels": torch.from_numpy(labels), "speech_inputs": {}, "text_inputs": {}}
    loss, _ = backward(Accelerator(cpu=True), training, batch, 4)
    each = cross_entropy(logits, batch["labels"], reduction="none")
    expected = (each[:3].mean() + each[3]) / 2
    assert loss.item() / 4 == pytest.approx(expected.item())
    (gradient,) = torch.autograd.grad(expected, logits)
    assert torch.allclose(logits.grad, gradient)


@pytest.mark.parametrize("sampler", [("weighted_loss",), ("capped", "--cap", 2)])
def test_a_run_with_another_sampler_trains_and_is_another_run(call, sampler, tmp_path, capsys):
    named = ("--task", A, "--no_speech_cache", "--num_epochs", 1)
    assert call(adapter, *named, "--sampler", *sampler, output_root=tmp_path)[0] == 0
    code, _, error = call(adapter, *named, output_root=tmp_path)
    assert code and "--sampler" in error and error.count("\n") == 1
    assert np.isfinite(pd.read_csv(folder(tmp_path, "adapter", A) / "history.csv")["train_loss"].iloc[-1])


@pytest.mark.parametrize("wrong", [("--sampler", "capped"), ("--cap", 3)])
def test_a_cap_goes_with_its_sampler(call, wrong):
    code, _, error = call(adapter, "--task", A, *wrong)
    assert code == 2 and "--cap" in error and error.count("\n") == 1


def test_a_coin_is_fair_and_the_same_in_every_fold(data_root):
    ids = [f"utterance{number}" for number in range(4000)]
    for seed in (0, 1):
        assert abs(kept_by_coin(ids, seed).mean() - 0.5) < 0.03
    assert abs((kept_by_coin(ids, 0) == kept_by_coin(ids, 1)).mean() - 0.5) < 0.03
    assert (kept_by_coin(ids[::-1], 3)[::-1] == kept_by_coin(ids, 3)).all()


@pytest.fixture(scope="module")
def halves(data_root, encoders, tmp_path_factory):
    """A start, a fine-tuned model and an adapter, each trained on half of a corpus."""
    outputs = tmp_path_factory.mktemp("halves")
    for script, task in (("continual_learning_init.py", A), ("finetune.py", B), ("adapter.py", A)):
        run_main(script, "--task", task, "--train_half", 3, "--num_epochs", 1, *flags(data_root, encoders, outputs)[:-4])
    return outputs


def test_half_of_a_training_split_is_trained_on_and_all_of_the_others(halves, data_root):
    config = read(folder(halves, "adapter-half3", A) / "config.json")
    corpus = read_corpus(data_root, A)
    tables = split_utterances(corpus.utterances, fold_of(corpus, 0, 5))
    told = {split: sum(of["labels"].values()) for split, of in config["corpora"][A]["splits"].items()}
    kept = kept_by_coin(tables["train"]["segment_id"], 3).sum()
    assert 0 < kept < len(tables["train"])
    assert told == {"train": kept, "valid": len(tables["valid"]), "test": len(tables["test"])}


def test_a_half_starts_from_the_same_half(halves, data_root, encoders, call_main):
    config = read(folder(halves, "finetune-half3", B) / "config.json")
    assert config["started_from"]["checkpoint"] == str(folder(halves, "task_a-half3", A) / "best_model.pt")
    small = flags(data_root, encoders, halves)
    code, _, error = call_main(ewc, "--task", B, "--train_half", 4, *small)
    assert code and "--exp_name task_a-half4 --train_half 4" in error and error.count("\n") == 1
    for half in ((), ("--train_half", "4")):
        code, _, error = call_main(ewc, "--task", B, *half, "--checkpoint", config["started_from"]["checkpoint"], *small)
        assert code and "train_half 3" in error and error.count("\n") == 1


def test_another_seed_of_a_half_has_both_in_its_name(halves, data_root, encoders, call_main):
    seed = ("--exp_name", "adapter-seed13", "--experiment", "adapter", "--seed", 13)
    small = flags(data_root, encoders, halves)
    assert call_main(adapter, "--task", A, "--train_half", 3, *seed, *small, "--num_epochs", 1)[0] == 0
    assert read(folder(halves, "adapter-half3-seed13", A) / "config.json")["experiment"] == "adapter-half3"
    shutil.rmtree(halves / "adapter-half3-seed13")


def test_halves_are_in_no_table(halves, outputs, call_main, tmp_path):
    shutil.copytree(outputs, tmp_path / "outputs")
    shutil.copytree(halves, tmp_path / "outputs", dirs_exist_ok=True)
    code, report, _ = call_main(evaluate, "--output_root", tmp_path / "outputs", "--all")
    assert code == 0 and "half3" not in report


@pytest.fixture(scope="module")
def without_a_session(data_root, encoders, tmp_path_factory):
    """(outputs, the session): an adapter and a start that were trained without a session."""
    outputs = tmp_path_factory.mktemp("withdrawn")
    corpus = read_corpus(data_root, A)
    session = str(fold_of(corpus, 0, 5)["train"][0])
    for script in ("adapter.py", "continual_learning_init.py"):
        cache = ("--no_speech_cache",) * (script == "adapter.py")
        run_main(script, "--task", A, "--withdraw", session, *cache, *flags(data_root, encoders, outputs))
    return outputs, session


def test_a_withdrawn_session_leaves_no_trace_in_the_model(without_a_session, data_root, encoders, call_main, tmp_path):
    outputs, session = without_a_session
    corpus = read_corpus(data_root, A)
    # A copy that has its annotation, but not its wavs.
    shutil.copytree(data_root / A, tmp_path / "data" / A)
    for path in corpus.utterances["wav_path"][corpus.utterances["session"].astype(str) == session]:
        (tmp_path / "data" / A / Path(path).relative_to(corpus.root)).unlink()
    small = flags(tmp_path / "data", encoders, tmp_path / "outputs")
    assert call_main(adapter, "--task", A, "--no_speech_cache", *small)[0] == 0
    of_copy = folder(tmp_path / "outputs", "adapter", A)
    assert digest(of_copy / "best_model.pt") == digest(folder(outputs, "adapter", A) / "best_model.pt")
    predictions = pd.read_csv(folder(outputs, "adapter", A) / "predictions.csv")
    assert session not in set(predictions["session"].astype(str))


def test_an_exported_file_names_no_withdrawn_session(without_a_session, tmp_path):
    outputs, session = without_a_session
    config = read(folder(outputs, "adapter", A) / "config.json")
    assert config["withdrawn"] == {A: [session]} and config["arguments"]["withdraw"] == [f"{A}/{session}"]
    export(folder(outputs, "adapter", A), tmp_path / "a.safetensors")
    facts = read_export(tmp_path / "a.safetensors").facts
    assert facts["withdrawn"][A]["sessions"] == 1 and len(facts["withdrawn"][A]["digest"]) == 64
    assert "withdraw" not in facts["arguments"]


def test_a_start_that_saw_a_withdrawn_session_is_refused(without_a_session, outputs, data_root, encoders, call_main, tmp_path):
    without, session = without_a_session
    small = flags(data_root, encoders, tmp_path)
    seen, unseen = (folder(of, "task_a", A) / "best_model.pt" for of in (outputs, without))
    withdraw = ("--withdraw", f"{A}/{session}")
    for checkpoint, named in ((seen, withdraw), (unseen, ())):
        code, _, error = call_main(finetune, "--task", B, "--checkpoint", checkpoint, *named, *small)
        assert code and "withdrawn sessions of KEMDy19" in error and error.count("\n") == 1
    # Where nothing is told of the start, or the session's corpus is not here, that it saw it is not ruled out.
    shutil.copy(unseen, tmp_path / "untold.pt")
    shutil.copytree(data_root / B, tmp_path / "data" / B)
    elsewhere = ("--data_root", tmp_path / "data", "--exp_name", "elsewhere")
    for checkpoint, more in ((tmp_path / "untold.pt", ()), (seen, elsewhere)):
        code, _, error = call_main(finetune, "--task", B, "--checkpoint", checkpoint, *withdraw, *small, *more)
        assert code and "withdrawn sessions of KEMDy19" in error and error.count("\n") == 1
    export(unseen.parent, tmp_path / "start.safetensors")
    # Who has not the corpus cannot name its sessions.
    named = ("--checkpoint", tmp_path / "start.safetensors", "--num_epochs", 1, *small, *elsewhere)
    assert call_main(finetune, "--task", B, *named)[0] == 0
    for checkpoint in (unseen, tmp_path / "start.safetensors"):
        named = ("--checkpoint", checkpoint, *withdraw, "--num_epochs", 1, "--exp_name", checkpoint.stem)
        assert call_main(finetune, "--task", B, *small, *named)[0] == 0


def test_sessions_of_other_corpora_are_for_other_runs(data_root, encoders, call_main, tmp_path):
    def withdrawn(task, method, *named):
        words = ("--task", task, "--data_root", str(data_root), "--withdraw", *named)
        args = training_parser("", method).parse_args(words)
        return complete(Namespace(**vars(args) | {"init_name": None, "checkpoint": None}), method).withdraw

    assert withdrawn(A, "adapter", f"{B}/1", "2", "x/y z") == [f"{A}/2", f"{A}/x/y z"]
    assert withdrawn(B, "finetune", f"{A}/1", "2") == [f"{A}/1", f"{B}/2"] and withdrawn(A, "adapter", f"{B}/1") is None
    # The command for a start has those of its own corpus.
    small = flags(data_root, encoders, tmp_path)
    code, _, error = call_main(finetune, "--task", B, "--withdraw", f"{A}/1", "2", *small)
    assert code and f"--withdraw {A}/1 " in error + " " and f"{B}/2" not in error, error


@pytest.mark.parametrize(
    "script, task, named, said",
    [
        (continual_learning_init, A, "nobody", "no such session"),
        (finetune, B, f"{A}/nobody", "no such session"),
        (continual_learning_init, "joint", "1", "KEMDy19/1"),
    ],
)
def test_a_session_that_is_not_there_is_one_line(call, script, task, named, said, tmp_path):
    code, _, error = call(script, "--task", task, "--withdraw", named, "--exp_name", "other")
    assert code and said in error and error.count("\n") == 1
