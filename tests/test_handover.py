"""What two institutions hand to each other: F, score files, and the whole story on two roots."""

import json
import shlex
import shutil
from glob import glob
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import folder, read, shell
from corpora import make_ravdess
from invented import A, B, C, invent, three_tasks
from test_grid import executable, fake  # noqa: F401

import evaluate
from utils.data.corpus import read_corpus
from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG, METRICS, write_json
from utils.methods import KEMDY
from utils.results import export as export_module
from utils.results import score
from utils.results.export import export
from utils.results.measures import measures
from utils.results.merge import merge
from utils.results.runs import Results, find_runs
from utils.results.score import join_scores, write_scores
from utils.training.checkpoints import state_digest
from utils.training.fisher import read_fisher, write_fisher

SMALL = ("--cpu", "--num_workers", 0)


def test_fisher_information_in_a_file_to_hand_on(outputs, tmp_path):
    run = folder(outputs, "task_a", "KEMDy19")
    path = tmp_path / "a.fisher.safetensors"
    kept = torch.load(run / "fisher-b10.pt", weights_only=True)
    write_fisher(path, kept)
    again = read_fisher(path)
    assert again.keys() == kept.keys() == {"kind", "task", "model", "batch_size", "utterances", "fisher"}
    assert again["fisher"].keys() == kept["fisher"].keys()
    assert all(torch.equal(again["fisher"].pop(name), values) for name, values in kept.pop("fisher").items())
    assert again == kept | {"fisher": {}}
    # Nobody's name and no place is in it.
    assert b"Sess" not in path.read_bytes() and str(outputs.parent).encode() not in path.read_bytes()
    damaged = tmp_path / "damaged"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        damaged.write_bytes(content)
        with pytest.raises(UserError, match=f"{damaged} is damaged"):
            read_fisher(damaged)


def test_fisher_information_that_is_not_there_is_computed(outputs, tmp_path, call_main):
    run = shutil.copytree(folder(outputs, "task_a", "KEMDy19"), tmp_path / "run")
    kept = read_fisher(run / "fisher-b10.pt")
    for file in run.glob("fisher*"):  # of other batch sizes too, which other tests leave
        file.unlink()
    code, _, stderr = call_main(export_module, run, tmp_path / "a.safetensors", "--with_fisher")
    assert code == 0, stderr
    again = read_fisher(tmp_path / "a.fisher.safetensors")
    assert all(torch.equal(again["fisher"].pop(name), values) for name, values in kept.pop("fisher").items())
    assert again == kept | {"fisher": {}}
    # ewc.py does not start from adapters.
    code, _, stderr = call_main(export_module, folder(outputs, "adapter", "KEMDy19"), tmp_path / "b", "--with_fisher")
    assert code == 1 and "a run of adapter: ewc.py does not start" in stderr and not (tmp_path / "b").exists()


@pytest.fixture()
def give(call_main, data_root, tmp_path):
    """Score a model: give(model, task, *flags) → (content of the score file, what was printed)."""

    def give(model, task, *flags):
        path = tmp_path / "scores.json"
        code, stdout, stderr = call_main(score, model, "--task", task, "--output", path, *SMALL, *flags)
        assert code == 0, stderr
        return read(path), stdout

    return give


def test_a_score_file_is_the_same_of_a_run_and_of_the_file_exported_of_it(outputs, data_root, encoders, give, tmp_path):
    for method, task in (("finetune", "KEMDy19"), ("finetune", "KEMDy20"), ("adapter", "KEMDy20")):
        run = folder(outputs, method, "KEMDy20")
        export(run, tmp_path / f"{method}.safetensors", overwrite=True)
        named = ("--text_model", encoders / "text", "--speech_model", encoders / "speech", "--data_root", data_root)
        (of_run, _), (of_file, stdout) = give(run, task), give(tmp_path / f"{method}.safetensors", task, *named)
        assert of_run["tests"]["test"][task] == read(run / METRICS)["test"][task]
        assert of_file["model"] == of_run["model"]
        if method == "finetune":  # the adapter's run was tested on features in half precision
            for name in ("n", "confusion_matrix", "f1_macro", "f1_weighted", "per_class"):
                assert of_file["tests"]["test"][task][name] == of_run["tests"]["test"][task][name]
            assert of_file["tests"]["test"][task]["ece"] == pytest.approx(of_run["tests"]["test"][task]["ece"])
        assert f"weighted F1 {of_file['tests']['test'][task]['f1_weighted']:.4f}" in stdout
        (row,) = [row for row in of_run["rows"] if row["metric"] == "f1_macro"]
        assert (row["experiment"], row["fold"], row["seed"], row["tested"], row["when"]) == (method, 0, 12, task, "test")
        assert row["value"] == of_run["tests"]["test"][task]["f1_macro"]


