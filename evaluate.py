"""Build tables, continual-learning measures and figures from finished runs, and compare with the published numbers."""

import sys
from functools import partial
from pathlib import Path

from utils.errors import UserError, one_line_errors
from utils.files import write_text
from utils.flags import Parser, count, named_path
from utils.results import FORMATS, METRIC_TITLES, TABLES
from utils.training.arguments import add_reopening_flags

METRICS = {name.removeprefix("f1_"): name for name in METRIC_TITLES}
# The other metrics appear only in the score tables, unless requested.
MEASURED = ("f1_weighted", "f1_macro")
# Machine-readable formats contain every table; the reader selects.
FOR_PROGRAMS = ("csv", "json")
# Used by --recompute.
MACHINE_FLAGS = ("cpu", "num_workers", "data_root", "text_model", "speech_model")


def parse_args():
    parser = Parser(description=__doc__, example="python evaluate.py --folds 0 1 --all --figures")
    parser.add_argument("--output_root", type=named_path, default="outputs", help="folder with the experiments")
    parser.add_argument(
        "--scores", type=named_path, nargs="+", default=[], metavar="FILE", help="score files of other institutions to include"
    )
    parser.add_argument("--folds", type=count, nargs="+", metavar="K", help="only these folds (default: all available)")
    parser.add_argument(
        "--settings", nargs="+", metavar="NAME", help="experiments to show, in this order (default: those named after methods)"
    )
    parser.add_argument(
        "--baseline", nargs="+", metavar="NAME", help="experiments to compare against (default: finetune, adapter)"
    )
    parser.add_argument("--metric", choices=METRICS, help="only this metric (default: weighted and macro F1; scores: all)")
    parser.add_argument("--format", choices=FORMATS, default="text", help="output format")
    parser.add_argument("--output", type=named_path, metavar="FILE", help="write to this file instead of printing")

    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--all", action="store_true", help="all tables and lists (csv and json contain all tables by default)")
    shown = "; ".join(f"{name}: {what}" for name, what in TABLES.items())
    instead.add_argument("--tables", nargs="+", choices=TABLES, metavar="NAME", help=f"these tables ({shown})")
    instead.add_argument("--published", action="store_true", help="our numbers beside the published ones, or only the latter")
    instead.add_argument("--list", action="store_true", help="list every run found, finished or not, instead of the tables")
    instead.add_argument(
        "--recompute", action="store_true", help="re-evaluate every best_model.pt and compare with the stored scores"
    )
    instead.add_argument(
        "--verify",
        type=named_path,
        metavar="FILE",
        help="compare table cells with the numbers expected in FILE, such as reproducibility.json; exit code 1 if one differs, "
        "or if FILE has verified rows but --output_root has runs for none of them; rows not yet verified or without runs are "
        "listed and do not fail",
    )

    figures = parser.add_argument_group("figures")
    figures.add_argument(
        "--figures",
        type=named_path,
        nargs="?",
        const=True,
        metavar="FOLDER",
        help="also draw figures, by default into figures/, or figures/ under --output_root if the runs are synthetic",
    )
    figures.add_argument(
        "--confusion", nargs=2, metavar="NAME", help="two experiments whose confusion matrices to draw (default: the adapters)"
    )
    figures.add_argument(
        "--curves", nargs="+", metavar="NAME", help="draw only these experiments' learning curves, unfinished runs included"
    )
    figures.add_argument("--confusion_task", metavar="TASK", help="test task of the confusion matrices (default: the last)")

    machine = parser.add_argument_group("machine, for --recompute")
    add_reopening_flags(machine)
    args = parser.parse_args()
    if args.figures and (args.published or args.list or args.recompute or args.verify):
        parser.error("--figures needs the tables and cannot be combined with --published, --list, --recompute or --verify")
    if args.curves and not args.figures:
        parser.error("--curves needs --figures")
    if args.scores and (args.list or args.recompute):
        parser.error("--scores cannot be combined with --list or --recompute, which need run folders")
    return args


@one_line_errors
def main():
    args = parse_args()
    # Below parsing: pandas and scikit-learn are slow to import.
    from utils.results.forms import Report
    from utils.results.report import run_table
    from utils.results.runs import find_runs
    from utils.results.score import join_scores
    from utils.results.tuning import tuned_runs

    found = join_scores(find_runs(args.output_root), args.scores)
    if not found and not args.published:
        raise UserError(
            f"--output_root {args.output_root} holds no experiments (<experiment>/fold_0/<task>): name the folder that the run "
            "scripts wrote to (default: outputs); bash run-init.sh trains the first experiment"
        )
    tuned, lines = ([], []) if args.list or args.recompute else tuned_runs(found)
    found = [run for run in (*found, *tuned) if args.folds is None or run.fold in args.folds]
    if args.list or args.recompute:
        table = run_table(found, args.output_root) if args.list else recompute_table(found, args)
        finished = sum(run.metrics is not None for run in found)
        give(Report([table], [f"{len(found)} runs, {finished} of them finished."]), args)
        sys.exit(not all(row.get("same", True) for row in table.rows.values()))
    if args.verify:
        verify(found, args)
    tables(found, args, lines)


