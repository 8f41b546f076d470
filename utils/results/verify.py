"""Compare cells of evaluate.py's tables with the expected numbers in a file such as reproducibility.json."""

from functools import cache

from utils.errors import UserError
from utils.files import read_json
from utils.results import METRIC_TITLES, TABLES
from utils.results.runs import Results, usual_rows
from utils.results.tables import Table

MATCHES, MISSES, NOT_VERIFIED, NO_RUNS = "matches", "misses", "not verified", "no such runs here"
# Value of a row that does not refer to a cell.
NO_CELL = "see its command"
REQUIRED = ("command", "expected", "tolerance", "verified_on")
# Fields of csv and json that distinguish tables of the same name.
FACTS = ("metric", "first", "second", "order", "orders", "baseline")
OPTIONAL = ("what", "row", "column", "table", "folds", "seeds", "synthetic", *FACTS)
# Rounding error of sums in a different order.
ROUNDING = 1e-12


def read_expected(path):
    """Read a list of expected numbers.

    Each is a JSON object: ``command``, which makes the runs; ``row`` and ``column`` of a cell, as named in the tables;
    ``expected`` and ``tolerance``, numbers; ``verified_on``, the machine on which it was verified, or null. Optional:
    ``table``, a name of --tables (default: "overview", the output of evaluate.py); ``metric``, for tables as printed with
    --metric; other FACTS if several tables of that name have the cell; ``folds`` and ``seeds``, lists of those over which the
    number is averaged; ``synthetic``, true for runs on synthetic corpora. An object with ``what`` instead of row and column
    refers to no cell and is checked only by its command.

    Raises:
        UserError: if the file cannot be read or has another form.
    """
    rows = read_json(path, list)
    for number, row in enumerate(rows, 1):
        if fault := _fault(row):
            raise UserError(f"{path}, row {number}: {fault}")
    return rows


def _fault(row):
    """The error in a row, or None."""
    if not isinstance(row, dict):
        return "not a JSON object"
    required = REQUIRED if "what" in row else (*REQUIRED, "row", "column")
    if missing := [name for name in required if name not in row]:
        return f"lacks {', '.join(missing)}"
    if unknown := [name for name in row if name not in (*REQUIRED, *OPTIONAL)]:
        return f"there is no field {unknown[0]}, but {', '.join((*REQUIRED, *OPTIONAL))}"
    if row.get("table", "overview") not in TABLES:
        return f"there is no table {row['table']}, but {', '.join(TABLES)}"
    if row["verified_on"] is not None and not all(isinstance(row[name], int | float) for name in ("expected", "tolerance")):
        return "expected and tolerance are numbers, unless verified_on is null"
    return None


def verify_table(expected, found, tables_of, path, output_root):
    """Compare runs with expected numbers: a Table with a verdict on each, and summary sentences.

    Args:
        expected: from ``read_expected``.
        found: FoundRuns, including those of tuned rows.
        tables_of: ``tables_of(results, [name of --tables], metric or None)`` returns ``{name: [Table]}``.
        path, output_root: paths of the numbers and of the runs, for the title.
    """
    names, left_out = {_row_name(row) for row in expected if "what" not in row}, []

    @cache
    def results_of(folds, seeds):
        """Results of the runs of some folds and seeds; None if none is finished."""
        chosen = [run for run in found if folds is None or run.fold in folds]
        chosen = [run for run in chosen if seeds is None or run.config.get("seed") in seeds]
        # An additional experiment is in the tables only if named.
        named = sorted(names & {run.experiment for run in chosen})
        if not any(run.metrics for run in chosen):
            return None
        results = Results(chosen, [*usual_rows(chosen), *named])
        left_out.extend(results.left_out)
        return results

    @cache
    def records_of(table, metric, folds, seeds):
        results = results_of(folds, seeds)
        tables = tables_of(results, [table], metric)[table] if results and results.rows else []
        return results and results.synthetic, [record for table in tables for record in table.records()]

    rows = {}
    for number, row in enumerate(expected, 1):
        value = None if "what" in row else _value(row, records_of)
        rows[str(number)] = {
            "number of": describe(row),
            "verdict": _verdict(row, value),
            "found": value,
            "expected": row["expected"],
            "tolerance": row["tolerance"],
            "command": row["command"],
        }
    verdicts = [row["verdict"] for row in rows.values()]
    order = (MATCHES, MISSES, NOT_VERIFIED, NO_RUNS, NO_CELL)
    counts = [f"{verdict}: {verdicts.count(verdict)}" for verdict in order if verdict in verdicts]
    notes = [f"{len(rows)} rows; {', '.join(counts)}.", *dict.fromkeys(left_out)]
    return Table("verify", f"{path} and the runs under {output_root}", "row", rows, digits=6), notes


def _value(row, records_of):
    """The current number for a row; None if there are no such runs, or only of other folds or seeds."""
    where = {"row": _row_name(row), "column": row["column"], **{name: row[name] for name in FACTS if name in row}}
    metric = next((name for name in METRIC_TITLES if where.get("metric") in (name, name.removeprefix("f1_"))), None)
    if metric:
        where["metric"] = metric
    of_runs = (tuple(row[name]) if name in row else None for name in ("folds", "seeds"))
    synthetic, records = records_of(row.get("table", "overview"), metric, *of_runs)
    found = [record for record in records if all(record.get(name) == value for name, value in where.items())]
    found = [record for record in found if record["value"] is not None]
    if len(found) > 1:
        which = f"say which by {', '.join(FACTS)}, as --format csv has them"
        raise UserError(f"{describe(row)}: {len(found)} tables have this cell; {which}")
    if not found or synthetic != row.get("synthetic", False):
        return None
    value, folds, seeds = (found[0].get(name) for name in ("value", "per_fold", "seeds"))
    if not isinstance(value, int | float):
        raise UserError(f"{describe(row)}: {value} is not a number")
    others = bool(folds) and "folds" in row and set(folds) != set(row["folds"])
    others |= bool(seeds) and "seeds" in row and seeds != " ".join(map(str, sorted(row["seeds"])))
    return None if others else value


def _row_name(row):
    return row["row"].removesuffix(" †")  # a marker in text output, not part of the name


def describe(row):
    """Description of a row's number."""
    if "what" in row:
        return row["what"]
    table = [row["table"]] if "table" in row else []
    facts = [f"{name} {row[name]}" for name in FACTS if name in row]
    return ", ".join([*table, row["row"], row["column"], *facts, *(["synthetic"] if row.get("synthetic") else [])])


def _verdict(row, value):
    if row["verified_on"] is None:
        return NOT_VERIFIED
    if "what" in row:
        return NO_CELL
    if value is None:
        return NO_RUNS
    return MATCHES if abs(value - row["expected"]) <= row["tolerance"] + ROUNDING else MISSES


def exit_code(table):
    """Return 1 if a row differs, or if there are verified rows but none could be compared; else 0."""
    verdicts = {row["verdict"] for row in table.rows.values()}
    return int(MISSES in verdicts or (NO_RUNS in verdicts and MATCHES not in verdicts))
