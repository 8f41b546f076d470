"""Every script and every run script, once, on a corpus of a few utterances, and what a user's mistakes are answered with."""

import errno
import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import EXPERIMENTS, ROOT, digest, flags, folder, read, shell, small_speech_encoder, small_text_encoder
from lookalike import make_kemdy20

import adapter
import continual_learning_init
import ewc
import finetune
from models import FusionClassifier, is_task_parameter, load_tokenizer
from utils.data.batches import Sound, UtteranceDataset
from utils.data.corpus import read_corpus
from utils.data.folds import session_folds, split_utterances
from utils.data.kemdy import EMOTIONS
from utils.methods import KEMDY
from utils.training import engine as training
from utils.training import fisher
from utils.training.arguments import parse_training_args
from utils.training.checkpoints import load_run
from utils.training.run import precision_name


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("task", KEMDY)
def test_a_run_folder_tells_its_own_story(outputs, experiment, task):
    path = folder(outputs, experiment, task)
    written = {"best_model.pt", "config.json", "history.csv", "log.txt", "metrics.json", "predictions.csv"}
    if experiment == "task_a":
        written.add("fisher-b10.pt")  # of the first run of ewc that needed it
    assert {file.name for file in path.iterdir()} == written
    config, metrics = read(path / "config.json"), read(path / "metrics.json")
    history, predictions = pd.read_csv(path / "history.csv"), pd.read_csv(path / "predictions.csv")
    state = torch.load(path / "best_model.pt", weights_only=True)
    known = {task} if experiment in ("task_a", "adapter", "adapter_wo_pretraining") else set(KEMDY)

    assert config["labels"] == list(EMOTIONS) and config["synthetic"] and config["method"] == experiment
    assert config["arguments"]["lr"] == 1e-3 and config["versions"]["torch"] == "2.11.0"
    assert config["encoders"]["text"]["pretrained"] == (experiment != "adapter_wo_pretraining")
    assert config["parameters"]["stored"] == sum(tensor.numel() for tensor in state.values())
    assert history["epoch"].tolist() == [0, 1, 2]
    best = history["epoch"][history[f"{task}_valid_f1_micro"][1:].idxmax()]
    assert metrics["best_epoch"] == best
    assert set(metrics["test"]) == set(metrics["valid"]) == set(config["corpora"]) == known
    for name in known:
        table = predictions[predictions["task"] == name]
        correct = (table["emotion"] == table["predicted"]).mean()
        assert len(table) == metrics["test"][name]["n"] == config["corpora"][name]["splits"]["test"]["utterances"] > 0
        assert metrics["test"][name]["f1_micro"] == pytest.approx(correct)
        assert np.allclose(table[[f"p_{emotion}" for emotion in EMOTIONS]].sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("experiment", ["finetune", "ewc"])
def test_continual_runs_tell_of_both_tasks_before_the_first_epoch(outputs, experiment):
    first, second = KEMDY
    path, start = folder(outputs, experiment, second), folder(outputs, "task_a", first)
    metrics = read(path / "metrics.json")
    # The model that they start from is task_a's best one, tested on the same fold.
    assert metrics["test_before"][first].items() <= read(start / "metrics.json")["test"][first].items()
    assert set(metrics["test_before"]) == {first, second}
    assert pd.read_csv(path / "history.csv").filter(like=f"{first}_valid").notna().all(axis=None)
    assert read(path / "config.json")["started_from"]["checkpoint"] == str(start / "best_model.pt")


def test_joint_learns_both_corpora_at_once(outputs):
    path = folder(outputs, "joint", "joint")
    config, metrics, history = (
        read(path / "config.json"), read(path / "metrics.json"), pd.read_csv(path / "history.csv"),
    )  # fmt: skip
    assert config["method"] == config["task"] == "joint"
    assert set(metrics["test"]) == set(config["corpora"]) == set(KEMDY)
    # The pooled validation split decides: a mean of the two, weighed by their sizes.
    sizes = [config["corpora"][name]["splits"]["valid"]["utterances"] for name in KEMDY]
    for quantity in ("loss", "f1_micro"):
        each = [history[f"{name}_valid_{quantity}"] for name in KEMDY]
        assert np.allclose(history[f"joint_valid_{quantity}"], np.average(each, axis=0, weights=sizes))
    assert metrics["best_epoch"] == history["epoch"][history["joint_valid_f1_micro"][1:].idxmax()]
    assert metrics["valid"]["joint"]["f1_micro"] == history["joint_valid_f1_micro"][metrics["best_epoch"]]


def test_joint_draws_from_the_pooled_training_splits(call, monkeypatch, tmp_path):
    drawn = []
    sampler = training.BalancedBatchSampler

    def record(labels, *arguments):
        drawn.append(np.bincount(labels, minlength=len(EMOTIONS)))
        return sampler(labels, *arguments)

    monkeypatch.setattr(training, "BalancedBatchSampler", record)
    code, _, stderr = call(continual_learning_init, "--task", "joint", "--num_epochs", 1, output_root=tmp_path)
    assert code == 0, stderr
    corpora = read(folder(tmp_path, "joint", "joint") / "config.json")["corpora"]
    pooled = [sum(facts["splits"]["train"]["labels"][emotion] for facts in corpora.values()) for emotion in EMOTIONS]
    assert drawn[0].tolist() == pooled


def test_a_joint_model_is_no_start_for_what_forgets(call, outputs, tmp_path):
    start = folder(outputs, "joint", "joint") / "best_model.pt"
    code, _, stderr = call(finetune, "--task", "KEMDy20", "--checkpoint", start, output_root=tmp_path)
    assert code == 1 and "was trained on KEMDy19, KEMDy20 at once" in stderr


def test_ewc_reports_cross_entropy_and_penalty_apart(outputs):
    path = folder(outputs, "ewc", "KEMDy20")
    history = pd.read_csv(path / "history.csv")
    # It starts where finetune starts, and what holds it there is not part of its loss.
    same_start = pd.read_csv(folder(outputs, "finetune", "KEMDy20") / "history.csv")
    assert history["penalty"][1:].gt(0).all()
    assert history["KEMDy20_valid_loss"][0] == same_start["KEMDy20_valid_loss"][0]
    assert history["train_loss"][1] == pytest.approx(same_start["train_loss"][1], abs=0.05)


def test_adapter_checkpoints_hold_what_the_task_owns(outputs):
    for experiment in ("adapter", "adapter_wo_pretraining"):
        state = torch.load(folder(outputs, experiment, "KEMDy19") / "best_model.pt", weights_only=True)
        assert state and all(map(is_task_parameter, state))


def test_one_tasks_run_leaves_the_others_files_alone(outputs, call, tmp_path):
    shutil.copytree(outputs / "adapter", tmp_path / "adapter")
    before = {path: digest(path) for path in (tmp_path / "adapter" / "fold_0" / "KEMDy19").iterdir()}
    code, _, stderr = call(adapter, "--task", "KEMDy20", "--overwrite", "--seed", 99, output_root=tmp_path)
    assert code == 0, stderr
    assert before == {path: digest(path) for path in before}
    assert digest(folder(tmp_path, "adapter", "KEMDy20") / "best_model.pt") != digest(
        folder(outputs, "adapter", "KEMDy20") / "best_model.pt"
    )


def test_ewc_without_penalty_is_finetune(outputs, call, data_root, monkeypatch):
    estimate = fisher.importance
    estimated_on = []

    def estimate_and_draw(run, model, dataset, *arguments):
        estimated_on.extend(dataset.utterances["segment_id"])
        # Whatever an estimate draws at random must not move the training after it.
        random.random(), np.random.rand(3), torch.rand(3)
        return estimate(run, model, dataset, *arguments)

    monkeypatch.setattr(fisher, "importance", estimate_and_draw)
    flags = ("--ewc_lambda", 0, "--exp_name", "ewc_lambda_0", "--fisher_batch_size", 9)
    code, _, stderr = call(ewc, "--task", "KEMDy20", *flags)
    assert code == 0, stderr
    # The first task's training split, and not that of the task that is trained: what EWC guards.
    first = read_corpus(data_root, "KEMDy19")
    splits = split_utterances(first.utterances, session_folds(first.sessions)[0])
    assert estimated_on == splits["train"]["segment_id"].tolist()
    runs = [folder(outputs, experiment, "KEMDy20") for experiment in ("ewc_lambda_0", "finetune")]
    states = [torch.load(path / "best_model.pt", weights_only=True) for path in runs]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_fisher_information_is_in_the_runs_own_folder_where_the_starts_cannot_be_written(call, outputs, monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise PermissionError

    monkeypatch.setattr(fisher, "LockFile", refuse)
    shutil.copytree(folder(outputs, "task_a", "KEMDy19"), tmp_path / "start", ignore=shutil.ignore_patterns("fisher*"))
    code, stdout, stderr = call(
        ewc, "--task", "KEMDy20", "--checkpoint", tmp_path / "start" / "best_model.pt", output_root=tmp_path
    )
    own = folder(tmp_path, "ewc", "KEMDy20")
    assert code == 0 and f"Fisher information of KEMDy19 → {own / 'fisher-b10-of-KEMDy19.pt'}" in stdout, stderr
    assert not list(tmp_path.rglob("fisher*"))  # once it is finished
    assert digest(own / "best_model.pt") == digest(folder(outputs, "ewc", "KEMDy20") / "best_model.pt")


@pytest.mark.parametrize("threads", [0, 2])
def test_the_same_seed_gives_the_same_bytes_whatever_reads_the_sound(outputs, call, tmp_path, threads):
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy19", "--num_workers", threads, output_root=tmp_path)
    assert code == 0, stderr
    assert len({digest(folder(root, "task_a", "KEMDy19") / "best_model.pt") for root in (outputs, tmp_path)}) == 1


def test_two_processes(outputs, data_root, encoders, tmp_path):
    start = folder(outputs, "task_a", "KEMDy19") / "best_model.pt"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = shell(*torchrun, "ewc.py", *flags(data_root, encoders, tmp_path), "--task", "KEMDy20", "--checkpoint", str(start))
    assert done.returncode == 0, done.stderr
    one, two = folder(outputs, "ewc", "KEMDy20"), folder(tmp_path, "ewc", "KEMDy20")
    assert read(two / "config.json")["machine"]["processes"] == 2
    alone, together = (pd.read_csv(path / "history.csv") for path in (one, two))
    # Before training both hold the same model, so every metric, gathered from two processes, is that of one.
    assert np.allclose(*(table.iloc[0].drop(["train_loss", "penalty", "seconds"]).astype(float) for table in (alone, together)))
    assert read(one / "metrics.json")["test_before"] == read(two / "metrics.json")["test_before"]
    # Dropout and SpecAugment differ between processes, the Fisher information and the samples do not.
    assert together["train_loss"][1] == pytest.approx(alone["train_loss"][1], abs=0.05)
    assert done.stdout.count("epoch  1/2") == 1


def test_processes_and_micro_batches_train_as_one_whole_batch_does(data_root, encoders, call_main, monkeypatch, tmp_path):
    # To rounding, once nothing is dropped or masked at random. 14 utterances in batches of 6: the last has 2 for 3 processes.
    still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    small_text_encoder(**still).save_pretrained(tmp_path / "text")
    for file in (encoders / "text").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "text")
    names = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")
    small_speech_encoder(**dict.fromkeys(names, 0.0), mask_time_prob=0.0).save_pretrained(tmp_path / "speech")
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from torch import nn\n"
        "nn.Dropout.forward = lambda self, values: values\n"
        "import continual_learning_init\n"
        "continual_learning_init.main()\n"
    )
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, values: values)
    results = []
    for processes, micro in ((1, None), (1, 4), (2, 2), (3, None)):
        arguments = ["--task", "KEMDy19", *flags(data_root, tmp_path, tmp_path), "--batch_size", "6"]
        arguments += ["--exp_name", f"of_{processes}_{micro}", *(("--micro_batch_size", str(micro)) if micro else ())]
        if processes == 1:
            code, _, stderr = call_main(continual_learning_init, *arguments)
        else:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
            done = shell(*launch, str(script), *arguments)
            code, stderr = done.returncode, done.stderr
        assert code == 0, stderr
        path = folder(tmp_path, f"of_{processes}_{micro}", "KEMDy19")
        history, predictions = pd.read_csv(path / "history.csv"), pd.read_csv(path / "predictions.csv")
        losses = history["train_loss"][1:], history["KEMDy19_valid_loss"]
        results.append(np.concatenate([*losses, *predictions.filter(like="p_").T.values]))
    assert all(np.allclose(results[0], result, atol=1e-4) for result in results[1:])


