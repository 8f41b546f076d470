"""Predict the emotions of recordings with a model given as run folder, exported file or hub name (docs/predict.md)."""

import csv
import json
import os
import sys

from utils.errors import UserError, one_line_errors, printable
from utils.files import refuse_tracked, spreadsheet_safe
from utils.flags import Parser, named_path, positive_int
from utils.training.arguments import add_encoder_flags, add_machine_flags

# torch is imported within functions to keep --help fast.

FORMATS = (".csv", ".jsonl")


def load_predictor(*models, adapter=None, calibrated=False, text_model=None, speech_model=None, device=None, batch_size=16):
    """Load one model, or several adapters over the same encoders, to predict the emotions of recordings.

    >>> load_predictor("task_a.safetensors").predict(["a.wav", "b.flac"], ["안녕하세요", "그만해"])

    Args:
        models: run folders, exported files, or ``hub:OWNER/NAME``.
        adapter: how to predict with several adapters: a task name selects its adapter; "routed" selects by the nearest
            training-split centre; "entropy" by the lowest prediction entropy; "mean" averages their probabilities.
        calibrated: divide logits by the temperature fitted on the model's validation split.
        text_model, speech_model: hub names or folders of the encoders that the adapters were trained on. By default they are
            taken from the hub's cache; nothing is downloaded that is not named here.
        device: such as "cuda" or "cpu"; a GPU by default, if available.
        batch_size: recordings per batch.

    Returns:
        A Predictor; its ``predict(files, texts)`` returns a pandas DataFrame with a row for each file.

    Raises:
        UserError: if a model cannot be used, or the models cannot be combined.
    """
    if not models:
        raise ValueError("load_predictor needs a model: a run folder, an exported file, or hub:OWNER/NAME")
    from utils.training.predictor import load

    return load(models, adapter, calibrated, text_model, speech_model, device, batch_size)


def parse_args():
    parser = Parser(
        description=__doc__,
        epilog="A file that cannot be used gives a row with its error, and exit code 1. In a .csv, a cell that a spreadsheet "
        "would interpret as a formula is prefixed with an apostrophe.",
        example="python predict.py model.safetensors --wav a.wav --text '정말 기뻐'",
    )
    parser.add_argument(
        "models", nargs="+", type=named_path, metavar="MODEL", help="run folder, exported file, or hub:OWNER/NAME"
    )
    recordings = parser.add_mutually_exclusive_group(required=True)
    recordings.add_argument("--wav", nargs="+", metavar="FILE", help="audio files of any format, sample rate and channel count")
    recordings.add_argument(
        "--csv", type=named_path, metavar="FILE", help="table of recordings: file_name, optionally transcription, start, end"
    )
    parser.add_argument("--text", nargs="+", metavar="TEXT", help="the transcript of each --wav")
    parser.add_argument("--output", type=named_path, metavar="FILE", help="write the table to this .csv or .jsonl file")
    parser.add_argument("--adapter", metavar="NAME", help="how to use several adapters: a task name, routed, entropy or mean")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--windows", action="store_true", help="average over windows if a recording exceeds the model's max length"
    )
    parts.add_argument("--segments", action="store_true", help="one row per window")
    parser.add_argument("--calibrated", action="store_true", help="apply the temperature fitted on the validation split")
    machine = parser.add_argument_group("encoders and machine")
    add_encoder_flags(machine, "%s encoder that adapters were trained on")
    machine.add_argument("--batch_size", type=positive_int, default=16, help="recordings per batch")
    add_machine_flags(machine)
    args = parser.parse_args()
    if args.text and len(args.text) != len(args.wav or []):
        parser.error(f"--text: {len(args.text)} texts for {len(args.wav or [])} --wav: give one for each, or none")
    if args.output:
        _require_writable(args)
    return args


def _require_writable(args):
    path = args.output
    if path.suffix not in FORMATS:
        raise UserError(f"--output {path}: the name must end in {' or '.join(FORMATS)}")
    if path.is_dir() or not os.access(path.resolve().parent, os.W_OK):
        raise UserError(f"--output {path} cannot be written: name a file in an existing, writable folder")
    if args.csv and path.exists() and args.csv.exists() and path.samefile(args.csv):
        raise UserError(f"--output {path} is the table that --csv names: name another file")
    refuse_tracked(path)


def write_table(path, columns, chunks):
    """Write rows as they arrive, so that an interrupted call keeps the finished ones.

    Args:
        path: a .csv or .jsonl file.
        columns: their names, in order.
        chunks: lists of ``{column: value}``.

    Returns:
        The number of rows, and how many of them have an error.
    """
    rows = errors = 0
    # File names need not be UTF-8.
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        if path.suffix == ".csv":
            table.writeheader()
        for chunk in chunks:
            for row in chunk:
                if path.suffix == ".csv":
                    table.writerow({column: spreadsheet_safe(value) for column, value in row.items()})
                else:
                    file.write(json.dumps({column: row.get(column) for column in columns}, ensure_ascii=False) + "\n")
            file.flush()
            rows, errors = rows + len(chunk), errors + sum(bool(row["error"]) for row in chunk)
    return rows, errors


def print_table(columns, chunks):
    """Print the rows, without probabilities and empty columns. Returns how many have an error."""
    rows = [row for chunk in chunks for row in chunk]
    shown = [
        column for column in columns if not column.startswith("p_") and any(row.get(column) not in (None, "") for row in rows)
    ]
    lines = [shown, *([_cell(row.get(column, "")) for column in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    return sum(bool(row["error"]) for row in rows)


def _cell(value):
    return f"{value:.3f}" if isinstance(value, float) else printable(value).replace("\n", " ")


@one_line_errors
def main():
    args = parse_args()
    from collections import Counter

    from utils.data.recordings import read_recordings, recordings_of
    from utils.training.predictor import load

    recordings = read_recordings(args.csv) if args.csv else recordings_of(args.wav, args.text)
    predictor = load(
        args.models,
        args.adapter,
        args.calibrated,
        args.text_model,
        args.speech_model,
        device="cpu" if args.cpu else None,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )
    noted, columns = Counter(), predictor.columns(args.segments)
    chunks = predictor.answers(recordings, noted, args.windows, args.segments)
    if args.output:
        rows, errors = write_table(args.output, columns, chunks)
        print(f"wrote {args.output} ({rows:,} rows, {errors:,} with an error)")
    else:
        errors = print_table(columns, chunks)
    for note in predictor.notes(noted):
        print(f"note: {note}", file=sys.stderr)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
