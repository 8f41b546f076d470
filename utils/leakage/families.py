"""Finished runs and their passes → families of models → attacks on each → one tidy report.

A family is a set of models that differ in their training data: for the *session* question the runs of one experiment and
sequence over folds and seeds, for the *utterance* question the runs on random halves (``--train_half``) of one fold and seed.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from utils.data import SPLITS
from utils.identity import differences
from utils.leakage.attacks import ATTACKS, FEWEST_ONLINE, lira_offline, lira_online, offset, rmia, threshold
from utils.leakage.measures import auc, balanced_accuracy, epsilon_bound, session_auc, tpr_at
from utils.methods import METHODS, SEQUENCE
from utils.results.runs import MAY_DIFFER, FoundRun

SESSION, UTTERANCE = "session", "utterance"
BEFORE, AFTER = "before", "after"
ALL, EMOTION, DRAWN, OF_SESSION = "all", "emotion", "drawn", "session"
MEASURES = ("models", "members", "non_members", "auc", "low", "high", "balanced_accuracy", "tpr_1", "tpr_01", "epsilon_bound")
COLUMNS = (
    *("experiment", "method", "sequence", "tested", "when", "question", "attack", "group", "value"),
    *MEASURES,
    "floor",
)
# Splits for utterances that --train_half excluded from training, and for sessions that --withdraw excluded from all splits; the
# latter are also a group.
LEFT_OUT, WITHDRAWN = "left_out", "withdrawn"
# The split of members, and the splits of non-members.
TRAIN, OTHERS = "train", {SESSION: "test", UTTERANCE: LEFT_OUT}
# Names of ranges of draws, and the lower bounds of all but the first.
DRAWS, DRAWS_BEGIN = ("0", "1", "2 to 4", "5 to 16", "over 16"), (1, 2, 5, 17)
# Fraction of utterances that may be excluded from the utterance question because no other model, or all, trained on them.
MAY_LACK = 0.01
# For the bound of ε, this fraction of utterances with the highest scores is guessed to be members, with the lowest non-members.
GUESSED = 0.1
# Simultaneous confidence of all bounds of a row's ε; also the confidence of the controls' intervals.
CONFIDENCE = 0.999
RANDOM_DRAWS = 20


@dataclass(frozen=True)
class Attacked:
    """One model on the utterances of one corpus, arrays (utterances,).

    Attributes:
        run: a FoundRun.
        scores: by attack, for the attacks possible on all members and non-members.
        split, label, session: as str.
        members, others: masks of the utterances compared.
        untrained: φ of the model before training.
        draws: how often each member was drawn in training; None if unknown.
    """

    run: FoundRun
    scores: dict
    split: np.ndarray
    label: np.ndarray
    session: np.ndarray
    members: np.ndarray
    others: np.ndarray
    untrained: np.ndarray
    draws: np.ndarray | None


def row_of(run):
    """Name of a run's row in the report: its experiment, without the suffix of --train_half."""
    return run.experiment.removesuffix(f"-half{run.train_half}")


def sequence_text(run):
    """Format its sequence for the report."""
    return (" → " if METHODS[run.method].in_order else " + ").join(run.sequence)


def start_of(run, runs):
    """The one of some runs that a run started from, or None."""
    checkpoint = (run.config.get("started_from") or {}).get("checkpoint")
    folder = checkpoint and Path(checkpoint).parent.parts[-3:]  # the output folder may have been moved
    return next((other for other in runs if other.path.parts[-3:] == folder), None)


