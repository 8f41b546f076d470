"""Run folders → one table of scores → tables, measures, and the published numbers. No torch but for what tests models again."""

# What evaluate.py lets the user choose, here so that --help need not load pandas.
METRIC_TITLES = {"f1_weighted": "weighted F1", "f1_macro": "macro F1", "f1_micro": "micro F1"}
FORMATS = ("text", "markdown", "latex", "csv", "json")