def test_a_score_file_names_no_utterance_session_or_path(outputs, data_root, give):
    content, _ = give(folder(outputs, "finetune", "KEMDy20"), "KEMDy19", "--without_text")
    text, corpus = json.dumps(content, ensure_ascii=False), read_corpus(data_root, "KEMDy19")
    for column in ("segment_id", "speaker", "text"):
        assert not any(value in text for value in corpus.utterances[column])
    assert "session" not in text and str(data_root.parent) not in text and str(outputs) not in text


def test_a_model_is_not_scored_on_what_it_may_have_seen(outputs, data_root, call_main, give, tmp_path):
    def refused(*arguments):
        code, _, stderr = call_main(score, *arguments, "--output", tmp_path / "no.json", *SMALL)
        assert code == 1 and stderr.count("\n") == 1 and not (tmp_path / "no.json").exists()
        return stderr

    run = folder(outputs, "task_a", "KEMDy19")
    assert "may have seen the test split of fold 1" in refused(run, "--task", "KEMDy19", "--num_fold", 1)
    # A corpus that it was never trained on has no such fold.
    content, _ = give(run, "KEMDy20", "--num_fold", 1, "--exp_name", "theirs")
    assert content["model"]["fold"] == 1 and {row["experiment"] for row in content["rows"]} == {"theirs"}
    make_ravdess(tmp_path / "data" / "RAV", actors=6)
    line = refused(run, "--task", "RAV", "--data_root", tmp_path / "data")
    assert "RAV has" in line and "labels that are no class here (calm" in line
    # The mean of two folds' models may have seen the test split of either.
    other = shutil.copytree(run, tmp_path / "other")
    splits = read(other / CONFIG)["corpora"]["KEMDy19"]["splits"]
    corpora = {"KEMDy19": {"splits": splits | {"test": splits["valid"], "valid": splits["test"]}}}
    write_json(other / CONFIG, read(other / CONFIG) | {"fold": 1, "corpora": corpora})
    merge(run, other, tmp_path / "mean")
    for fold in (0, 1):
        flags = ("--task", "KEMDy19", "--num_fold", fold, "--data_root", data_root)
        assert "may have seen the test split" in refused(tmp_path / "mean", *flags)
    (other / METRICS).unlink()
    assert "is not a finished run" in refused(other, "--task", "KEMDy19")
    with pytest.raises(UserError, match="is not a finished run"):
        merge(run, other, tmp_path / "no")


def test_a_merged_model_is_scored_like_any_other(outputs, data_root, give, call_main, tmp_path):
    merge(*(folder(outputs, "task_a", task) for task in KEMDY), tmp_path / "merged.safetensors")
    files = []
    for task in KEMDY:
        give(tmp_path / "merged.safetensors", task, "--data_root", data_root)
        files.append((tmp_path / "scores.json").rename(tmp_path / f"{task}.json"))
    code, stdout, stderr = call_main(evaluate, "--output_root", outputs, "--format", "json", "--scores", *files)
    assert code == 0, stderr
    cells = [cell for table in json.loads(stdout)["tables"] for cell in table["cells"]]
    scores = {cell["column"]: cell["value"] for cell in cells if (cell["table"], cell["row"]) == ("scores", "merged")}
    assert set(scores) == set(KEMDY) and None not in scores.values()