def report_table(runs, passes):
    """Attack all models and measure how well the attacks work.

    Args:
        runs: FoundRuns.
        passes: ``{run.path: membership.csv as a DataFrame}``; runs without one are excluded.

    Returns:
        (a DataFrame with COLUMNS, a line with the reason for each missing result, and the models of ``attack_all``). Counts
        and NaN are floats; an attack that is possible on no model has a row with 0 models.
    """
    models, lines = attack_all(runs, passes)
    rows = defaultdict(list)
    for (_, tested), model in models.items():
        rows[_row_key(model.run), tested].append(model)
    records = []
    for (key, tested), found in rows.items():
        about = dict(zip(("question", "experiment", "method", "sequence"), key), tested=tested)
        records += _records(about | {"when": AFTER}, found)
        if METHODS[found[0].run.method].how == SEQUENCE and tested != found[0].run.task:
            starts = [start_of(model.run, runs) for model in found]
            here = [start.path for start in starts if start and (start.path, tested) in models]
            # Several may have started from the same model.
            records += _records(about | {"when": BEFORE}, [models[path, tested] for path in dict.fromkeys(here)])
            if len(here) < len(found):
                lines.append(
                    f"{key[1]} ({key[3]}), before: {len(found) - len(here)} of {len(found)} starting models are not here"
                )
    return pd.DataFrame(records, columns=COLUMNS), lines, models


def shown_attack(table, question):
    """The attack shown where there is space for one: the online one, or the threshold, which is possible on every model."""
    made = table[(table["question"] == question) & (table["models"] > 0)]["attack"]
    return "lira_online" if question == UTTERANCE and "lira_online" in set(made) else "threshold"


def _row_key(run):
    question = SESSION if run.train_half is None else UTTERANCE
    return question, row_of(run), run.method, sequence_text(run)


def attack_all(runs, passes):
    """``{(run.path, tested corpus): Attacked}``, and lines as in ``report_table``."""
    models, lines, lacking = {}, [], defaultdict(dict)
    for (key, _), family in _families(runs, passes).items():
        if reason := _stray(family):
            lines.append(f"{key[1]} is left out: {reason}")
            continue
        for tested in family[0].sequence:
            pairs = []
            for run in family:
                table = passes[run.path][passes[run.path]["task"] == tested]
                missing = [split for split in (TRAIN, OTHERS[key[0]]) if not (table["split"] == split).any()]
                if missing:
                    lines.append(f"{run.path} is left out on {tested}: its pass has no utterance of {' or '.join(missing)}")
                else:
                    pairs.append((run, table))
            if pairs:
                found, needs = _attack(key[0], pairs, tested, runs, passes)
                models |= {(model.run.path, tested): model for model in found}
                for need, detail in needs.items():
                    lacking[need].setdefault(f"{key[1]} ({key[3]}){detail}")
    return models, lines + [f"{need}: {', '.join(names)}" for need, names in lacking.items()]


def _families(runs, passes):
    """Runs with a pass, grouped by row of the report and by family: ``{(key of the row, …): [runs]}``."""
    families = defaultdict(list)
    for run in runs:
        if run.path in passes:
            families[_row_key(run), () if run.train_half is None else run.key].append(run)
    return families


def _stray(family):
    """The reason why models of a family must not be compared, naming two of them; None if they may be."""
    first, seen = family[0], {}
    for run in family:
        may_differ = {*MAY_DIFFER, "--train_half", *(name for name in run.identity if name.startswith("folds of "))}
        if differing := differences(first.identity, run.identity, may_differ, "{} and {}"):
            return f"{first.path} and {run.path} differ in {', '.join(differing)}: keep them under different experiment names"
        twin = seen.setdefault((run.key, run.train_half), run)
        if twin is not run:
            return f"{twin.path} and {run.path} are both of fold {run.key[0]} and seed {run.key[1]}: move one away"
    return None


