"""Tables, continual-learning measures and figures from what the runs wrote, and the published numbers beside them."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from utils.data.kemdy import CORPORA
from utils.errors import UserError, one_line_errors, printable
from utils.files import write_text
from utils.flags import HelpFormatter, count, encoder_name, named_path
from utils.machine import available_cpus
from utils.results.published import published_tables
from utils.results.report import (
    class_tables,
    lambda_tables,
    measure_tables,
    missing_commands,
    notes,
    other_names,
    paired_table,
    parameter_table,
    run_table,
    score_table,
)
from utils.results.runs import METHODS, METRIC_TITLES, are_synthetic, comparable_runs, find_runs
from utils.results.tables import FORMATS, Report, Table

METRICS = {name.removeprefix("f1_"): name for name in METRIC_TITLES}
# Micro F1 is accuracy here: in the score table it stands, beside each other measure it would say little more.
MEASURED = ("f1_weighted", "f1_macro")
# Those of --recompute.
MACHINE_FLAGS = ("cpu", "num_workers", "data_root", "text_model", "speech_model")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output_root", type=named_path, default="outputs", help="folder that the experiments were written to")
    parser.add_argument("--folds", type=count, nargs="+", metavar="K", help="only these folds (default: all that were run)")
    parser.add_argument("--metric", choices=METRICS, help="only this F1 (default: weighted, macro, micro)")
    parser.add_argument("--format", choices=FORMATS, default="text", help="form of the tables")
    parser.add_argument("--output", type=named_path, metavar="FILE", help="write the tables there instead of printing them")

    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--published", action="store_true", help="our numbers beside the published ones, or these alone")
    instead.add_argument("--list", action="store_true", help="every run found, finished or not, instead of the tables")
    instead.add_argument(
        "--recompute", action="store_true", help="test every best_model.pt again and compare with the stored scores"
    )

    figures = parser.add_argument_group("figures")
    figures.add_argument(
        "--figures",
        type=named_path,
        nargs="?",
        const=Path("figures"),
        metavar="FOLDER",
        help="also draw; without a FOLDER into figures/, or figures/demo/ where the runs are synthetic",
    )
    figures.add_argument(
        "--confusion",
        nargs=2,
        choices=METHODS,
        metavar="SETTING",
        default=("adapter", "adapter_wo_pretraining"),
        help="the two settings whose confusion matrices stand side by side",
    )
    figures.add_argument("--confusion_task", choices=CORPORA, default="KEMDy20", help="corpus that these are tested on")

    machine = parser.add_argument_group("machine, for --recompute")
    machine.add_argument(
        "--data_root", type=named_path, default=argparse.SUPPRESS, help="where the corpora lie now (default: as then)"
    )
    for kind in ("text", "speech"):
        machine.add_argument(
            f"--{kind}_model",
            type=encoder_name,
            default=argparse.SUPPRESS,
            help=f"hub name or folder of the {kind} encoder (default: as then, if it is on this machine)",
        )
    machine.add_argument("--cpu", action="store_true", help="do not use a GPU")
    machine.add_argument("--num_workers", type=count, default=min(4, available_cpus()), help="threads that read wavs ahead")
    args = parser.parse_args()
    if args.figures and (args.published or args.list or args.recompute):
        parser.error("--figures goes with the tables, not with --published, --list or --recompute")
    return args


@one_line_errors
def main():
    args = parse_args()
    if not args.output_root.is_dir():
        raise UserError(
            f"--output_root {args.output_root}: there is no such folder; the run scripts make it (bash run-init.sh)"
        )
    found = [run for run in find_runs(args.output_root) if args.folds is None or run.fold in args.folds]
    if args.list:
        give(Report([run_table(found, args.output_root)], count_notes(found)), args)
        return
    if args.recompute:
        table = recompute_table(found, args)
        give(Report([table], count_notes(found)), args)
        sys.exit(not all(row["same"] for row in table.rows.values()))

    runs = comparable_runs(found)
    metrics = [METRICS[args.metric]] if args.metric else list(METRIC_TITLES)
    if args.published:
        give(Report(published_tables(runs, metrics), notes(runs)), args)
        return
    tables = [score_table(runs, metric) for metric in metrics]
    if runs:
        for metric in metrics if args.metric else MEASURED:
            tables += [*measure_tables(runs, metric), paired_table(runs, metric), *lambda_tables(runs, metric)]
        tables += [*class_tables(runs), parameter_table(runs)]
        tables = [table for table in tables if table.has_cells()]
    lists = {
        "Missing runs, by the commands that make them": missing_commands(runs, args.output_root, args.folds),
        "Experiments under other names, not in the tables": other_names(found),
    }
    give(Report(tables, notes(runs), {heading: lines for heading, lines in lists.items() if lines}, are_synthetic(runs)), args)
    if args.figures:
        draw(runs, args)


def give(report, args):
    """Print the report, or write it to ``--output``."""
    text = printable(report.render(args.format))
    if args.output is None:
        print(text, end="")
        return
    write_text(args.output, text)
    print(f"wrote {args.output}")


def count_notes(found):
    finished = sum(run.metrics is not None for run in found)
    return [f"{len(found)} runs, {finished} of them finished."]


def recompute_table(found, args):
    """Test all finished runs again: a row each, with the answer."""
    # torch and transformers are loaded only where they are needed.
    from utils.results.recompute import retest

    machine = {name: value for name, value in vars(args).items() if name in MACHINE_FLAGS}
    rows = {}
    tested = [run for run in found if run.metrics or run.problem]
    if not tested:
        raise UserError(f"--output_root {args.output_root}: no finished run to test again")
    for run in tqdm(tested, desc="runs", disable=None):
        verdict = retest(run, **machine)
        rows[str(run.path.relative_to(args.output_root))] = {
            "same": verdict.same,
            "best_model.pt does what its folder says": verdict.text,
            "synthetic": run.config.get("synthetic"),
        }
    return Table("recompute", "best_model.pt tested again", "folder", rows)


def draw(runs, args):
    """Draw all figures that the runs suffice for, and say which they are, beside the tables on standard output."""
    from utils.figures import draw_all

    folder = args.figures
    if folder == Path("figures") and are_synthetic(runs):
        folder /= "demo"
    for line in draw_all(runs, folder, args.confusion, args.confusion_task):
        # Not among tables that a program reads.
        print(line, file=sys.stdout if args.format == "text" or args.output else sys.stderr)


if __name__ == "__main__":
    main()
