"""Print the paper's table from what the runs wrote, and draw its figures."""

import argparse
from pathlib import Path

from utils.errors import UserError, one_line_errors
from utils.kemdy import CORPORA
from utils.results import METHODS, find_runs, majority_cell, score_table

COLUMNS = {"task_a": "task_a(original)", "adapter_wo_pretraining": "adapter_wo_pretrain"}
TITLES = {"f1_weighted": "Weighted F1", "f1_macro": "Macro F1"}


def cell_text(cell):
    """``0.7039 ± 0.0089 (5)``: mean and standard deviation over folds, and how many folds; a dash where nothing is."""
    if cell is None:
        return "-"
    spread = "" if cell.std is None else f" ± {cell.std:.4f}"
    return f"{cell.mean:.4f}{spread} ({len(cell.per_fold)})"


def table_text(runs, metric, markdown):
    """One table as lines of text: a row for the corpus that is tested, a column for each setting, and the floor below."""
    table = score_table(runs, metric)
    rows = [["tested on", *(COLUMNS.get(method, method) for method in METHODS)]]
    rows += [[task, *(cell_text(cell) for cell in table[task].values())] for task in CORPORA]
    if markdown:
        rows.insert(1, ["---"] * len(rows[0]))
        lines = ["| " + " | ".join(row) + " |" for row in rows]
    else:
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    floors = ", ".join(f"{task} {cell_text(majority_cell(runs, task, metric))}" for task in CORPORA)
    return [*lines, "", f"Always answering the training split's commonest label: {floors}."]


def caption(runs):
    """What a reader must know to read the numbers."""
    seeds = sorted({run.config["seed"] for run in runs})
    over = f"means over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else "scores"
    lines = [
        f"Mean ± standard deviation over folds of the test {over} (number of folds). A row is the corpus tested: finetune and "
        "ewc learned it first and the other corpus after it; adapter columns are the row's own adapter."
    ]
    if any(run.config["synthetic"] for run in runs):
        lines.insert(0, "SYNTHETIC corpora or encoders: a demonstration, not a result.")
    return lines


@one_line_errors
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_root", type=Path, default=Path("outputs"), help="folder that the experiments were written to")
    parser.add_argument("--format", choices=("text", "markdown"), default="text", help="form of the tables")
    parser.add_argument(
        "--figures",
        type=Path,
        nargs="?",
        const=Path("figures"),
        metavar="FOLDER",
        help="also draw; without a FOLDER into figures/, or figures/demo/ where the runs are synthetic",
    )
    args = parser.parse_args()
    if not args.output_root.is_dir():
        raise UserError(
            f"--output_root {args.output_root}: there is no such folder; the run scripts make it (bash run-init.sh)"
        )

    runs, others = find_runs(args.output_root)
    heading = "### " if args.format == "markdown" else ""
    for metric, title in TITLES.items():
        print(f"{heading}{title}\n")
        print("\n".join(table_text(runs, metric, args.format == "markdown")) + "\n")
    if not runs:
        print(f"No finished run under {args.output_root}: bash run-init.sh makes the first, bash run-demo.sh a demonstration.")
        return
    print("\n\n".join(caption(runs)))
    if others:
        print(f"\nExperiments under other names, not in the tables: {', '.join(others)}.")
    if args.figures:
        # Drawing is loaded only where it is asked for.
        from utils.figures import draw_forgetting

        folder = args.figures
        if folder == Path("figures") and any(run.config["synthetic"] for run in runs):
            folder /= "demo"
        print(f"\nwrote {draw_forgetting(runs, folder)}")


if __name__ == "__main__":
    main()
