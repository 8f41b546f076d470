"""Run folders → one table of scores → tables, measures, and the published numbers. No torch, except to re-evaluate models."""

# Choices of evaluate.py's flags, here so that --help need not load pandas.
METRIC_TITLES = {"f1_weighted": "weighted F1", "f1_macro": "macro F1", "ua": "UA", "wa": "WA"}
# Macro F1 over the classes that occur in the test split; the published one also averages over classes that are only predicted.
OCCURRING = "f1_macro_occurring"
# Prefix of a class name for its recall; the class name alone is its F1.
RECALL = "recall of "
# Expected calibration error of the probabilities, without and with the run's temperature.
CALIBRATION = {"ece": "ECE", "ece_calibrated": "calibrated"}
# Models that a run has test scores of: its own, the one it started from, its own with every transcript empty, and, if adapters
# are combined, the adapter of the tested task and the others.
TESTS = ("test", "test_before", "test_without_text", "test_right", "test_wrong")
FORMATS = ("text", "markdown", "latex", "csv", "json")
# Names for --tables, with a description.
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
