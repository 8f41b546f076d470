"""Passes of finished runs over their corpora, and leakage.py with its controls."""

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import flags, folder, read, run_main, shell
from lookalike import make_kemdy20
from test_grid import commands, value

import adapter
import leakage
from utils.data.corpus import read_corpus
from utils.data.folds import kept_by_coin
from utils.errors import UserError
from utils.leakage import controls, passes
from utils.leakage.passes import chosen, take_passes, with_models
from utils.results.combine import combine
from utils.results.export import export
from utils.results.runs import find_runs

MACHINE = {"cpu": True, "num_workers": 0}


@pytest.fixture()
def copy(outputs, tmp_path):
    """A copy of the output folder of all methods, without passes."""
    shutil.copytree(outputs, tmp_path / "outputs")
    return tmp_path / "outputs"


def some_runs(root, *experiments):
    runs, lines = with_models(find_runs(root))
    assert not lines
    return [run for run in runs if not experiments or run.experiment in experiments]


def passes_of(root):
    """Runs on halves and all passes."""
    runs = some_runs(root)
    return [run for run in runs if run.train_half is not None], take_passes(runs, root, MACHINE)[0]


def loss(phi):
    """The cross-entropy that a φ is of."""
    return np.log1p(np.exp(-phi)).mean()


def predicted_phi(run, test):
    """φ by the probabilities that a run keeps of its test splits."""
    rows = pd.read_csv(run.path / "predictions.csv").set_index("segment_id").loc[test["segment_id"]]
    p = np.array([row[f"p_{label}"] for label, (_, row) in zip(test["label"], rows.iterrows())])
    return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize("experiment", ["task_a", "adapter", "adapter_wo_pretraining", "ewc", "joint"])
def test_a_pass_is_of_the_models_that_training_scored(copy, experiment):
    runs = some_runs(copy, experiment)
    found, lines = take_passes(runs, copy, MACHINE)
    assert not lines and found.keys() == {run.path for run in runs}
    for run in runs:
        table = pd.read_csv(run.path / "membership.csv", dtype={"session": str})
        assert tuple(table) == passes.COLUMNS and list(table["task"].unique()) == list(run.config["corpora"])
        assert found[run.path].equals(table)
        epochs = pd.read_csv(run.path / "history.csv")
        for task, of in table.groupby("task"):
            sessions = {split: set(of["session"][of["split"] == split]) for split in ("train", "valid", "test")}
            assert sessions == {
                split: {str(session) for session in told["sessions"]}
                for split, told in run.config["corpora"][task]["splits"].items()
            }
            valid, test = (of[of["split"] == split] for split in ("valid", "test"))
            assert loss(valid["phi"]) == pytest.approx(run.metrics["valid"][task]["loss"], rel=1e-4)
            if run.config["started_from"] is None:
                assert loss(valid["phi_untrained"]) == pytest.approx(epochs[f"{task}_valid_loss"][0], rel=1e-4)
            assert test["phi"].to_numpy() == pytest.approx(predicted_phi(run, test), abs=1e-4)


def test_the_pass_of_a_mean_of_models_is_of_what_was_combined(copy):
    combine(copy, **MACHINE)
    runs = some_runs(copy, "wise_ft", "adapter_merged")
    assert len(runs) == 3 and not some_runs(copy, "adapter_mean")
    found, lines = take_passes(runs, copy, MACHINE)
    assert not lines
    for run in runs:
        test = found[run.path][found[run.path]["split"] == "test"]
        assert test["phi"].to_numpy() == pytest.approx(predicted_phi(run, test), abs=1e-4)
    shutil.copy(folder(copy, "adapter", "KEMDy20") / "best_model.pt", folder(copy, "adapter", "KEMDy19"))
    for run in runs:
        (run.path / "membership.csv").unlink()
    found, lines = take_passes(runs, copy, MACHINE)
    assert len(found) == 2 and len(lines) == 1 and "not the model that it was made of" in lines[0]


def test_rows_stand_in_the_order_of_the_corpus(copy, data_root):
    (run,) = (run for run in some_runs(copy, "adapter") if run.task == "KEMDy20")
    table = take_passes([run], copy, MACHINE)[0][run.path]
    corpus = read_corpus(data_root, "KEMDy20").utterances
    assert table["segment_id"].tolist() == corpus["segment_id"].tolist()
    assert table["label"].tolist() == corpus["emotion"].tolist()


def test_what_was_untrained_alike_is_computed_once(copy, monkeypatch):
    from utils.training import start

    made = []
    monkeypatch.setattr(
        start, "new_model", lambda run, labels, make=start.new_model: made.append(run.path) or make(run, labels)
    )
    found, _ = take_passes(some_runs(copy, "task_a", "finetune", "adapter"), copy, MACHINE)
    assert len(found) == 6 and [path.parent.parent.name for path in made] == ["adapter"] * 2 + ["finetune"]