def test_the_gradient_is_that_of_the_mean_over_the_global_batch(call, monkeypatch, tmp_path):
    gradients, losses = [], []
    step = torch.optim.AdamW.step

    def record(optimizer, *arguments, **keywords):
        gradients.append(optimizer.param_groups[0]["params"][-1].grad.clone())  # the classifier's bias
        return step(optimizer, *arguments, **keywords)

    def expected(logits, labels, weight=None, reduction="mean"):
        loss = torch.nn.functional.cross_entropy(logits, labels, weight, reduction=reduction)
        if reduction == "sum":
            one_hot = torch.nn.functional.one_hot(labels, 7)
            losses.append((logits.detach().softmax(-1) - one_hot).mean(0))
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    monkeypatch.setattr(training, "cross_entropy", expected)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy19", output_root=tmp_path)
    assert code == 0, stderr
    assert len(gradients) == 4  # two epochs of 14 utterances in batches of 8
    assert all(torch.allclose(gradient, loss, atol=1e-5) for gradient, loss in zip(gradients, losses))


def test_a_run_is_rebuilt_from_its_folder(outputs, data_root, encoders):
    for experiment in ("task_a", "adapter", "adapter_wo_pretraining"):
        path = folder(outputs, experiment, "KEMDy19")
        model, config = load_run(path)
        table = pd.read_csv(path / "predictions.csv").head(3)
        corpus = read_corpus(data_root, "KEMDy19").utterances.set_index("segment_id").loc[table["segment_id"]]
        tokenizer = load_tokenizer(config["arguments"]["text_model"])
        dataset = UtteranceDataset(corpus.reset_index(), EMOTIONS, tokenizer, 256, Sound(5))
        batch = dataset.collate([dataset[index] for index in range(3)])
        with torch.no_grad():
            probabilities = model(batch["speech_inputs"], batch["text_inputs"]).softmax(-1).numpy()
        assert np.allclose(probabilities, table[[f"p_{emotion}" for emotion in EMOTIONS]], atol=1e-4)


