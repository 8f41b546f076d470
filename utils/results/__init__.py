"""Run folders → one table of scores → tables, measures, and the published numbers. No torch but for what tests models again."""

# Choices of evaluate.py's flags, here so that --help need not load pandas.
METRIC_TITLES = {"f1_weighted": "weighted F1", "f1_macro": "macro F1", "ua": "UA", "wa": "WA"}
# Macro F1 over the classes that occur in the test split; the published one counts those that are only predicted, too.
OCCURRING = "f1_macro_occurring"
# Before a class: its recall. The name of a class alone is its F1.
RECALL = "recall of "
# Expected calibration errors of the probabilities, as they are and with the run's temperature.
CALIBRATION = {"ece": "ECE", "ece_calibrated": "calibrated"}
# What a run holds test scores of: its model, the model that it started from, its model with every transcript empty, and, where
# adapters are combined, the adapter of the task tested and the others.
TESTS = ("test", "test_before", "test_without_text", "test_right", "test_wrong")
FORMATS = ("text", "markdown", "latex", "csv", "json")
# The names of --tables, and what they show.
TABLES = {
    "overview": "scores, ACC and BWT side by side, which is the default",
    "scores": "test scores",
    "continual": "R and the measures of continual learning for each order, and their means over orders",
    "paired": "differences to the baselines",
    "bootstrap": "intervals over test sessions where there are too few folds",
    "routing": "adapters that are not told the corpus",
    "without_text": "scores without transcripts",
    "lambda": "scores along EWC's λ",
    "classes": "scores of each emotion",
    "calibration": "calibration errors",
    "parameters": "parameters trained and stored",
    "tuning": "what the tuned rows' trials chose",
}