def test_finished_passes_are_taken_again_and_an_interrupted_call_resumes(copy, monkeypatch):
    runs, take, done = some_runs(copy, "task_a", "finetune"), passes._take, []

    def interrupted(run, *arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run.path)
        return take(run, *arguments)

    monkeypatch.setattr(passes, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take_passes(runs, copy, MACHINE)
    kept = {path: path.stat().st_mtime_ns for path in copy.rglob("membership.csv")}
    assert {path.parent for path in kept} == set(done)
    monkeypatch.setattr(passes, "_take", lambda run, *arguments: done.append(run.path) or take(run, *arguments))
    found, _ = take_passes(runs, copy, MACHINE)
    assert len(found) == 4 and sorted(done) == sorted(found)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_a_corpus_that_changed_and_one_that_is_gone(copy, data_root, tmp_path):
    runs, mine = some_runs(copy, "task_a", "finetune"), tmp_path / "data"
    shutil.copytree(data_root / "KEMDy20", mine / "KEMDy20")
    found, lines = take_passes(runs, copy, MACHINE | {"data_root": mine})
    # What knows both is tested on the one that is here.
    assert {(run.experiment, run.task) for run in runs if run.path in found} == {
        ("task_a", "KEMDy20"),
        ("finetune", "KEMDy19"),
        ("finetune", "KEMDy20"),
    }
    assert all(set(table["task"]) == {"KEMDy20"} for table in found.values())
    assert len(lines) == 1 and f"none of its corpora (KEMDy19) is in {mine}" in lines[0]
    # With both, what was kept is not enough; and what was kept needs no corpus.
    found, lines = take_passes(runs, copy, MACHINE)
    assert not lines and {len(set(table["task"])) for table in found.values()} == {1, 2}
    assert len(take_passes(runs, copy, MACHINE | {"data_root": tmp_path})[0]) == 4
    # What is damaged is computed again.
    for damage in (lambda text: "", lambda text: text[:500], lambda text: text.replace("phi", "psi", 1), str.swapcase):
        path = runs[0].path / "membership.csv"
        whole = path.read_text()
        path.write_text(damage(whole))
        take_passes(runs[:1], copy, MACHINE)
        assert path.read_text() == whole
    next((mine / "KEMDy20").rglob("*.wav")).unlink()
    found, lines = take_passes(runs, copy, MACHINE | {"data_root": mine})
    assert len(found) == 1 and len(lines) == 3
    assert all("KEMDy20" in line and "changed since" in line and "\n" not in line for line in lines)


def test_what_is_named_is_found_with_what_attacks_on_it_need(copy, tmp_path):
    runs = some_runs(copy)
    for experiment in ("finetune", "adapter_wo_pretraining"):
        file = tmp_path / f"{experiment}.safetensors"
        export(folder(copy, experiment, "KEMDy20"), file)
        for named in (file, folder(copy, experiment, "KEMDy20")):
            found = {(run.experiment, run.task) for run in chosen([named], runs, copy)}
            needed = {("finetune", "KEMDy20"), ("task_a", "KEMDy19")} if experiment == "finetune" else {(experiment, "KEMDy20")}
            assert found == needed
    others = [run for run in runs if run.path != folder(copy, "finetune", "KEMDy20")]
    for named in (tmp_path / "finetune.safetensors", folder(copy, "finetune", "KEMDy20"), tmp_path / "nothing"):
        with pytest.raises(UserError, match=f"^{named}.*") as error:
            chosen([named], others, copy)
        assert "\n" not in str(error.value)


def test_a_run_that_starts_over_has_no_pass_and_no_file_holds_one(data_root, encoders, tmp_path, call):
    small = ("--task", "KEMDy20", "--num_epochs", 1)
    assert call(adapter, *small, output_root=tmp_path)[0] == 0
    path = folder(tmp_path, "adapter", "KEMDy20")
    table = take_passes(some_runs(tmp_path), tmp_path, MACHINE)[0][path]
    export(path, tmp_path / "file.safetensors")
    (path / "leakage.json").write_text("{}")
    content = (tmp_path / "file.safetensors").read_bytes() + (tmp_path / "file.md").read_bytes()
    assert not any(name.encode() in content for name in table["segment_id"]) and b"phi_untrained" not in content
    assert call(adapter, *small, "--overwrite", output_root=tmp_path)[0] == 0
    assert not (path / "membership.csv").exists() and not (path / "leakage.json").exists()


@pytest.fixture(scope="module")
def halves(encoders, tmp_path_factory):
    """Output folder of adapters on two halves of a corpus of ten sessions, and on all of it but a session."""
    root = tmp_path_factory.mktemp("halves")
    make_kemdy20(root / "data" / "KEMDy20", sessions=10, utterances=10)
    small = ("adapter.py", "--task", "KEMDy20", *flags(root / "data", encoders, root))
    for seed in (1, 2):
        run_main(*small, "--train_half", seed)
    run_main(*small, "--withdraw", "1", "--exp_name", "without")
    return root


def test_utterances_that_a_coin_or_their_session_left_out_are_told_apart(halves):
    found, lines = take_passes(some_runs(halves), halves, MACHINE)
    assert not lines
    tables = {path.parent.parent.name: table for path, table in found.items()}
    whole = tables["without"]
    assert set(whole["split"][whole["session"] == "1"]) == {"withdrawn"} and len(whole) == 100
    assert set(whole["split"][whole["session"] != "1"]) == {"train", "valid", "test"}
    for seed in (1, 2):
        table = tables[f"adapter-half{seed}"]
        kept = kept_by_coin(table["segment_id"], seed)
        trained = table["split"].isin(["train", "left_out"])
        assert (table["split"][trained] == np.where(kept, "train", "left_out")[trained]).all()
        config = read(folder(halves, f"adapter-half{seed}", "KEMDy20") / "config.json")
        assert (
            config["corpora"]["KEMDy20"]["splits"]["train"]["utterances"] == (table["split"] == "train").sum() < trained.sum()
        )
    # Coins differ, the model before training does not.
    assert set(tables["adapter-half1"]["split"]) == {"train", "left_out", "valid", "test"}
    one, two = (tables[f"adapter-half{seed}"] for seed in (1, 2))
    assert (one["phi_untrained"] == two["phi_untrained"]).all() and (one["phi"] != two["phi"]).any()
    assert (one["split"] != two["split"]).any()


def test_the_report_and_its_controls(halves, call_main, monkeypatch):
    monkeypatch.setattr(controls, "EPOCHS", 25)
    code, stdout, stderr = call_main(leakage, "--output_root", halves, "--cpu", "--num_workers", 0, "--controls")
    table = pd.read_csv(halves / "leakage" / "controls.csv")
    assert code == 0 and table["holds"].all(), (stdout, stderr)
    assert {"untrained", "random", "over-fitted"} == set(table["control"]) and "FAILED" not in stdout
    assert (table["auc"][table["control"] == "over-fitted"] > 0.95).all()
    for name in ("report.md", "report.csv", "roc.png", "roc.pdf"):
        assert (halves / "leakage" / name).exists()
    # What leaks where nothing can, and what does not leak that is known by heart, are failures.
    nothing = controls.null_table(*passes_of(halves))
    monkeypatch.setattr(controls, "null_table", lambda *of: nothing.assign(low=0.6))
    monkeypatch.setattr(controls, "overfitted", lambda *of: {"control": "over-fitted", "auc": 0.9, "holds": False})
    code, stdout, _ = call_main(leakage, "--output_root", halves, "--cpu", "--num_workers", 0, "--controls")
    assert code == 1 and stdout.count("FAILED") == len(table)


def test_bad_input_is_one_line(halves, copy, outputs, tmp_path, call_main):
    for arguments, answer in (
        (("--output_root", tmp_path / "none"), "holds no finished run with a model"),
        (("--output_root", halves, folder(outputs, "adapter", "KEMDy20")), "is no finished run of one model under"),
        (("--output_root", copy, "--controls", "--cpu", folder(copy, "task_a", "KEMDy20")), "there are no runs on halves"),
        (("--output_root", halves, tmp_path / "none.safetensors"), "none.safetensors is not a whole file"),
    ):
        code, _, stderr = call_main(leakage, *arguments)
        assert code == 1 and stderr.startswith("error: ") and answer in stderr and stderr.count("\n") == 1, stderr


def test_run_leakage_makes_runs_on_halves_adapters_first():
    found = commands("run-leakage.sh", "--num_epochs", "3", "--output_root", "x y", "--cpu", HALVES="2", TASKS="KEMDy20")
    *runs, report = found
    assert [(words[1], value(words, "--task"), value(words, "--train_half")) for words in runs] == [
        *(("adapter.py", "KEMDy20", half) for half in "12"),
        # What finetune starts from.
        *(("continual_learning_init.py", task, half) for half in "12" for task in ("KEMDy19", "KEMDy20")),
        *(("finetune.py", "KEMDy20", half) for half in "12"),
    ]
    assert all(value(words, "--num_fold") == "0" and value(words, "--num_epochs") == "3" for words in runs)
    assert report[1:] == ["leakage.py", "--output_root", "x y", "--cpu"]
    *runs, _ = commands("run-leakage.sh", "lora", "adapter", FOLDS="1 2", TASKS="KEMDy19", HALVES="3")
    assert [words[1] for words in runs] == ["adapter.py"] * 12
    assert "lora" in runs[5] and "lora" not in runs[6]
    for wrong, environment in (("lorra", {}), ("lora", {"HALVES": "0"})):
        done = shell("bash", "run-leakage.sh", wrong, DRY_RUN="1", **environment)
        assert done.returncode and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done