def test_finished_runs_are_skipped_and_others_not_overwritten(outputs, call, tmp_path):
    shutil.copytree(outputs / "task_a", tmp_path / "task_a")
    path = folder(tmp_path, "task_a", "KEMDy19")
    before, run = digest(path / "best_model.pt"), (continual_learning_init, "--task", "KEMDy19")
    code, stdout, _ = call(*run, output_root=tmp_path)
    assert code == 0 and "is finished: skipped" in stdout
    code, _, stderr = call(*run, "--lr", 0.5, output_root=tmp_path)
    assert code == 1 and "--lr 0.001 then, 0.5 now" in stderr and "--overwrite" in stderr
    (path / "metrics.json").unlink()  # interrupted, and last_checkpoint.pt lost
    code, _, stderr = call(*run, "--lr", 0.5, output_root=tmp_path)
    assert code == 1 and "--lr 0.001 then, 0.5 now" in stderr and digest(path / "best_model.pt") == before
    code, stdout, _ = call(*run, output_root=tmp_path)
    assert code == 0 and "holds a best_model.pt and no last_checkpoint.pt" in stdout
    assert digest(path / "best_model.pt") == before


def test_a_precision_that_is_left_to_the_device_makes_no_other_run(outputs, call, tmp_path):
    shutil.copytree(outputs / "task_a", tmp_path / "task_a")
    path = folder(tmp_path, "task_a", "KEMDy19") / "config.json"
    config = read(path)
    assert config["arguments"]["mixed_precision"] == "no"  # auto, on a CPU
    config["arguments"]["mixed_precision"] = "bf16"  # as on a GPU
    path.write_text(json.dumps(config))
    code, stdout, _ = call(continual_learning_init, "--task", "KEMDy19", output_root=tmp_path)
    assert code == 0 and "skipped" in stdout
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy19", "--mixed_precision", "no", output_root=tmp_path)
    assert code == 1 and "--mixed_precision bf16 then, no now" in stderr


