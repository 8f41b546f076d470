"""Output of the leak report: Markdown, CSV, and a summary beside each run that is included in exported files."""

import numpy as np

from utils.files import BEST_MODEL, LEAKAGE, spreadsheet_safe, write_json, write_text
from utils.leakage.attacks import ATTACKS, FEWEST_ONLINE
from utils.leakage.families import (
    AFTER,
    ALL,
    BEFORE,
    DRAWN,
    DRAWS,
    EMOTION,
    GUESSED,
    MEASURES,
    SESSION,
    UTTERANCE,
    WITHDRAWN,
    measure,
    row_of,
    sequence_text,
    shown_attack,
)
from utils.leakage.measures import RESAMPLES
from utils.methods import METHODS
from utils.results.forms import Report
from utils.results.report import SYNTHETIC
from utils.results.tables import Table

CERTIFIED = ("tested", "question", "attack", *(name for name in MEASURES if name != "balanced_accuracy"))
COUNTS = ("models", "members", "non_members")
QUESTIONS = {
    SESSION: (
        "Was this session in training?",
        "Members are the training sessions, non-members the test sessions, which are other people's unless the corpus came "
        "with splits that share them: that a model fits some people better than others looks like a leak too. The floor is "
        "what the model before training tells by its losses. Rates at few false positives of attacks with other models are too "
        "high here: the models that non-members are compared with are of the same fold, and closer to the attacked one.",
    ),
    UTTERANCE: (
        "Was this utterance in training?",
        "Of each training session a half was left out, by a fair coin for each utterance (--train_half), so that members and "
        "non-members differ in nothing else. The models are trained on half as much as those that would be shared.",
    ),
}
READING = {
    "AUC": "the probability that a member scores above a non-member: .5 is guessing, 1 tells all. Two of them are "
    "of the model before and after the last corpus was learned. A mean over the models, in brackets its 95 % interval, from "
    f"{RESAMPLES:,} resamples of the corpus's sessions (of few "
    "sessions it is too narrow).",
    "models": "how many were attacked. A dash stands for an attack that none of them allows; one that some of them allow is "
    "of fewer models (report.csv).",
    "loss threshold": "φ = log p − log(1 − p), p being the probability of the true emotion (Yeom et al. 2018). It takes the "
    "model and the utterance alone.",
    "offset": "φ less its median under models that did not train on the utterance (Watson et al. 2022): it is in their test or "
    "validation split, or was left out.",
    "LiRA": "φ against its normal distribution under models that did not train on the utterance (offline), and under such that "
    f"did as well (online, from {FEWEST_ONLINE} models; Carlini et al. 2022). One variance serves all utterances.",
    "RMIA": "the share of validation utterances whose probability rises less over that under such models (Zarifzadeh et al. "
    "2024, offline, a = .3, γ = 1).",
    "TPR": "the share of members that are found where 1 % (.1 %) of non-members are taken for members. Scores of all models "
    "are pooled, not calibrated for each utterance; below 1,000 (10,000) scores of non-members there is a dash.",
    "ε above": "training is not ε-differentially private with a lower ε, at 99.9 % confidence, by guesses on the "
    f"{200 * GUESSED:.0f} % of highest and lowest scores of the model that gives away most (Steinke et al. 2023).",
}