def _attack(question, pairs, tested, runs, passes):
    """Attack each model of a family on one corpus.

    Args:
        question: SESSION or UTTERANCE.
        pairs: (run, its pass over the corpus).
        tested: the corpus.
        runs, passes: all of them, to look up the runs that trained on the corpus earlier.

    Returns:
        ([Attacked], ``{requirement of attacks that were not possible: what the family has}``).
    """
    ids, phi, split = _aligned([table for _, table in pairs])
    found, needs = [], {}
    for target, (run, table) in enumerate(pairs):
        here = split[target] != ""
        scores = {name: of[here] for name, of in attack(phi, split, target).items()}
        splits = split[target][here]
        members, others = splits == TRAIN, splits == OTHERS[question]
        # If all other models drew the same coin for an utterance, they give no information about this model's coin.
        lacking = ~np.isfinite(list(scores.values())).all(axis=0)
        if question == UTTERANCE and lacking[members | others].mean() <= MAY_LACK:
            members, others = members & ~lacking, others & ~lacking
        whole = {name: of for name, of in scores.items() if np.isfinite(of[members | others]).all()}
        lacks = [which for which, of in (("members", members), ("others", others)) if np.isnan(scores["offset"][of]).any()]
        needs |= _needs(question, lacks, [run for run, _ in pairs], has_folds=not set(table["session"]) <= set(SPLITS))
        own = table.set_index("segment_id").loc[ids[here]]
        texts = (splits, own["label"].to_numpy(dtype=str), own["session"].to_numpy(dtype=str))
        drawn = _draws(run, tested, runs, passes)
        draws = None if drawn is None else drawn.reindex(ids[here]).to_numpy(dtype=float)
        found.append(Attacked(run, whole, *texts, members, others, own["phi_untrained"].to_numpy(dtype=float), draws))
    return found, needs


def _aligned(tables):
    """Align passes over a corpus: (segment_ids, φ, splits), the latter two (models, utterances), NaN and "" if missing."""
    ids = pd.Index(pd.unique(np.concatenate([table["segment_id"] for table in tables])))
    aligned = [table.set_index("segment_id").reindex(ids) for table in tables]
    phi = np.stack([table["phi"].to_numpy(dtype=float) for table in aligned])
    return ids, phi, np.stack([table["split"].fillna("").to_numpy(dtype=str) for table in aligned])


def attack(phi, split, target):
    """All attacks on one of several models, ``{attack: scores (utterances,)}``; NaN where models for the attack are missing.

    Args:
        phi: (models, utterances), NaN where a model does not have an utterance.
        split: str of the same shape, each model's split of the utterance.
        target: index of the attacked model, which is never used as one of the others.
    """
    own, by_others = phi[target], np.where((np.arange(len(phi)) == target)[:, None], np.nan, phi)
    # Validation splits count as out: used for model selection, not for training.
    inside, out = np.where(split == TRAIN, by_others, np.nan), np.where(split == TRAIN, np.nan, by_others)
    valid = split[target] == "valid"
    scores = {
        "threshold": threshold(own),
        "offset": offset(own, out),
        "lira_offline": lira_offline(own, out),
        "rmia": rmia(own, out, own[valid], out[:, valid]),
    }
    if len(phi) >= FEWEST_ONLINE:
        scores["lira_online"] = lira_online(own, inside, out)
    return scores


def _needs(question, lacks, runs, has_folds):
    """Requirements of attacks not possible on a model, ``{requirement: what its family has, to follow the family's name}``."""
    needs = {}
    compared = f"{ATTACKS['offset']}, {ATTACKS['lira_offline']} and {ATTACKS['rmia']}"
    if question == UTTERANCE and lacks:
        needs[
            f"Utterance question: {compared} need for each utterance another model that left it out; models are not counted "
            "where one has none, of"
        ] = f": {len(runs)} models"
    if question == SESSION and "others" in lacks:
        needs[
            f"Session question: {compared} need two seeds of each fold, since non-members are out in other seeds of the same "
            "fold alone (or where they validate); some fold has one seed alone of"
        ] = ""
    if question == SESSION and "members" in lacks:
        missing = sorted(set(range(runs[0].config["k_fold"])) - {run.fold for run in runs})
        lacking = f" without folds {', '.join(map(str, missing))}" if missing else ""
        needs[
            f"Session question: {compared} need the folds in which members are out, in test or validation; there is none for "
            "some members of"
        ] = lacking if has_folds else " with splits of its corpus's own"
    if len(runs) < FEWEST_ONLINE:
        needs[
            f"{question.capitalize()} question: {ATTACKS['lira_online']} needs {FEWEST_ONLINE} models; there are fewer of"
        ] = f": {len(runs)}"
    return needs


