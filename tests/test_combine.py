"""Rows that are not told the corpus, made from finished runs, and means of weights as files."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import digest, folder, read, run_main, shell

import evaluate
import finetune
from predict import load_predictor
from utils.files import write_json
from utils.methods import COMBINED, METHODS
from utils.metrics import softmax
from utils.results import combine, merge, recompute
from utils.results.export import export
from utils.training.checkpoints import read_export, read_state
from utils.training.engine import logits_of
from utils.training.reopen import reopen
from utils.training.sources import load_model

ADAPTERS = ("adapter_routed", "adapter_entropy", "adapter_mean", "adapter_merged")
SET = "KEMDy19+KEMDy20"


@pytest.fixture(scope="module")
def combined(outputs, tmp_path_factory):
    """A copy of the output folder of all methods, with the rows that are made of it."""
    copy = tmp_path_factory.mktemp("combined") / "outputs"
    shutil.copytree(outputs, copy)
    run_main("utils.results.combine", "--output_root", copy, "--cpu", "--num_workers", "0")
    return copy


def predictions(path, task):
    table = pd.read_csv(path / "predictions.csv")
    return table[table["task"] == task]


def probabilities(path, task):
    return predictions(path, task).filter(like="p_").to_numpy()


def test_every_row_is_a_run_folder_without_a_model(combined):
    made = {path.relative_to(combined).as_posix() for path in combined.glob("*/fold_0/*") if path.parts[-3] in METHODS}
    made = {path for path in made if METHODS[path.split("/")[0]].how == COMBINED and "/." not in path}
    assert made == {f"{row}/fold_0/{SET}" for row in ADAPTERS} | {
        f"{row}/fold_0/{task}" for row in ("wise_ft", "wise_ft_tuned") for task in ("KEMDy19", "KEMDy20")
    }
    for path in made:
        assert {file.name for file in (combined / path).iterdir()} == {"config.json", "metrics.json", "predictions.csv"}
        config, metrics = read(combined / path / "config.json"), read(combined / path / "metrics.json")
        assert config["method"] == config["experiment"] == path.split("/")[0] and config["run"] == metrics["run"]
        for parent in config["parents"]:
            assert parent["sha256"] == digest(combined / parent["run"] / "best_model.pt")
        assert set(metrics["test"]) == {"KEMDy19", "KEMDy20"} and "started_from" not in config


def test_the_answer_is_that_of_the_chosen_adapter(combined):
    for task in ("KEMDy19", "KEMDy20"):
        own = probabilities(folder(combined, "adapter", task), task)
        mean = probabilities(folder(combined, "adapter_mean", SET), task)
        other = 2 * mean - own  # nothing else is known of the other adapter on this corpus
        entropy = [-(p * np.log(p)).sum(axis=1) for p in (own, other)]
        expected = np.where((entropy[0] <= entropy[1])[:, None], own, other)
        # The adapter's own features are cached in half precision both times.
        assert probabilities(folder(combined, "adapter_entropy", SET), task) == pytest.approx(expected, abs=1e-5)
        routed = probabilities(folder(combined, "adapter_routed", SET), task)
        by_own = np.isclose(routed, own, atol=1e-6).all(axis=1)
        assert (by_own | np.isclose(routed, other, atol=1e-5).all(axis=1)).all()
        metrics = read(folder(combined, "adapter_routed", SET) / "metrics.json")
        assert metrics["test"][task]["routing"] == pytest.approx(by_own.mean())
        alone = read(folder(combined, "adapter", task) / "metrics.json")["test"][task]
        assert metrics["test_right"][task]["f1_macro"] == alone["f1_macro"]
        table = predictions(folder(combined, "adapter_mean", SET), task)
        names = table.filter(like="p_").columns.str.removeprefix("p_")
        right_by_chance = (names[other.argmax(axis=1)] == table["emotion"]).mean()
        assert metrics["test_wrong"][task]["f1_micro"] == pytest.approx(right_by_chance)


def test_wise_ft_runs_from_the_model_before_to_the_one_after(combined):
    for task, first in (("KEMDy20", "KEMDy19"), ("KEMDy19", "KEMDy20")):
        along = read(folder(combined, "wise_ft_tuned", task) / "metrics.json")["along_alpha"]
        assert [point["alpha"] for point in along] == [number / 10 for number in range(11)]
        after = read(folder(combined, "finetune", task) / "metrics.json")
        for point, scores in ((along[0], after["test_before"]), (along[-1], after["test"])):
            for tested in (task, first):
                assert point["test"][tested]["f1_macro"] == scores[tested]["f1_macro"]
        # The best of both corpora's validation splits, the earliest of equals.
        means = [sum(of["f1_macro"] for of in point["valid"].values()) for point in along]
        best = along[means.index(max(means))]
        for row, alpha in (("wise_ft", 0.5), ("wise_ft_tuned", best["alpha"])):
            path = folder(combined, row, task)
            assert read(path / "config.json")["arguments"]["alpha"] == alpha
            point = next(point for point in along if point["alpha"] == alpha)
            assert read(path / "metrics.json")["test"][first]["f1_macro"] == point["test"][first]["f1_macro"]


def test_finished_rows_are_skipped_until_their_models_change(combined, tmp_path, call_main):
    shutil.copytree(combined, tmp_path / "outputs")
    flags = ("--output_root", tmp_path / "outputs", "--cpu", "--num_workers", 0)
    path = folder(tmp_path / "outputs", "wise_ft", "KEMDy20")
    before = digest(path / "config.json")
    code, stdout, stderr = call_main(combine, *flags)
    assert code == 0 and stdout.count("is finished: skipped") == 8, stderr
    assert digest(path / "config.json") == before
    model = folder(tmp_path / "outputs", "finetune", "KEMDy20") / "best_model.pt"
    state = torch.load(model, weights_only=True)
    state["classifier.bias"] += 1
    torch.save(state, model)
    code, stdout, stderr = call_main(combine, *flags)
    assert code == 0 and stdout.count("is finished: skipped") == 6 and stdout.count("made again") == 2, stderr
    assert digest(path / "config.json") != before
    done = shell("bash", "run-combine.sh", "--output_root", tmp_path / "outputs", FOLDS="0", SEEDS="12")
    assert done.returncode == 0 and done.stdout.count("is finished: skipped") == 8, done.stderr
    # Without its model a run is not combined, and what was made of it stays.
    model.unlink()
    code, stdout, stderr = call_main(combine, *flags)
    assert code == 0 and stdout.count("is finished: skipped") == 6, stderr
    code, _, stderr = call_main(combine, "--output_root", tmp_path / "outputs", "--seeds", 99)
    assert code == 1 and "nothing to combine" in stderr and stderr.count("\n") == 1


def test_evaluate_shows_them_and_says_what_they_are(combined, call_main, monkeypatch):
    code, stdout, stderr = call_main(evaluate, "--output_root", combined, "--metric", "macro", "--all")
    assert code == 0, stderr
    text = " ".join(stdout.split())
    assert "adapter_routed, adapter_entropy and adapter_mean are not told: the answer is that of the adapter with" in text
    assert "wise_ft_tuned and joint need the recordings of earlier tasks (wise_ft_tuned to choose α" in text
    assert "adapter and adapter_wo_pretraining have one model per task, which later tasks do not change: BWT is 0 by" in text
    assert "R[1,j] of wise_ft and wise_ft_tuned is task_a's" in text and "\nwise_ft_tuned † " in stdout
    table = stdout[stdout.index("Without being told the corpus: macro F1") :].splitlines()
    cells = {row.split()[0]: row.split()[1:] for row in table[5:9]}
    assert tuple(cells) == ADAPTERS
    for row in ADAPTERS:
        metrics = read(folder(combined, row, SET) / "metrics.json")
        found = [metrics["test"]["KEMDy20"].get("routing")]
        found += [metrics[when]["KEMDy20"]["f1_macro"] for when in ("test", "test_right", "test_wrong")]
        assert cells[row][4:] == ["-" if value is None else f"{value:.3f}" for value in found]
    assert not any(f"run.sh {row}" in stdout for row in ADAPTERS)  # no command would train them
    # There is no model to be tested again.
    tested = []
    monkeypatch.setattr(recompute, "retest", lambda run, **machine: tested.append(run) or recompute.Verdict(True, "equal"))
    code, stdout, stderr = call_main(evaluate, "--output_root", combined, "--recompute")
    assert code == 0 and len(tested) == 12 and not any(run.is_combined for run in tested), stderr
    code, stdout, stderr = call_main(evaluate, "--output_root", combined, "--list")
    assert code == 0 and f"adapter_routed/fold_0/{SET}" in stdout, stderr


def merged(first, second, path, alpha=0.5, **more):
    merge.merge(first, second, path, alpha, **more)
    return read_export(path)


def test_a_mean_of_weights_is_a_file_like_any_other(outputs, tmp_path):
    before, after = (folder(outputs, *of) for of in (("task_a", "KEMDy19"), ("finetune", "KEMDy20")))
    states = [read_state(path / "best_model.pt") for path in (before, after)]
    # Of two equal models, and at both ends, bit for bit.
    for first, second, alpha, expected in (
        (before, before, 0.5, states[0]),
        (before, before, 0.3, states[0]),
        (before, after, 0.0, states[0]),
        (before, after, 1.0, states[1]),
    ):
        file = merged(first, second, tmp_path / "mean.safetensors", alpha, overwrite=True)
        assert file.state.keys() == expected.keys()
        assert all(torch.equal(file.state[name], tensor) for name, tensor in expected.items())
    file = merged(before, after, tmp_path / "half.safetensors")
    for name, tensor in file.state.items():
        assert torch.allclose(tensor, (states[0][name] + states[1][name]) / 2, atol=1e-7)
    facts = file.facts
    assert facts["method"] == "merged" and facts["sequence"] == ["KEMDy19", "KEMDy20"] and facts["alpha"] == 0.5
    assert facts["parents"] == [load_model(path).digest for path in (before, after)]
    assert facts["scores"] == {} and facts["temperature"] is None and "None were measured." in file.card
    # Through files that were exported before, the same.
    export(before, tmp_path / "a.safetensors")
    export(after, tmp_path / "b.safetensors")
    again = merged(tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert all(torch.equal(again.state[name], tensor) for name, tensor in file.state.items()) and again.facts == facts


@pytest.mark.parametrize(
    ("row", "task", "parents"),
    [
        ("wise_ft", "KEMDy20", (("task_a", "KEMDy19"), ("finetune", "KEMDy20"))),
        ("adapter_merged", SET, (("adapter", "KEMDy19"), ("adapter", "KEMDy20"))),
    ],
)
def test_rows_are_those_of_merged_files(combined, tmp_path, encoders, row, task, parents):
    named = {f"{kind}_model": str(encoders / kind) for kind in ("text", "speech")}
    merged(*(folder(combined, *of) for of in parents), tmp_path / "mean", **named)
    source = load_model(tmp_path / "mean", **named)
    # As the last parent was tested.
    run, model, _, tasks = reopen(
        folder(combined, *parents[-1]), {"output_root": combined}, ["KEMDy19", "KEMDy20"], cached=True
    )
    model.load_checkpoint_state(source.model.checkpoint_state())
    for tested in tasks:
        found = softmax(logits_of(run, model, tasks[tested].splits["test"], ""))
        assert found == pytest.approx(probabilities(folder(combined, row, task), tested), abs=1e-6)


def test_a_mean_tells_of_a_withdrawn_session_if_neither_model_heard_it():
    def facts(sequence, withdrawn):
        return {"sequence": sequence, "corpora": dict.fromkeys(sequence, "1"), "withdrawn": withdrawn}

    told = {"A": {"sessions": 1, "digest": "1"}}
    without, whole, of_other = facts(["A"], told), facts(["A", "B"], {}), facts(["B"], {"B": {"sessions": 2, "digest": "2"}})
    assert merge._withdrawn_of_both(without, whole) == merge._withdrawn_of_both(whole, of_other) == {}
    assert merge._withdrawn_of_both(of_other, without) == told | of_other["withdrawn"]
    assert merge._withdrawn_of_both(without, facts(["A"], {"A": {"sessions": 1, "digest": "3"}})) == {}


def test_a_merged_file_answers_and_is_a_start(outputs, data_root, tmp_path, call):
    run = folder(outputs, "task_a", "KEMDy19")
    merged(run, run, tmp_path / "mean")
    wavs = sorted((data_root / "KEMDy19").rglob("*.wav"))[:3]
    ours, runs = (load_predictor(model, device="cpu").predict(wavs, ["화가 나"] * 3) for model in (tmp_path / "mean", run))
    assert ours.equals(runs) and ours["score"].notna().all()
    flags = ("--task", "KEMDy20", "--checkpoint", tmp_path / "mean")
    code, _, stderr = call(finetune, *flags, output_root=tmp_path / "outputs")
    assert code == 0, stderr
    ours, usual = (read(folder(root, "finetune", "KEMDy20") / "metrics.json") for root in (tmp_path / "outputs", outputs))
    assert ours["test"] == usual["test"] and ours["test_before"] == usual["test_before"]


def test_what_has_no_mean_is_refused_in_one_line(outputs, tmp_path, call_main):
    adapter, whole = folder(outputs, "adapter", "KEMDy19"), folder(outputs, "task_a", "KEMDy19")

    def changed(name, **facts):
        shutil.copytree(adapter, tmp_path / name)
        config = read(tmp_path / name / "config.json")
        facts["arguments"] = config["arguments"] | facts.get("arguments", {})
        write_json(tmp_path / name / "config.json", config | facts)
        return tmp_path / name

    output = ("--output", tmp_path / "mean")
    labels = read(adapter / "config.json")["labels"]
    for other, answer in (
        (whole, "of models adapter and fusion"),
        (changed("labels", labels=labels[::-1]), "the same ones in the same order"),
        (folder(outputs, "adapter_wo_pretraining", "KEMDy19"), "over different text encoders"),
    ):
        code, _, stderr = call_main(merge, adapter, other, *output)
        assert code == 1 and answer in stderr and str(other) in stderr and stderr.count("\n") == 1, stderr
    code, stdout, stderr = call_main(merge, adapter, changed("seed", seed=13), *output)
    assert code == 0 and stderr.count("\n") == 1 and "of seed 12 and" in stderr and "wrote" in stdout
    code, _, stderr = call_main(merge, adapter, adapter, *output)
    assert code == 1 and "exists: name another file, or --overwrite" in stderr
    code, _, stderr = call_main(merge, adapter, adapter, *output, "--alpha", 1.5)
    assert code == 2 and "--alpha" in stderr