def tables(found, args, lines):
    """Output the tables, with ``lines`` among the notes, and draw the figures."""
    from utils.methods import JOINT, METHODS, PAPER
    from utils.results import report
    from utils.results.forms import Report
    from utils.results.missing import missing_commands
    from utils.results.published import published_tables
    from utils.results.runs import Results

    finished = any(run.metrics or run.problem for run in found)
    results = Results(found, args.settings, args.baseline) if finished else None
    notes = report.notes(results, args.output_root) if results else [f"{len(found)} runs, none of them finished."]
    notes += lines
    metric = METRICS.get(args.metric)
    if args.published:
        shown, lines = published_tables(results, [metric] if metric else list(METRIC_TITLES))
        give(Report(shown, [*notes, *lines] if results else []), args)
        return
    everything = [name for name in TABLES if name != "overview"]  # the overview summarises the others
    names = args.tables or (everything if args.all or args.format in FOR_PROGRAMS else ["overview"])
    made = tables_shown(results, names, metric) if results and results.rows else {}
    if args.tables and (empty := [name for name in args.tables if not made.get(name)]):
        notes.append(f"Nothing to show for --tables {' '.join(empty)}.")
    rows = {name: METHODS[name] for name in args.settings or (*PAPER, JOINT) if name in METHODS}
    rows |= {name: results.method(name) for name in results.rows} if results else {}
    orders = results.orders if results else ()
    # Runs of other institutions cannot be trained here.
    missing = [] if args.scores else missing_commands(found, rows, orders, args.output_root, args.folds)
    lists = {
        "Rows under other names, and in what they differ": report.row_notes(results) if results else [],
        "Missing runs, by the commands that make them": missing,
        "Further experiments, which --settings shows": report.other_names(results, found),
    }
    # With --tables only those tables are of interest.
    lists = {heading: lines for heading, lines in lists.items() if lines and not args.tables}
    synthetic, keeping = (results.synthetic, results.keeping) if results else (None, ())
    brief = not args.all and args.format not in FOR_PROGRAMS
    give(Report(sum(made.values(), []), notes, lists, synthetic, keeping, brief), args)
    if args.figures:
        draw(found, results, args)


def tables_shown(results, names, metric=None):
    """Tables by their names in TABLES, ``{name: [Table]}``, without those that have no values.

    Args:
        results: Results with any rows.
        names: of TABLES.
        metric: only this one of METRIC_TITLES.
    """
    from utils.results import report
    from utils.results.overview import overview_tables
    from utils.results.tuning import tuning_tables

    metrics = [metric] if metric else list(METRIC_TITLES)
    measured = metrics if metric else MEASURED
    # Tables for one metric each, and the metrics they are built for.
    of_metric = {
        "scores": (report.score_tables, metrics),
        "continual": (report.measure_tables, measured),
        "paired": (report.paired_tables, measured),
        "bootstrap": (report.bootstrap_tables, measured),
        "routing": (report.routing_tables, measured),
        "without_text": (report.without_text_tables, measured),
        "lambda": (report.lambda_tables, measured),
    }
    makers = {name: [partial(make, results, metric) for metric in of] for name, (make, of) in of_metric.items()}
    makers["overview"] = [partial(overview_tables, results, measured)]
    makers["classes"] = [partial(report.class_tables, results)]
    makers["calibration"] = [partial(report.calibration_tables, results)]
    makers["parameters"] = [lambda: [report.parameter_table(results)]]
    makers["tuning"] = [partial(tuning_tables, results)]
    if "f1_macro" in metrics:
        makers["scores"].append(partial(report.occurring_tables, results))
    return {name: [table for make in makers[name] for table in make() if table.has_cells()] for name in names}


def give(report, args):
    """Print the report, or write it to ``--output``."""
    text = report.render(args.format)
    if args.output is None:
        print(text, end="")
        return
    write_text(args.output, text)
    print(f"wrote {args.output}")


def verify(found, args):
    """Compare the tables with the expected numbers in a file, and exit."""
    from utils.results.forms import Report
    from utils.results.verify import exit_code, read_expected, verify_table

    expected = read_expected(args.verify)
    table, notes = verify_table(expected, found, tables_shown, args.verify, args.output_root)
    give(Report([table], notes), args)
    sys.exit(exit_code(table))


def recompute_table(found, args):
    """Re-evaluate all finished runs: a row each, with the verdict."""
    from tqdm import tqdm

    from utils.results.recompute import retest
    from utils.results.tables import Table

    machine = {name: value for name, value in vars(args).items() if name in MACHINE_FLAGS}
    rows = {}
    tested = [run for run in found if (run.metrics or run.problem) and not run.is_combined]
    if not tested:
        raise UserError(f"--output_root {args.output_root}: no finished run to re-evaluate")
    for run in tqdm(tested, desc="runs", disable=None):
        verdict = retest(run, **machine)
        rows[str(run.path.relative_to(args.output_root))] = {
            "same": verdict.same,
            "best_model.pt does what its folder says": verdict.text,
            "synthetic": run.config.get("synthetic"),
        }
    return Table("recompute", "best_model.pt tested again", "folder", rows)


def draw(found, results, args):
    """Draw all figures for which enough runs exist, or only --curves, and print their paths."""
    from utils.figures import draw_all, draw_curves_of

    folder, synthetic = args.figures, any(run.config.get("synthetic") for run in found)
    if folder is True:  # synthetic figures never overwrite real results
        folder = args.output_root / "figures" if synthetic else Path("figures")
    lines = ["no figure is drawn of unfinished runs, but for --curves NAME, their learning curves"]
    if args.curves:
        lines = draw_curves_of(found, args.curves, folder, synthetic)
    elif results:
        lines = draw_all(results, folder, args.confusion, args.confusion_task)
    for line in lines:  # kept out of machine-readable output
        print(line, file=sys.stdout if args.format == "text" or args.output else sys.stderr)


if __name__ == "__main__":
    main()
