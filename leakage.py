"""Measure what finished runs leak about their training recordings: attacks on the models, a report and figures."""

import sys
from math import isnan

from utils.errors import UserError, one_line_errors, printable
from utils.files import write_text
from utils.flags import Parser, named_path
from utils.training.arguments import add_reopening_flags


def parse_args():
    parser = Parser(description=__doc__, example="python leakage.py outputs/adapter/fold_0/KEMDy19")
    parser.add_argument(
        "models",
        type=named_path,
        nargs="*",
        metavar="RUN_OR_EXPORT",
        help="run folders or exported files to report on; runs that the attacks need are added (default: all finished runs)",
    )
    parser.add_argument("--output_root", type=named_path, default="outputs", help="folder with the experiments")
    parser.add_argument(
        "--controls",
        action="store_true",
        help="also run controls: the attacks must find nothing where nothing can leak, and almost everything in an overfitted "
        "model trained for this purpose; needs runs on halves (run-leakage.sh)",
    )
    add_reopening_flags(parser.add_argument_group("machine, corpora and encoders"))
    return parser.parse_args()


@one_line_errors
def main():
    args = parse_args()
    # Below parsing: pandas takes a second to import, and torch is loaded only where a model is tested.
    from utils.figures.leakage import draw_leakage
    from utils.leakage.families import report_table
    from utils.leakage.passes import chosen, take_passes, with_models
    from utils.leakage.report import write_certificates, write_report
    from utils.results.runs import find_runs

    changes = {name: value for name, value in vars(args).items() if name not in ("models", "output_root", "controls")}
    runs, left_out = with_models(find_runs(args.output_root))
    if args.models:
        runs, left_out = chosen(args.models, runs, args.output_root), []
    if not runs:
        raise UserError(
            f"--output_root {args.output_root} holds no finished run with a model: name the folder with the experiments"
        )

    passes, lacking = take_passes(runs, args.output_root, changes)
    left_out += lacking
    runs = [run for run in runs if run.path in passes]
    table, lines, models = report_table(runs, passes)

    folder = args.output_root / "leakage"
    write_report(folder, table, [*left_out, *lines], any(run.config["synthetic"] for run in runs))
    write_certificates(runs, table, models)
    wrote = f"wrote {folder / 'report.md'} and report.csv"
    for line in (*left_out, *lines, wrote, *draw_leakage(runs, table, models, folder)):
        print(printable(line))
    held = True
    if args.controls:
        from utils.leakage.controls import make_controls

        made = make_controls(runs, passes, folder / "controls", changes)
        write_text(folder / "controls.csv", made.to_csv(index=False, float_format="%.6g"))
        held = made["holds"].all()
        for control in made.itertuples():
            interval = "" if isnan(control.low) else f" [{control.low:.3f}, {control.high:.3f}]"
            verdict = "" if control.holds else ": FAILED"
            about = f"{control.experiment} ({control.sequence}), tested on {control.tested}, {control.attack}"
            print(printable(f"control, {control.control}: {about}: AUC {control.auc:.3f}{interval}{verdict}"))
    sys.exit(bool(left_out) or not held)


if __name__ == "__main__":
    main()