def test_what_transcripts_are_worth(outputs, give, call_main, tmp_path):
    run = shutil.copytree(folder(outputs, "task_a", "KEMDy19"), tmp_path / "outputs" / "task_a" / "fold_0" / "KEMDy19")
    content, stdout = give(run, "KEMDy19", "--without_text")
    without = content["tests"]["test_without_text"]["KEMDy19"]
    assert read(run / METRICS)["test_without_text"] == {"KEMDy19": without} and "test without text KEMDy19" in stdout
    assert {row["when"] for row in content["rows"]} == {"test", "test_without_text"}
    for more in ((), ("--scores", tmp_path / "scores.json")):  # the run's own, and the file as well
        code, stdout, stderr = call_main(
            evaluate, "--output_root", tmp_path / "outputs", "--format", "json", "--metric", "macro", *more
        )
        assert code == 0, stderr
        (table,) = [table for table in json.loads(stdout)["tables"] if table["table"] == "without_text"]
        cells = {cell["column"]: cell["value"] for cell in table["cells"]}
        assert cells["without text"] == without["f1_macro"]
        assert cells["change"] == pytest.approx(without["f1_macro"] - content["tests"]["test"]["KEMDy19"]["f1_macro"])


def publish(path, run, tests, digest="d", **changes):
    """Write a score file of an invented run, of some of its tests: ``{task: scores}``."""
    facts = {name: run.config[name] for name in score.FACTS} | {"experiment": run.experiment, "fold": run.fold}
    facts |= {name: run.config[name] for name in ("synthetic", "encoders", "parameters")}
    facts |= {"corpora": {}, "digest": digest, "arguments": {"num_epochs": run.config["arguments"]["num_epochs"]}, **changes}
    for task in tests:
        about = dict(find_runs(path.parent.parent)[0].config["corpora"][A])
        about["fold"] = run.identity[f"folds of {next(iter(run.config['corpora']))}"]
        splits = {split: {"labels": of["labels"]} for split, of in about.pop("splits").items()}
        facts["corpora"] |= {task: about | {"splits": splits}}
    write_scores(path, facts, {"test": tests})
    return path


@pytest.fixture()
def files(tmp_path):
    """Score files of what ``three_tasks`` invents, a file a test, as three institutions would write them."""
    three_tasks(tmp_path)
    (tmp_path / "scores").mkdir()
    files, found = [], find_runs(tmp_path)
    for index, run in enumerate(found):
        tests = dict(run.metrics["test"])
        for other in found:  # who is handed a model tests it as well
            if run.experiment in ("task_a", "finetune") and other.experiment == "finetune" and other.fold == run.fold:
                if other.sequence[:-1] == run.sequence:
                    tests[other.task] = other.metrics["test_before"][other.task]
        files += [publish(tmp_path / "scores" / f"{index}-{task}.json", run, {task: of}) for task, of in tests.items()]
    return files


def test_score_files_give_the_measures_of_the_runs(files, tmp_path):
    found = find_runs(tmp_path)
    on_one_disk, joined = Results(found), Results(join_scores([], files))
    assert not joined.left_out and joined.rows == on_one_disk.rows
    for row in ("finetune", "adapter", "joint"):
        expected = measures(on_one_disk, row, (A, B, C), "f1_weighted")
        assert measures(joined, row, (A, B, C), "f1_weighted") == expected and expected["ACC"]


def test_score_files_of_other_models_or_results_are_not_joined(files, tmp_path):
    (run, *_) = [run for run in find_runs(tmp_path) if run.experiment == "task_a" and run.fold == 0]
    torch.save(state := {"w": torch.ones(2)}, run.path / BEST_MODEL)
    test = run.metrics["test"][A]
    other_test = {**test, "confusion_matrix": [[0] * 4] * 4}
    of_run = {"digest": state_digest(state)}
    same, other_model, other_result = (
        publish(tmp_path / "scores" / f"{name}.json", run, {A: tested}, **digest)
        for name, tested, digest in (("a", test, of_run), ("b", test, {"digest": "e"}), ("c", other_test, of_run))
    )
    assert len(join_scores([run], [same, same])) == 1
    for there, paths, what in (
        ([run], [other_model], "are of two models"),
        ([], [same, other_model], "are of two models"),
        ([run], [other_result], f"have other results of one model on {A}"),
        ([], [same, other_result], f"have other results of one model on {A}"),
    ):
        with pytest.raises(UserError) as raised:
            join_scores(there, paths)
        line = str(raised.value)
        assert what in line and "\n" not in line and str(paths[-1]) in line
        assert str(run.path if there else paths[0]) in line