def test_run_scripts_repeat_over_seeds_beside_the_first(outputs, data_root, encoders, tmp_path):
    small = flags(data_root, encoders, tmp_path)
    for script, task in (("run-init.sh", "KEMDy19"), ("run-finetune.sh", "KEMDy20")):
        done = shell("bash", script, *small, FOLDS="1", TASKS=task, SEEDS="13")
        assert done.returncode == 0, done.stderr
    config = read(folder(tmp_path, "finetune-seed13", "KEMDy20", fold=1) / "config.json")
    assert config["seed"] == 13 and "task_a-seed13" in config["started_from"]["checkpoint"]


def test_run_scripts_stop_at_the_first_failing_run(data_root, encoders, tmp_path):
    done = shell("bash", "run-finetune.sh", *flags(data_root, encoders, tmp_path), FOLDS="2 3")
    assert done.returncode != 0
    assert done.stderr.count("error: no finished run") == 1 and "Traceback" not in done.stderr
    assert "stopped at the run that failed: python finetune.py --task KEMDy19 --num_fold 2" in done.stderr


def test_without_a_network_the_default_encoders_are_one_line(data_root, tmp_path):
    done = shell(
        sys.executable, "continual_learning_init.py", "--task", "KEMDy19", "--data_root", str(data_root),
        "--output_root", str(tmp_path), "--cpu", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: text encoder skt/kobert-base-v1") and "hf download skt/kobert-base-v1" in last
    assert "--text_model FOLDER" in last


def test_without_a_gpu_it_says_so(call, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("utils.training.run.require_granted_gpu", lambda *told: None)  # this machine may have one
    monkeypatch.setattr(continual_learning_init, "parse_training_args", without_cpu_flag)
    code, stdout, _ = call(continual_learning_init, "--task", "KEMDy19", "--exp_name", "fallback")
    assert code == 0 and stdout.startswith("no GPU found: running on the CPU")


def without_cpu_flag(parser):
    args = parse_training_args(parser)
    args.cpu = False
    return args


class Malice:
    """Unpickled, it would make a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch {self.target}",))


def damage(kind, outputs, tmp_path):
    """A --checkpoint that is wrong in some way."""
    path = tmp_path / "best_model.pt"
    good = folder(outputs, "task_a", "KEMDy19") / "best_model.pt"
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[:5_000])
    elif kind == "pickle":
        torch.save({"classifier.weight": Malice(tmp_path / "harm")}, path)
    elif kind == "other sizes":
        torch.save(FusionClassifier(small_text_encoder(hidden_size=16), small_speech_encoder(), 7).state_dict(), path)
    elif kind == "adapters":
        return folder(outputs, "adapter", "KEMDy19") / "best_model.pt"
    elif kind == "same task":
        return folder(outputs, "task_a", "KEMDy20") / "best_model.pt"
    elif kind == "other fold":
        shutil.copy(good, path)
        config = read(good.parent / "config.json") | {"fold": 3}
        (tmp_path / "config.json").write_text(json.dumps(config))
    elif kind == "other encoder":
        shutil.copy(good, path)
        config = read(good.parent / "config.json")
        config["encoders"]["text"] |= {"fingerprint": "0" * 64, "name": "another-bert"}
        (tmp_path / "config.json").write_text(json.dumps(config))
    elif kind == "after both tasks":
        return folder(outputs, "finetune", "KEMDy19") / "best_model.pt"
    elif kind == "not finite":
        state = torch.load(good, weights_only=True)
        state["classifier.bias"][2] = float("nan")
        torch.save(state, path)
    elif kind == "beside another's config":
        shutil.copy(good, path)
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return path


@pytest.mark.parametrize(
    "kind, answer",
    {
        "missing": "there is no such file",
        "truncated": "copy it again",
        "pickle": "more than tensors could run code",
        "other sizes": "does not fit: text_encoder",
        "adapters": "does not fit: it lacks",
        "same task": "has already been trained on KEMDy20",
        "other fold": "is of fold 3",
        "other encoder": "another-bert (000000000000)",
        "not finite": "classifier.bias holds numbers that are not finite",
        "beside another's config": "put best_model.pt into a folder without a config.json",
        "after both tasks": "has already been trained on KEMDy20",
    }.items(),
)
def test_a_wrong_checkpoint_is_one_line(call, outputs, tmp_path, kind, answer):
    path = damage(kind, outputs, tmp_path)
    code, _, stderr = call(finetune, "--task", "KEMDy20", "--checkpoint", path, output_root=tmp_path / "outputs")
    assert code == 1
    assert stderr.startswith("error: ") and stderr.count("\n") == 1
    assert answer in stderr and str(tmp_path if "config" in kind else path) in stderr
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "module",
    [
        *("continual_learning_init", "finetune", "ewc", "lwf", "replay", "adapter", "evaluate", "leakage", "predict"),
        *("utils.training.fisher", "utils.training.routing", "utils.data.audit", "utils.data.corpus", "utils.methods"),
        *(
            "utils.results.export",
            "utils.results.combine",
            "utils.results.merge",
            "utils.results.score",
            "utils.results.tuning",
        ),
    ],
)
def test_help_waits_for_no_library(module):
    heavy = "torch transformers pandas sklearn accelerate soundfile scipy matplotlib".split()
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--help' if {module!r} != 'utils.methods' else 'ewc']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as exit:\n"
        "    assert not exit.code\n"
        f"sys.exit(str(sorted(set({heavy}) & sys.modules.keys()) or ''))\n"
    )
    done = shell(sys.executable, "-c", code)
    assert done.stderr.strip() == "" and len(done.stdout) > 5, done.stderr


def test_an_unknown_flag_is_one_line_with_the_nearest(call):
    code, _, stderr = call(finetune, "--task", "KEMDy20", "--epochs", 3)
    assert (code, stderr) == (2, "error: there is no flag --epochs: did you mean --num_epochs?\n")
    code, _, stderr = call(finetune, "--num_fold", 1)
    assert code == 2 and stderr.startswith("error: ") and stderr.count("\n") == 1


def test_the_precision_is_called_by_its_name():
    assert [precision_name(*of) for of in (("no", "cpu"), ("no", "cuda"), ("bf16", "cuda"))] == ["float32", "TF32", "bf16"]


def test_wrong_flags_are_answered_by_name(call):
    for arguments, answer in (
        (("--num_fold", 5), "--num_fold 5: with --k_fold 5 the folds are 0 to 4"),
        (("--k_fold", 1), "--k_fold 1: at least 2"),
        (("--max_text_len", 1), "--max_text_len 1"),
        (("--lr", "nan"), "--lr: nan is not between 1e-30 and 1e+30"),
        (("--lr", "fast"), "--lr: invalid float value: 'fast'"),
        (("--seed", 2**32), "--seed: 4294967296 is not between 0 and 4294967295"),
        (("--max_seq_len", "1e308"), "--max_seq_len: 1e308 is not between 0.025 and 120"),
        (("--text_model", ""), "--text_model: an empty name"),
        (("--batch_size", 0), "--batch_size: 0 is not between 1 and"),
        (("--labels", "a", "a"), "--labels: two or more, each once"),
        (("--exp_name", "../elsewhere"), "--exp_name"),
        (("--task", "a+b"), "--task: 'a+b' cannot be a corpus's name"),
    ):
        code, _, stderr = call(continual_learning_init, "--task", "KEMDy19", *arguments)
        assert code == 2 and answer in stderr.splitlines()[-1]
    code, _, stderr = call(ewc, "--task", "KEMDy19", "--ewc_lambda", "1e39")
    assert code == 2 and "--ewc_lambda: 1e39 is not between 0 and 1e+30" in stderr


def test_a_terminal_and_folders_that_are_not_utf8(data_root, encoders, tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out_\xb0\xa1"))
    command = [sys.executable, "continual_learning_init.py", *flags(data_root, encoders, root), "--task", "KEMDy20"]
    done = shell(*command, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "task_a on KEMDy20 \\u2192 " in done.stdout, done.stderr
    assert read(folder(root, "task_a", "KEMDy20") / "config.json")["arguments"]["output_root"] == str(root)
    done = shell(sys.executable, "evaluate.py", "--output_root", root, "--list", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "KEMDy20" in done.stdout, done.stderr


def test_too_few_sessions_for_the_folds(call):
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy19", "--k_fold", 7, "--exp_name", "seven")
    assert code == 1 and stderr.startswith("error: 6 sessions (or groups of speakers) are too few for 7 folds")


def test_a_missing_corpus_is_one_line(call, tmp_path):
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy19", "--data_root", tmp_path, output_root=tmp_path)
    assert code == 1 and stderr.startswith(f"error: no corpus at {tmp_path}/KEMDy19") and stderr.count("\n") == 1


def test_wavs_that_cannot_be_read_are_listed_together_before_training(call, tmp_path):
    make_kemdy20(tmp_path / "KEMDy20", sessions=6, utterances=7)
    broken = sorted((tmp_path / "KEMDy20" / "wav").rglob("*.wav"))[3:6]
    for path, content in zip(broken, (b"", b"RIFF", b"not sound at all")):
        path.write_bytes(content)
    code, _, stderr = call(
        continual_learning_init, "--task", "KEMDy20", "--data_root", tmp_path, output_root=tmp_path / "outputs"
    )
    assert code == 1 and stderr.startswith("error: 3 wav file(s) of KEMDy20 cannot be used") and stderr.count("\n") == 1
    assert all(str(path) in stderr for path in broken)


def test_a_split_without_a_usable_utterance(call, data_root, tmp_path):
    shutil.copytree(data_root / "KEMDy20", tmp_path / "KEMDy20")
    for session in (1, 5):  # the test split of fold 0
        shutil.rmtree(tmp_path / "KEMDy20" / "wav" / f"Session{session:02d}")
    code, _, stderr = call(
        continual_learning_init, "--task", "KEMDy20", "--data_root", tmp_path, output_root=tmp_path / "outputs"
    )
    assert code == 1 and "no usable utterance in the test split of fold 0 (1, 5)" in stderr


def test_a_vocabulary_of_another_model(call, encoders, tmp_path):
    shutil.copytree(encoders / "text", tmp_path / "text")
    small_text_encoder(vocab_size=40).save_pretrained(tmp_path / "text")
    code, _, stderr = call(
        continual_learning_init, "--task", "KEMDy19", "--text_model", tmp_path / "text", output_root=tmp_path / "outputs"
    )
    assert code == 1 and "its weights only 40 embeddings; they do not match" in stderr


def test_text_that_the_vocabulary_does_not_know_is_told(call, encoders, tmp_path):
    shutil.copytree(encoders / "text", tmp_path / "text")
    # Lower-casing strips accents, and to that end takes syllables apart.
    settings = read(tmp_path / "text" / "tokenizer_config.json") | {"do_lower_case": True}
    (tmp_path / "text" / "tokenizer_config.json").write_text(json.dumps(settings))
    unknown = "of the tokens are unknown to --text_model"
    arguments = ("--task", "KEMDy19", "--num_epochs", 1, "--overwrite")
    code, stdout, _ = call(continual_learning_init, *arguments, "--text_model", tmp_path / "text", output_root=tmp_path)
    assert code == 0 and f"100 % {unknown}" in stdout
    code, stdout, _ = call(continual_learning_init, *arguments, output_root=tmp_path)
    assert code == 0 and unknown not in stdout


def test_an_output_folder_that_cannot_be_written(call, tmp_path):
    (tmp_path / "outputs").write_text("in the way")
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy19", output_root=tmp_path / "outputs")
    assert code == 1 and stderr.startswith("error: --output_root") and "cannot be written" in stderr


def test_a_full_disk_is_one_line_and_leaves_what_was_written(call, monkeypatch, tmp_path):
    save = torch.save

    def full(state, file):
        if Path(file.name).name.startswith(".best_model.pt."):
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy19", output_root=tmp_path)
    run_folder = folder(tmp_path, "task_a", "KEMDy19")
    assert code == 1 and stderr == (
        f"error: {run_folder / 'best_model.pt'} cannot be written (No space left on device); what was written before stands\n"
    )
    assert {path.name for path in run_folder.iterdir()} == {"config.json", "history.csv", "last_checkpoint.pt", "log.txt"}


def test_a_transcript_longer_than_the_text_encoder_reads(call, data_root, tmp_path):
    shutil.copytree(data_root / "KEMDy20", tmp_path / "KEMDy20")
    next((tmp_path / "KEMDy20" / "wav").rglob("*.txt")).write_text("가 " * 100)
    flags = ("--task", "KEMDy20", "--data_root", tmp_path)
    code, _, stderr = call(continual_learning_init, *flags, output_root=tmp_path / "outputs")
    assert code == 1 and stderr.startswith("error: --max_text_len 256: a transcript has 102 tokens") and "at most 64" in stderr
    code, _, stderr = call(continual_learning_init, *flags, "--max_text_len", 64, output_root=tmp_path / "outputs")
    assert code == 0, stderr


def test_a_folder_that_holds_the_other_corpus(call, data_root, tmp_path):
    shutil.copytree(data_root / "KEMDy20", tmp_path / "KEMDy19")
    code, _, stderr = call(
        continual_learning_init, "--task", "KEMDy19", "--data_root", tmp_path, output_root=tmp_path / "outputs"
    )
    assert code == 1 and "holds the annotations of KEMDy20, not of KEMDy19" in stderr