def write_report(folder, table, lines, synthetic):
    """Write report.md, and report.csv with all rows; only the latter names sessions.

    Args:
        folder: created if missing.
        table: from ``utils.leakage.families.report_table``.
        lines: missing results, with reasons.
        synthetic: whether corpora or encoders are synthetic.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counted = table.astype(dict.fromkeys(COUNTS, "Int64")).assign(synthetic=synthetic)
    write_text(folder / "report.csv", counted.map(spreadsheet_safe).to_csv(index=False, float_format="%.6g"))
    tables = [made for question in QUESTIONS for made in _tables(table, question) if made.has_cells()]
    parts = ["# What the models give away of their recordings"]
    parts += [f"**{SYNTHETIC}**"] if synthetic else []
    parts.append(Report(tables, [], synthetic=synthetic).render("markdown").rstrip() or "No model could be attacked.")
    if lines:
        parts.append("\n".join(["## What could not be told", "", *(f"- {line}" for line in lines)]))
    parts.append("\n".join(["## How to read it", "", *(f"- **{name}**: {text}" for name, text in READING.items())]))
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def _tables(table, question):
    """The tables of one question."""
    table = table[table["question"] == question].astype(object).where(table.notna(), None)
    title, about = QUESTIONS[question]
    of_all = _by_row(table[table["group"] == ALL])
    first = {name: _cells(of, question) for name, of in of_all.items()}
    rates = {
        name: {
            f"{ATTACKS[attack]}, {rate}": at.get((attack, AFTER), {}).get(column)
            for attack in ATTACKS
            for column, rate in RATES
        }
        for name, at in of_all.items()
    }
    yield Table(f"{question}_auc", f"{title} AUC", "model", first, notes=(about,))
    yield Table(f"{question}_tpr", f"{title} TPR at 1 % and .1 % false positives", "model", rates)
    attack = shown_attack(table, question)
    of_attack, title = table[table["attack"] == attack], f"{title} AUC of {ATTACKS[attack]}"
    emotions = sorted(set(of_attack[of_attack["group"] == EMOTION]["value"]))
    for group, values, words, note in (
        (EMOTION, emotions, "by emotion", "Members and non-members of the same emotion."),
        (DRAWN, DRAWS, "by how often the sampler drew an utterance", "Members drawn so often, against all non-members."),
        (
            WITHDRAWN,
            (WITHDRAWN,),
            "of withdrawn sessions",
            "In the place of members are their utterances, which were not used.",
        ),
    ):
        rows = {}
        for name, at in _by_row(of_attack[of_attack["group"] == group], "value").items():
            rows[name] = {value: _change(at, value) for value in values}
        yield Table(f"{question}_{group}", f"{title}, {words}", "model", rows, notes=(note,))


RATES = (("tpr_1", "1 %"), ("tpr_01", ".1 %"))


def _by_row(table, column="attack"):
    """Records by display name, ``{name: {(value of the column, when): record}}``, in the registry's order."""
    methods, rows = list(METHODS), {}
    order = table.assign(at=table["method"].map(methods.index)).sort_values(["at", "experiment", "sequence"], kind="stable")
    for record in order.to_dict("records"):
        name = f"{record['experiment']}, {record['sequence']}"
        if record["sequence"] != record["tested"]:
            name += f", on {record['tested']}"
        rows.setdefault(name, {})[record[column], record["when"]] = record
    return rows


def _cells(at, question):
    """A row of the table of AUCs."""
    after = at["threshold", AFTER]
    cells = {"models": int(after["models"])}
    if question == SESSION:
        cells["floor"] = after["floor"]
    cells |= {title: _change(at, attack) for attack, title in ATTACKS.items()}
    if question == UTTERANCE:
        bounds = [at[attack, AFTER]["epsilon_bound"] for attack in ATTACKS if (attack, AFTER) in at]
        cells["ε above"] = max((bound for bound in bounds if bound is not None), default=None)
    return cells


def _change(at, name):
    """AUC before and after, with the interval of the latter, as text; None if unavailable."""
    before, after = (at.get((name, when), {}) for when in (BEFORE, AFTER))
    if after.get("auc") is None:
        return None
    text = f"{before['auc']:.3f} → {after['auc']:.3f}" if before.get("auc") is not None else f"{after['auc']:.3f}"
    return text if after["low"] is None else f"{text} [{after['low']:.3f}, {after['high']:.3f}]"


def write_certificates(runs, table, models):
    """Write leakage.json beside each run with a pass: the measured leak, as included in exported files. It names no session.

    Results of the session question are the run's own; those of the utterance question are from the runs on halves of the same
    experiment, which are other models. None is written for runs on halves and means of models.

    Args:
        runs: FoundRuns with a pass.
        table, models: from ``utils.leakage.families.report_table``.
    """
    from utils.training.checkpoints import read_state, state_digest

    of_halves = table[
        (table["question"] == UTTERANCE) & (table["when"] == AFTER) & (table["group"] == ALL) & (table["models"] > 0)
    ]
    for run in runs:
        if run.train_half is not None or run.is_combined:
            continue
        measured = []
        for (path, tested), model in models.items():
            if path == run.path:
                for attack in model.scores:
                    of_run = measure([model], attack, lambda model: (model.members, model.others), SESSION)
                    measured.append({"tested": tested, "question": SESSION, "attack": attack} | of_run)
        about = {"experiment": row_of(run), "method": run.method, "sequence": sequence_text(run)}
        measured += of_halves[(of_halves[list(about)] == list(about.values())).all(axis=1)].to_dict("records")
        content = {"model": state_digest(read_state(run.path / BEST_MODEL)), "measured": [_certified(of) for of in measured]}
        write_json(run.path / LEAKAGE, content)


def _certified(record):
    """A row for leakage.json, with counts as integers and None for missing values."""
    values = {name: record.get(name) for name in CERTIFIED}
    values |= {name: None for name, value in values.items() if isinstance(value, float) and np.isnan(value)}
    return values | {name: int(values[name]) for name in COUNTS}