def _draws(run, tested, runs, passes):
    """How often the sampler drew each utterance up to the best epoch, a Series by segment_id; None if unknown.

    The draw only depends on labels, seed and epoch, so that it can be recomputed. For a corpus learned earlier it is the draw
    of the run that learned it; it is unknown for methods that draw some of its utterances again.
    """
    if run is None or run.path not in passes or run.is_combined:
        return None
    arguments = run.config["arguments"]
    if arguments.get("epsilon") is not None:  # DP-SGD samples by another rule, all with equal probability
        return None
    if METHODS[run.method].in_order and tested != run.task:
        if METHODS[run.method].keeps_data:
            return None
        return _draws(start_of(run, runs), tested, runs, passes)
    from utils.data.batches import BalancedBatchSampler, cap_of

    table, labels = passes[run.path], run.config["labels"]
    trained = run.config["sequence"] if not METHODS[run.method].in_order else [run.task]
    parts = [table[(table["task"] == name) & (table["split"] == TRAIN)] for name in trained]
    if any(part.empty for part in parts):
        return None
    pooled = pd.concat(parts)
    indices = pooled["label"].map(labels.index).to_numpy()
    sampler = BalancedBatchSampler(indices, len(pooled), run.config["seed"], cap=cap_of(arguments))
    counts = np.zeros(len(pooled), dtype=int)
    for epoch in range(1, run.metrics["best_epoch"] + 1):
        sampler.epoch = epoch
        (drawn,) = sampler.global_batches()
        counts += np.bincount(drawn, minlength=len(pooled))
    of_tested = (pooled["task"] == tested).to_numpy()
    return pd.Series(counts[of_tested], index=pooled["segment_id"].to_numpy()[of_tested])


def _records(about, models):
    """Rows of the report for some models on one corpus, one per attack and group of utterances."""
    records = []
    for name in ATTACKS if models else ():
        for group, value, select in _groups(models):
            measured = measure(models, name, select, about["question"], group)
            if measured or group == ALL:
                records.append(about | {"attack": name, "group": group, "value": value} | (measured or {"models": 0}))
    return records


def _groups(models):
    """The groups of utterances: (group, value, a function of a model that returns masks of members and others)."""
    yield ALL, "", lambda model: (model.members, model.others)
    for label in sorted({label for model in models for label in model.label[model.members | model.others]}):
        yield (
            EMOTION,
            label,
            lambda model, label=label: tuple(of & (model.label == label) for of in (model.members, model.others)),
        )
    for index, name in enumerate(DRAWS):
        yield DRAWN, name, lambda model, index=index: (_drawn(model, index), model.others)
    # A withdrawn session is compared as if it had been trained on, alone and together with all other withdrawn ones.
    yield WITHDRAWN, WITHDRAWN, lambda model: (model.split == WITHDRAWN, model.others)
    for session in sorted({session for model in models for session in model.session[_trained_or_withdrawn(model)]}):
        yield (
            OF_SESSION,
            session,
            lambda model, of=session: (_trained_or_withdrawn(model) & (model.session == of), model.others),
        )


def _trained_or_withdrawn(model):
    return model.members | (model.split == WITHDRAWN)


def _drawn(model, index):
    if model.draws is None:
        return np.zeros_like(model.members)
    return model.members & (np.digitize(model.draws, DRAWS_BEGIN) == index)


def measure(models, name, select, question, group=ALL):
    """The success of one attack on some models, ``{measure: number}``; None if it is possible on no model.

    AUC and balanced accuracy are means over the models; counts of members and others, and true positive rates at a false
    positive rate, use the pooled scores of all models.

    Args:
        models: Attacked.
        name: the attack.
        select: function of a model that returns masks of members and others to compare.
        question: the floor is computed for SESSION only, the bound of ε for UTTERANCE only.
        group: group of the members; the bound of ε is computed for ALL only.
    """
    picked = [(model, model.scores[name], *select(model)) for model in models if name in model.scores]
    picked = [
        (model, scores, members, others)
        for model, scores, members, others in picked
        if members.any() and others.any() and np.isfinite(scores[members]).all()
    ]
    if not picked:
        return None
    pairs = [(scores[members], scores[others]) for _, scores, members, others in picked]
    sessions = np.unique(np.concatenate([model.session for model, *_ in picked]))
    mean, low, high = session_auc(
        [
            (of_members, model.session[members], of_others, model.session[others])
            for (of_members, of_others), (model, _, members, others) in zip(pairs, picked)
        ],
        sessions,
    )
    pooled = [np.concatenate(of) for of in zip(*pairs)]
    measured = {
        "models": len(picked),
        "members": len(pooled[0]),
        "non_members": len(pooled[1]),
        "auc": mean,
        "low": low,
        "high": high,
        "balanced_accuracy": float(np.mean([balanced_accuracy(*of) for of in pairs])),
        "tpr_1": tpr_at(*pooled, 0.01),
        "tpr_01": tpr_at(*pooled, 0.001),
    }
    if question == SESSION:
        measured["floor"] = float(
            np.mean([auc(of.untrained[members], of.untrained[others]) for of, _, members, others in picked])
        )
    elif group == ALL:
        measured["epsilon_bound"] = _epsilon_bound(pairs)
    return measured


