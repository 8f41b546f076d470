"""The leak report of invented runs: who is a member, which models an attack may use, and what is written."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import read
from invented import A, B, change, change_metrics, invent
from matplotlib import pyplot as plt
from test_figures import require_readable

from utils.data.batches import BalancedBatchSampler
from utils.figures import leakage as figures
from utils.figures import style
from utils.files import BEST_MODEL, LEAKAGE
from utils.leakage import families
from utils.leakage.attacks import ATTACKS
from utils.leakage.measures import auc
from utils.leakage.report import write_certificates, write_report
from utils.results.runs import Results, find_runs
from utils.training.checkpoints import state_digest

LABELS = ("angry", "happy", "neutral", "sad")
# Of ten sessions each of five folds tests two; the next two validate.
SESSIONS = [f"S{number}" for number in range(10)]


def membership(task, fold=0, seed=12, leak=1.0, half=None, utterances=36):
    """A pass over a corpus: φ of members is ``leak`` higher; an utterance is as hard for all models."""
    ids = [f"{session}-{number}" for session in SESSIONS for number in range(utterances)]
    session = np.repeat(SESSIONS, utterances)
    place = (np.repeat(np.arange(10), utterances) // 2 - fold) % 5
    split = np.select([place == 0, place == 1], ["test", "valid"], "train").astype(object)
    if half is not None:
        coins = np.random.default_rng((half, 7)).random(len(ids)) < 0.5
        split[(split == "train") & coins] = "left_out"
    hard = np.random.default_rng(len(task) + ord(task[-1])).normal(0, 3, len(ids))
    noise = np.random.default_rng((fold, seed, half or 0)).normal(0, 0.5, (2, len(ids)))
    phi = hard + noise[0] + leak * (split == "train")
    label = np.resize(LABELS, len(ids))
    about = {"task": task, "segment_id": ids, "session": session, "split": split, "label": label}
    return pd.DataFrame({**about, "phi": phi, "phi_untrained": noise[1]})


def found(root, **leaks):
    """The runs and their passes, as ``report_table`` takes them; ``leaks`` of experiments, and of others 1."""
    runs, passes = find_runs(root), {}
    for run in runs:
        half, leak = run.train_half, leaks.get(run.experiment, 1.0)
        # Of what was learned before, less is left.
        tables = [membership(task, *run.key, leak / (1 + 9 * (task != run.task)), half) for task in run.sequence]
        passes[run.path] = pd.concat(tables)
    return runs, passes


def runs_of(root, experiment, sequence, folds=range(5), seeds=(12, 13), **config):
    for fold in folds:
        for seed in seeds:
            test = dict.fromkeys(sequence, 0.7)
            invent(root, experiment, sequence, test, fold=fold, seed=seed, counts=dict.fromkeys(LABELS, 2), **config)


def halves_of(root, experiment, number):
    for half in range(number):
        runs_of(root, f"{experiment}-half{half}", [A], [0], [12], method=experiment, arguments={"train_half": half})


def row(table, **values):
    """The one row of a table that has these values."""
    (index,) = np.flatnonzero((table[list(values)] == list(values.values())).all(axis=1))
    return table.iloc[index]


def test_members_are_training_sessions_and_others_test_sessions(tmp_path):
    runs_of(tmp_path, "adapter", [A])
    runs, passes = found(tmp_path)
    table, lines, _ = families.report_table(runs, passes)
    of = row(table, attack="threshold", group="all")
    expected, floor = [], []
    for pass_ in passes.values():
        members, others = (pass_[pass_["split"] == split] for split in ("train", "test"))
        expected.append(auc(members["phi"].to_numpy(), others["phi"].to_numpy()))
        floor.append(auc(members["phi_untrained"].to_numpy(), others["phi_untrained"].to_numpy()))
    assert (of["auc"], of["floor"]) == (pytest.approx(np.mean(expected)), pytest.approx(np.mean(floor)))
    assert of["low"] < of["auc"] < of["high"] and (of["experiment"], of["sequence"], of["when"]) == ("adapter", A, "after")
    assert (of["models"], of["members"], of["non_members"]) == (10, 10 * 216, 10 * 72)
    # What is hard for all models hides members from a threshold, and not from a comparison.
    better = [row(table, attack=name, group="all")["auc"] for name in ("offset", "lira_offline", "rmia")]
    assert of["auc"] < 0.65 and min(better) > 0.7 and max(better) > 0.85
    assert row(table, attack="lira_online", group="all")["models"] == 0 and np.isnan(of["epsilon_bound"])
    assert lines == [f"Session question: LiRA, online needs 16 models; there are fewer of: adapter ({A}): 10"]


def test_a_model_of_one_seed_or_without_other_folds_leaves_dashes_and_says_why(tmp_path):
    runs_of(tmp_path, "adapter", [A], folds=[0], seeds=[12])
    runs_of(tmp_path, "linear", [A], folds=[0, 1])
    runs_of(tmp_path, "lora", [A], folds=[0], seeds=[12])
    runs, passes = found(tmp_path)
    (given,) = (passes[run.path] for run in runs if run.method == "lora")
    given["session"] = given["split"]
    table, lines, _ = families.report_table(runs, passes)
    for name in ("adapter", "linear"):
        made = table[(table["experiment"] == name) & (table["group"] == "all")].set_index("attack")["auc"]
        assert set(made.index) == set(ATTACKS) and made.notna().to_dict() == {of: of == "threshold" for of in ATTACKS}
    (seeds,) = [line for line in lines if "two seeds" in line]
    (folds,) = [line for line in lines if "folds in which" in line]
    assert seeds.endswith(f"of: adapter ({A}), lora ({A})")
    without = f"adapter ({A}) without folds 1, 2, 3, 4, linear ({A}) without folds 2, 3, 4"
    assert folds.endswith(f"of: {without}, lora ({A}) with splits of its corpus's own")
    assert np.isnan(row(table, experiment="lora", group="all", attack="threshold")["low"])


def test_validation_counts_as_out_and_a_model_never_attacks_itself():
    # Model 0 is attacked; one utterance each: trained on by 1, validated by 1, tested by 1, absent from 1.
    phi = np.array([[5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 3.0, np.nan]])
    split = np.array([["train", "train", "test", "test"], ["train", "valid", "test", ""]])
    scores = families.attack(phi, split, 0)
    assert scores["offset"] == pytest.approx([np.nan, 3, 2, np.nan], nan_ok=True) and "lira_online" not in scores


def test_before_is_the_model_that_a_sequence_started_from(tmp_path):
    runs_of(tmp_path, "task_a", [A])
    for start in find_runs(tmp_path):
        told = {"checkpoint": f"moved/{'/'.join(start.path.parts[-3:])}/{BEST_MODEL}"}
        runs_of(tmp_path, "finetune", [A, B], [start.fold], [start.config["seed"]], started_from=told)
    # Two seeds of er started from one model.
    for seed in (12, 13):
        runs_of(tmp_path, "er", [A, B], [0], [seed], started_from={"checkpoint": f"task_a/fold_0/{A}/{BEST_MODEL}"})
    table, lines, _ = families.report_table(*found(tmp_path, task_a=5.0))
    # Which also drew some utterances of the first corpus again.
    drawn = table[(table["group"] == "drawn") & (table["tested"] == A) & (table["when"] == "after")]
    assert set(drawn["experiment"]) == {"task_a", "finetune"}
    table = table[(table["group"] == "all") & (table["attack"] == "offset")]
    about = {"experiment": "finetune", "sequence": f"{A} → {B}"}
    before, after = (row(table, **about, tested=A, when=when)["auc"] for when in ("before", "after"))
    assert before == row(table, experiment="task_a")["auc"] > 0.99 and after < 0.6
    assert row(table, **about, tested=B)["when"] == "after" and not any("starting" in line for line in lines)
    runs, passes = found(tmp_path)
    _, lines, _ = families.report_table([run for run in runs if run.method == "finetune" and run.fold == 0], passes)
    assert f"finetune ({A} → {B}), before: 2 of 2 starting models are not here" in lines


def test_the_utterance_question_is_of_runs_on_halves_alone(tmp_path):
    halves_of(tmp_path, "adapter", 16)
    runs_of(tmp_path, "adapter", [A], [0], [12])
    runs, passes = found(tmp_path)
    table, lines, _ = families.report_table(runs, passes)
    of_all = table[table["group"] == "all"].set_index(["question", "attack"])
    assert set(table["experiment"]) == {"adapter"} and of_all.loc["session", "models"]["threshold"] == 1
    of = of_all.loc["utterance", "lira_online"]
    assert of["models"] == 16 and of["auc"] > 0.9 > of_all.loc["utterance", "threshold"]["auc"] and np.isnan(of["floor"])
    assert of["members"] + of["non_members"] == 16 * 216 and 0 < of["tpr_1"] < 1 and np.isnan(of["tpr_01"])
    assert of["epsilon_bound"] > 0.5
    assert sum("Utterance question" in line for line in lines) == 0
    # One that all trained on, or all but one, is left out, and the attacks are made.
    for pass_ in passes.values():
        pass_.loc[pass_["segment_id"].isin(["S4-0", "S4-1"]), "split"] = "train"
    first = next(run.path for run in runs if run.train_half == 0)
    passes[first].loc[passes[first]["segment_id"] == "S4-1", "split"] = "left_out"
    table, lines, _ = families.report_table(runs, passes)
    of_all = table[(table["group"] == "all") & (table["question"] == "utterance")]
    assert set(of_all["models"]) == {16} and set(of_all["members"] + of_all["non_members"]) == {16 * 215 - 1}
    assert not any("Utterance question" in line for line in lines)
    # Five of them leave some utterance without a model that left it out.
    few = [run for run in runs if run.train_half in range(5)]
    table, lines, _ = families.report_table(few, passes)
    assert row(table, group="all", attack="offset")["models"] == 0
    assert any(line.endswith(f"of: adapter ({A}): 5 models") for line in lines)


def test_controls_find_nothing(tmp_path):
    halves_of(tmp_path, "adapter", 16)
    table = families.null_table(*found(tmp_path, **{f"adapter-half{half}": 3.0 for half in range(16)}))
    assert [*table["control"]] == ["untrained"] + ["random"] * 5 and set(table["attack"]) == set(ATTACKS)
    assert ((table["low"] < 0.5) & (table["high"] > 0.5)).all() and (table["high"] - table["low"]).max() < 0.15
    assert (table["experiment"][0], table["sequence"][0], table["tested"][0]) == ("adapter", A, A)


def test_groups_by_emotion_draws_and_session(tmp_path):
    runs_of(tmp_path, "adapter", [A], [0], [12])
    runs, passes = found(tmp_path)
    change_metrics(runs[0].path, best_epoch=3)
    pass_ = passes[runs[0].path]
    pass_.loc[:, "label"] = np.where(np.arange(len(pass_)) % 12, "neutral", "sad")
    pass_.loc[(pass_["label"] == "sad") & (pass_["split"] == "train"), "phi"] = 99.0
    table, _, _ = families.report_table(find_runs(tmp_path), passes)
    table = table[table["attack"] == "threshold"]
    sad = row(table, group="emotion", value="sad")
    assert (sad["auc"], sad["members"], sad["non_members"]) == (1, 18, 6)
    # One utterance of twelve gets half of the draws: six in every epoch for each, on average.
    drawn = table[table["group"] == "drawn"].set_index("value")
    train = pass_[pass_["split"] == "train"]
    sampler = BalancedBatchSampler(train["label"].map(LABELS.index).to_numpy(), 8, 12)
    counts = np.zeros(len(train), int)
    for sampler.epoch in (1, 2, 3):  # noqa: B020
        counts += np.bincount(np.concatenate(sampler.global_batches()), minlength=len(train))
    assert drawn["members"].to_dict() == pd.Series(counts).pipe(
        lambda of: pd.cut(of, [-1, 0, 1, 4, 16, 999], labels=families.DRAWS).value_counts()[list(drawn.index)].to_dict()
    )
    assert drawn.loc["over 16"]["auc"] == 1 and drawn["non_members"].unique() == [72]
    sessions = table[table["group"] == "session"]
    assert set(sessions["value"]) == set(train["session"]) and sessions["low"].isna().all() and set(sessions["members"]) == {36}


def test_a_withdrawn_session_is_compared_with_the_others(tmp_path):
    runs_of(tmp_path, "adapter", [A], [0], [12])
    runs, passes = found(tmp_path, adapter=20.0)
    pass_ = passes[runs[0].path]
    gone = pass_["session"] == "S9"
    pass_.loc[gone, "phi"] -= 20
    pass_.loc[gone, "split"] = "withdrawn"
    table, _, _ = families.report_table(runs, passes)
    aucs = table[(table["group"] == "session") & (table["attack"] == "threshold")].set_index("value")["auc"]
    assert aucs["S8"] > 0.99 and abs(aucs["S9"] - 0.5) < 0.25
    assert row(table, group="all", attack="threshold")["members"] == 180
    assert row(table, group="withdrawn", attack="threshold")[["members", "auc"]].tolist() == [36, aucs["S9"]]
    write_report(tmp_path / "leakage", table, [], synthetic=True)
    text = (tmp_path / "leakage" / "report.md").read_text()
    assert f"| withdrawn |\n| --- | ---: |\n| adapter, {A} | {aucs['S9']:.3f} |" in text and "of withdrawn sessions" in text


def test_runs_that_cannot_be_compared_are_left_out_with_a_line(tmp_path):
    runs_of(tmp_path, "adapter", [A], [0, 1], [12])
    runs_of(tmp_path, "linear", [A], [0], [12])
    other = {kind: {"name": "e", "fingerprint": "2" * 64, "pretrained": True} for kind in ("text", "speech")}
    change(tmp_path / "adapter" / "fold_1" / A, encoders=other)
    runs, passes = found(tmp_path)
    linear = next(run.path for run in runs if run.method == "linear")
    passes[linear] = passes[linear][passes[linear]["split"] != "test"]
    table, lines, _ = families.report_table(runs, passes)
    assert table.empty and len(lines) == 2
    assert lines[0].startswith("adapter is left out: ") and "differ in speech encoder, text encoder" in lines[0]
    assert lines[1] == f"{linear} is left out on {A}: its pass has no utterance of test"


def test_the_report_is_written_for_people_and_for_spreadsheets(tmp_path):
    runs_of(tmp_path, "task_a", [A])
    for start in find_runs(tmp_path):
        told = {"checkpoint": str(start.path / BEST_MODEL)}
        runs_of(tmp_path, "finetune", [A, B], [start.fold], [start.config["seed"]], started_from=told)
    halves_of(tmp_path, "adapter", 16)
    table, lines, _ = families.report_table(*found(tmp_path))
    write_report(tmp_path / "leakage", table, lines, synthetic=True)
    text = (tmp_path / "leakage" / "report.md").read_text()
    before, after = (
        row(table, experiment="finetune", tested=A, attack="rmia", group="all", when=when) for when in ("before", "after")
    )
    cell = f"{before['auc']:.3f} → {after['auc']:.3f} [{after['low']:.3f}, {after['high']:.3f}]"
    (line,) = [line for line in text.splitlines() if cell in line]
    assert line.startswith(f"| finetune, {A} → {B}, on {A} | 10 | ") and line.endswith(f"| - | {cell} |")
    assert (
        "**Was this session in training? AUC, synthetic**" in text
        and "**Was this utterance in training? AUC, synthetic**" in text
    )
    assert "SYNTHETIC" in text and lines[0] in text and not any(session in text for session in SESSIONS)
    written = pd.read_csv(tmp_path / "leakage" / "report.csv")
    assert [*written] == [*families.COLUMNS, "synthetic"] and len(written) == len(table) and "S9" in set(written["value"])


def test_a_certificate_is_of_the_run_and_of_its_halves_and_names_nobody(tmp_path):
    halves_of(tmp_path, "adapter", 16)
    runs_of(tmp_path, "adapter", [A], seeds=(12, 13))
    runs, passes = found(tmp_path)
    state = {"weight": torch.ones(2)}
    for run in runs:
        torch.save(state, run.path / BEST_MODEL)
    table, _, models = families.report_table(runs, passes)
    write_certificates(runs, table, models)
    path = tmp_path / "adapter" / "fold_0" / A / LEAKAGE
    told = read(path)
    assert told["model"] == state_digest(state)
    of = {(row["question"], row["attack"]): row for row in told["measured"]}
    assert len(of) == len(told["measured"]) == 4 + 5
    own = of["session", "threshold"]
    table_of = passes[path.parent]
    phi = [table_of[table_of["split"] == split]["phi"].to_numpy() for split in ("train", "test")]
    assert (own["models"], own["members"], own["non_members"], own["auc"]) == (1, 216, 72, auc(*phi))
    assert own["low"] < own["auc"] < own["high"] and own["tpr_1"] is own["epsilon_bound"] is None
    online = of["utterance", "lira_online"]
    assert online["models"] == 16 and online["epsilon_bound"] > 0.5 and online["tested"] == A
    text = path.read_text()
    assert not any(session in text for session in SESSIONS) and str(tmp_path) not in text
    assert not (tmp_path / "adapter-half1" / "fold_0" / A / LEAKAGE).exists()


@pytest.fixture()
def everything(tmp_path):
    """Runs in both orders with rows along λ and ε, other samplers, and halves; their passes and the report of them."""
    for name, kept in (("finetune", 0.3), ("lambda10", 0.35), ("lambda1000", 0.5)):
        arguments = {} if name == "finetune" else {"ewc_lambda": float(name.removeprefix("lambda"))}
        for first, second in ((A, B), (B, A)):
            about = {"method": "finetune" if name == "finetune" else "ewc", "arguments": arguments}
            for fold in (0, 1):
                scores = {first: kept + fold / 20, second: 0.8}, {first: 0.7, second: 0.2}
                invent(tmp_path, name, [first, second], *scores, fold, counts=dict.fromkeys(LABELS, 2), **about)
    changed = {"adapter_eps1": {"epsilon": 1.0}, "adapter_eps8": {"epsilon": 8.0}}
    changed |= {"adapter_capped": {"sampler": "capped", "cap": 4}, "adapter_weighted": {"sampler": "weighted_loss"}}
    for name in ("adapter", *changed):
        for task in (A, B):
            runs_of(tmp_path, name, [task], [0, 1], [12], method="adapter", arguments=changed.get(name, {}))
    halves_of(tmp_path, "adapter", 2)
    leaks = {"lambda1000": 2.0, "adapter_eps1": 0.0, "adapter_eps8": 0.4, "adapter_capped": 0.7}
    runs, passes = found(tmp_path, **leaks)
    table, _, models = families.report_table(runs, passes)
    return runs, table, models


def test_figures_are_readable_and_the_plane_has_a_point_for_each_method(everything, tmp_path):
    runs, table, models = everything
    style.prepare()
    require_readable(figures.draw_roc(table, models))
    results = Results([run for run in runs if run.train_half is None], sorted({*table["experiment"]}), ())
    plane = figures.draw_plane(results, table, results.orders, families.SESSION)
    require_readable(plane)
    about = {"attack": "threshold", "group": "all", "when": "after", "tested": A}
    of_row = {name: row(table, **about, experiment=name, question="session", sequence=of) for name, of in (
        ("finetune", f"{A} → {B}"), ("adapter", A), ("lambda10", f"{A} → {B}")
    )}  # fmt: skip
    points = {(round(float(x), 6), y) for line in plane.axes[0].lines for x, y in zip(line.get_xdata(), line.get_ydata())}
    # Macro F1 is half of the invented score: (.3 + .35) / 2 − .7, halved.
    for name, transfer in (("finetune", -0.1875), ("adapter", 0.0), ("lambda10", -0.1625)):
        assert (transfer, of_row[name]["auc"]) in points
    names = {text.get_text() for text in plane.legends[0].get_texts()}
    assert {"EWC, λ 10 to 1k (larger dots)", "adapter, ε 1 to 8 (larger dots)"} < names and len(plane.axes) == 4
    require_readable(figures.draw_samplers(results, table))
    plt.close("all")


def test_figures_are_written_or_say_what_they_lack(tmp_path):
    runs_of(tmp_path, "adapter", [A], [0], [12], synthetic=True)
    runs, passes = found(tmp_path)
    table, _, models = families.report_table(runs, passes)
    lines = list(figures.draw_leakage(runs, table, models, tmp_path / "leakage"))
    assert lines[0] == f"wrote {tmp_path / 'leakage' / 'roc.png'} and roc.pdf"
    assert lines[1].endswith("plane.png and plane.pdf")
    assert [line.split(",")[0] for line in lines[2:]] == ["plane_utterance: not drawn", "samplers: not drawn"]
    assert (tmp_path / "leakage" / "roc.pdf").read_bytes().startswith(b"%PDF")
    # Scores of runs that differ are not averaged, but each of these is attacked.
    runs_of(tmp_path, "adapter", [B], [0], [12], synthetic=True, arguments={"lr": 1e-3})
    runs, passes = found(tmp_path)
    table, _, models = families.report_table(runs, passes)
    first, *lines = figures.draw_leakage(runs, table, models, tmp_path / "leakage")
    assert first.startswith("plane, samplers: not drawn, adapter is left out: ") and "--lr" in first
    assert lines == [f"wrote {tmp_path / 'leakage' / 'roc.png'} and roc.pdf"]
