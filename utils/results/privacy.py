"""The section Privacy of a model card: what a file may leak, to help decide whether it can be shared."""

ALWAYS = """There is no recording and no transcript in this file, but weights can leak what they were trained on: whether a \
recording was among it (membership inference), and voices or words that the model has memorised. Share it only with those who \
may know that, and as the licence of the corpora allows."""
OF_CENTROIDS = """It also holds centroids, by which utterances of its corpus are told from others. They are means of the \
features of people's utterances, and so closer to the recordings than weights are."""
NOT_MEASURED = "How much this model tells of its recordings was not measured."
MEASURED = """Attacks tried to tell recordings that were used in training from recordings that were not. AUC is the \
probability that they rank a used one above an unused one: .5 is guessing, 1 is certainty."""
# Keyed by the questions of leakage.py.
QUESTIONS = {
    "session": """*Session*: was this recording session used in training? This model was asked about its training sessions and \
about its test sessions, which are of other people, unless the corpus came with splits that share them.""",
    "utterance": """*Utterance*: was this one recording used, of people who are in the training data? Other models with the \
same settings were asked, each trained on a random half of the recordings.""",
}
# The information that each attack uses.
ATTACKS = {
    "threshold": "how sure the model is of the true emotion",
    "offset": "the same, less what models say that did not hear the recording",
    "lira_offline": "likelihood ratio against models that did not hear it (LiRA, offline)",
    "lira_online": "likelihood ratio of models that did and did not hear it (LiRA, online)",
    "rmia": "probability relative to other recordings and other models (RMIA)",
}
HEADER = (
    *("tested on", "question", "attack by", "models", "recordings used / not used, summed over models", "AUC (95 % interval)"),
    *("used ones found at 1 % false alarms", "at .1 %"),
)
NOT_TRIED = """Not tried: rebuilding voices or transcripts from the weights, guessing what else is true of a speaker, attacks \
that train the model further, and attacks on its Fisher information, where that is handed on too"""


def privacy_section(facts, with_centroids=False):
    """The section as Markdown, without its heading; arguments as for ``utils.results.card.model_card``."""
    parts = [ALWAYS]
    for name, of in facts.get("withdrawn", {}).items():
        sessions = f"{of['sessions']} session{'s' * (of['sessions'] > 1)}"
        parts.append(f"{sessions} of {name} had been withdrawn: no recording of them was used.")
    if with_centroids:
        parts.append(OF_CENTROIDS)
    if private := facts.get("privacy"):
        parts.append(_differential_privacy(facts, private))
    if not (measured := facts.get("leakage")):
        return "\n\n".join([*parts, NOT_MEASURED])
    asked = [text for question, text in QUESTIONS.items() if any(row["question"] == question for row in measured)]
    if bounds := [row["epsilon_bound"] for row in measured if row["epsilon_bound"]]:
        asked.append(f"These answers rule out an ε below {max(bounds):.3g} for single recordings, with 99.9 % confidence.")
    stamp = "SYNTHETIC " if facts["synthetic"] else ""
    rows = [HEADER, ["---"] * len(HEADER), *(_cells(row, stamp) for row in measured)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return "\n\n".join([*parts, " ".join([MEASURED, *asked]), table, f"{NOT_TRIED}{', or on the centroids' * with_centroids}."])


def _cells(row, stamp):
    interval = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return (
        *(f"{stamp}{row['tested']}", row["question"], ATTACKS[row["attack"]], str(row["models"])),
        *(f"{row['members']:,} / {row['non_members']:,}", f"{row['auc']:.3f}{interval}"),
        *("–" if row[rate] is None else f"{100 * row[rate]:.2f} %" for rate in ("tpr_1", "tpr_01")),
    )


def _differential_privacy(facts, private):
    task, before = facts["task"], ", ".join(facts["sequence"][:-1])
    start = f" What was learned before, of {before}, has an ε of its own, that of the model it started from." * bool(before)
    return f"""The weights were trained with differential privacy, ε = {private["epsilon"]:g} and δ = {private["delta"]:g}, \
for single utterances of the training split of {task}: DP-SGD with noise multiplier {private["noise_multiplier"]:.4g}, \
clipping norm {private["clip"]:g}, sampling rate {private["sample_rate"]:.4g} and {private["steps"]:,} steps, by the \
{private["accountant"].upper()} accountant of opacus {private["opacus"]}. A speaker or a session has many utterances and is \
not covered as a whole: that a session was used may be told better than ε suggests. Of several files that were trained on the \
same recordings the ε add up, and settings that were chosen by trials on them are not covered. The scores above, the number of \
utterances, the classes and their weights are outside ε too.{start}"""
