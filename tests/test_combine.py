"""Rows that are not told the corpus, made from finished runs, and means of weights as files."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import digest, folder, read, run_main

from utils.methods import COMBINED, METHODS

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
    from utils.results import combine

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
    code, _, stderr = call_main(combine, "--output_root", tmp_path / "outputs", "--seeds", 99)
    assert code == 1 and "nothing to combine" in stderr and stderr.count("\n") == 1