def _epsilon_bound(pairs):
    """The largest bound over several models. All bounds, including those of other attacks, hold simultaneously (Bonferroni)."""
    confidence = 1 - (1 - CONFIDENCE) / (len(pairs) * len(ATTACKS))
    bounds = []
    for members, others in pairs:
        is_member = np.arange(len(members) + len(others)) < len(members)  # ties rank members lower: conservative
        by_score = is_member[np.argsort(np.concatenate([members, others]), kind="stable")]
        guessed = max(int(GUESSED * len(by_score)), 1)
        right = int(by_score[-guessed:].sum() + (~by_score[:guessed]).sum())
        bounds.append(epsilon_bound(right, 2 * guessed, confidence))
    return max(bounds)


def null_table(runs, passes):
    """Results of the utterance question where there is nothing to find, on the runs with ``--train_half``.

    Returns:
        A DataFrame with a row for each control, model and attack: ``control`` ("untrained": the threshold attack on models
        before training; "random": membership redrawn RANDOM_DRAWS times), ``experiment``, ``sequence``, ``tested``, ``attack``,
        ``auc``, ``low`` and ``high``: the mean and the 99.9 % interval by Student's t, over models with their own coins, or
        over draws. The expected AUC is .5.
    """
    found = defaultdict(lambda: defaultdict(list))
    for (key, _), family in _families([run for run in runs if run.train_half is not None], passes).items():
        for tested in family[0].sequence:
            tables = [passes[run.path][passes[run.path]["task"] == tested] for run in family]
            if any(table.empty for table in tables):
                continue  # mentioned in the report
            of_untrained = found["untrained", key, tested]["threshold"]
            for table in tables:
                members, others = (table["phi_untrained"][table["split"] == split] for split in (TRAIN, OTHERS[UTTERANCE]))
                of_untrained.append(auc(members.to_numpy(), others.to_numpy()))
            _, phi, split = _aligned(tables)
            for draw in range(RANDOM_DRAWS):
                for name, value in _at_random(phi, split, np.random.default_rng((draw, family[0].fold))).items():
                    found["random", key, tested][name].append(value)
    records = []
    for (control, (_, experiment, _, sequence), tested), attacks in found.items():
        for name, values in attacks.items():
            about = {"control": control, "experiment": experiment, "sequence": sequence, "tested": tested, "attack": name}
            low, high = stats.t.interval(CONFIDENCE, len(values) - 1, np.mean(values), stats.sem(values))
            records.append(about | {"auc": np.mean(values), "low": low, "high": high})
    return pd.DataFrame(records)


def _at_random(phi, split, generator):
    """Mean AUC of each attack over models, with random membership: ``{attack: AUC}``."""
    others, aucs = OTHERS[UTTERANCE], defaultdict(list)
    split = np.where(np.isin(split, (TRAIN, others)), np.where(generator.random(split.shape) < 0.5, TRAIN, others), split)
    for target, splits in enumerate(split):
        for name, scores in attack(phi, split, target).items():
            pair = scores[splits == TRAIN], scores[splits == others]
            if np.isfinite(np.concatenate(pair)).all():
                aucs[name].append(auc(*pair))
    return {name: np.mean(of) for name, of in aucs.items()}