def test_what_is_no_score_file_is_one_line(files, call_main, tmp_path):
    whole = files[0].read_text()
    wrong = tmp_path / "wrong.json"
    for content, what in (
        (whole[:-20], "cannot be read"),
        (whole.replace("0.85", "0.95"), "is damaged or was edited"),
        (whole.replace('"format": 1', '"format": 2'), "is of format 2, this version reads 1"),
        (json.dumps(read(invent(tmp_path / "more", "task_a", [A], {A: 1.0}) / METRICS)), "is no score file"),
    ):
        wrong.write_text(content)
        code, _, stderr = call_main(evaluate, "--output_root", tmp_path / "nowhere", "--scores", files[1], wrong)
        assert code == 1 and stderr.count("\n") == 1 and f"{wrong} {what}" in stderr


@pytest.fixture()
def story(fake, data_root, encoders, tmp_path):  # noqa: F811
    """The commands of run-handover.sh, as lists of words, and the folder of both roots."""
    material = tmp_path / "material"
    material.mkdir()
    for name, path in (("KEMDy19", data_root / "KEMDy19"), ("KEMDy20", data_root / "KEMDy20"), ("encoders", encoders)):
        (material / name).symlink_to(path)
    executable(Path(fake["VIRTUAL_ENV"]) / "bin" / "cp", "")
    done = shell("bash", "run-handover.sh", DEMO_DATA=str(material), HANDOVER=str(tmp_path / "roots"), **fake)
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("$ ") for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert lines[0].startswith("python continual_learning_init.py --task KEMDy19 ") and len(lines) > 20
    return [shlex.split(line) for line in lines], tmp_path / "roots", material


@pytest.fixture()
def play(call_main):
    """Run one of the script's commands in this process, where nothing is imported 20 times; returns what it printed."""

    def play(words):
        words = [found for word in words for found in (sorted(glob(word)) if "*" in word else [word])]
        if words[0] == "cp":
            for path in words[1:-1]:
                shutil.copy(path, words[-1])
            return ""
        name, *arguments = words[2:] if words[1] == "-m" else words[1:]
        short = ("--num_epochs", "1") if "--num_epochs" in arguments else ()
        code, stdout, stderr = call_main(import_module(name.removesuffix(".py")), *arguments, *short)
        assert not code, stderr
        return stdout

    return play


def test_the_story_of_two_institutions(story, play, tmp_path):
    commands, roots, material = story
    both, answers, reports = tmp_path / "both", [], []
    both.mkdir()
    (both / "data").symlink_to(material)
    for words in commands:
        whose = {root for root in "AB" if any(str(roots / root) in word for word in words)}
        if words[0] == "cp":
            assert whose == {"A", "B"}
            play(words)
            continue
        (mine,) = whose
        (other,) = {"A", "B"} - whose
        # The other's disk is not there meanwhile.
        (roots / other).rename(tmp_path / "away")
        if "--scores" in words:
            reports.append(json.loads(play([*words, "--format", "json"])))
        elif "predict.py" in words:
            answers.append(play(words))
        else:
            play(words)
        (tmp_path / "away").rename(roots / other)
        if "--num_epochs" in words:  # the same run where both corpora are
            words = [word.replace(str(roots / mine), str(both)) for word in words]
            for flag in {"--checkpoint", "--fisher"} & set(words):
                del words[words.index(flag) : words.index(flag) + 2]
            play(words)
    assert len(answers) == 2 and all("routed" in answer and "KEMDy" in answer for answer in answers)
    on_one_disk = json.loads(
        play(["python", "evaluate.py", "--output_root", str(both / "outputs"), "--folds", "0", "--format", "json"])
    )
    (joined,) = reports
    # Resampling takes predictions, which stay where they were made.
    tables, of_one_disk = ([of for of in report["tables"] if of["table"] != "bootstrap"] for report in (joined, on_one_disk))
    assert tables == of_one_disk
    cells = [cell for table in joined["tables"] for cell in table["cells"] if cell["table"] == "continual"]
    cells = [cell for cell in cells if cell["metric"] == "f1_weighted" and cell["first"] == "KEMDy19"]
    measured = {(cell["row"], cell["column"]) for cell in cells if cell["value"] is not None}
    expected = {
        (row, name) for row in ("finetune", "ewc") for name in ("R[1,1]", "R[1,2]", "R[2,1]", "R[2,2]", "ACC", "BWT", "FWT")
    }
    assert expected | {("adapter", "ACC"), ("adapter", "BWT")} <= measured
