"""``python -m utils.data.audit data/NAME``: a corpus's contents and faults, and whether it can be trained on."""

import sys

from utils.data import SPLITS
from utils.data.corpus import folds, read_folder
from utils.data.folds import split_utterances
from utils.data.utterances import COLUMNS, SHOWN, Fault, unknown_labels
from utils.errors import UserError, one_line_errors, printable
from utils.files import atomic_write, refuse_tracked, spreadsheet_safe, write_json
from utils.flags import Parser, named_path, positive_int


def audit(corpus, found_folds):
    """Lines of an audit: what was read, kept and dropped; for a real copy of KEMDy compared with the published counts.

    Args:
        corpus: a Corpus.
        found_folds: the result of ``folds``, or the reason (str) why there are none.
    """
    utterances = corpus.utterances
    known = None  # of the real KEMDy
    if corpus.is_kemdy and not corpus.synthetic:
        from utils.data.kemdy import FORMATS

        known = FORMATS[corpus.release]
    groups = "splits" if corpus.given_splits else "sessions" if corpus.is_kemdy else "sessions or speakers"
    usable = f"  {'usable utterances':<40}{len(utterances):>8,}"
    labels = utterances["emotion"].value_counts()
    lines = [
        f"{corpus.name} at {corpus.root}" + (" (SYNTHETIC, made by a program)" if corpus.synthetic else ""),
        *(f"  {key}: {text}" for key, text in corpus.about.items()),
        f"  {'annotation rows':<40}{corpus.rows:>8,}",
        f"  {groups:<40}{len(corpus.sessions):>8,}",
        usable + (f"   {_compared(len(utterances), known.usable)}" if known else ""),
        *_counts("dropped, by reason", corpus.dropped),
        *_counts("kept, but worth knowing", corpus.notes),
        *_counts("labels", {label: int(labels.get(label, 0)) for label in corpus.labels}, max(len(utterances), 1)),
    ]
    seconds = utterances["duration"]
    if len(seconds):
        quantiles = ", ".join(f"{name} {seconds.quantile(q):.2f}" for name, q in zip(("median", "95 %"), (0.5, 0.95)))
        lines += [
            "durations in seconds",
            f"  shortest {seconds.min():.2f}, mean {seconds.mean():.2f}, {quantiles}, longest {seconds.max():.2f}, "
            f"{seconds.sum() / 3600:.2f} hours in all",
        ]
    lines += [*_fault_lines(corpus), *corpus.missing_sessions()]
    if isinstance(found_folds, str):
        return [*lines, f"folds: none, {found_folds}"]
    return lines + _fold_lines(corpus, found_folds, known)


def _compared(count, expected):
    return "as known for the real corpus" if count == expected else f"the real corpus has {expected:,}"


def _counts(title, table, total=None):
    lines = [f"  {name:<40}{count:>8,}" + (f"{count / total:>8.1%}" if total else "") for name, count in table.items()]
    return [title, *(lines or ["  none"])]


def _fault_lines(corpus):
    """The faults by kind, a few of each."""
    lines = ["faults" if corpus.faults else "no faults"]
    by_kind = {}
    for fault in corpus.faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    for kind, faults in by_kind.items():
        lines.append(f"  {kind}")
        for _, file, row, segment_id, what in faults[:SHOWN]:
            place = file + (f", row {row}" if row else "") + (f", {segment_id}" if segment_id not in file else "")
            lines.append(f"    {place}: {what}")
        if len(faults) > SHOWN:
            lines.append(f"    … and {len(faults) - SHOWN:,} more (--faults FILE.csv writes all)")
    return lines


def _fold_lines(corpus, found_folds, known):
    if corpus.given_splits:
        sizes = corpus.utterances["session"].value_counts()
        return [
            "1 fold, the splits that are given (utterances)",
            *(f"    {name:<6}({sizes.get(name, 0):,})" for name in SPLITS),
        ]
    lines = [f"{len(found_folds)} folds, sessions{'' if corpus.is_kemdy else ' or speakers'} (utterances)"]
    as_published = known and (len(found_folds), len(corpus.sessions)) == (len(known.test_sizes), known.sessions)
    for index, fold in enumerate(found_folds):
        splits = split_utterances(corpus.utterances, fold)
        comparison = f"   test: {_compared(len(splits['test']), known.test_sizes[index])}" if as_published else ""
        lines.append(f"  fold {index}{comparison}")
        lines += [f"    {split:<6}{', '.join(map(str, fold[split]))} ({len(splits[split]):,})" for split in SPLITS]
    return lines


def blocking(corpus, found_folds):
    """Reasons why a training run would refuse the corpus, as lines."""
    lines = []
    if corpus.unknown_labels:
        lines.append(unknown_labels(corpus.root, corpus.unknown_labels))
    if corpus.unreadable:
        lines.append(f"{len(corpus.unreadable):,} wav file(s) cannot be used (--skip_bad_files trains without them)")
    if corpus.utterances.empty:
        lines.append("no utterance is usable")
    elif isinstance(found_folds, str):
        lines.append(found_folds)
    else:
        used = set(corpus.utterances["session"])
        places = ((index, split) for index in range(len(found_folds)) for split in SPLITS)
        empty = [(split, index) for index, split in places if used.isdisjoint(found_folds[index][split])]
        lines += [f"the {split} split of fold {index} has no usable utterance" for split, index in empty[:1]]
    return lines


def _write_tables(args, corpus, found_folds):
    """Write the tables requested by flags."""
    import pandas as pd

    faults = pd.DataFrame(corpus.faults, columns=list(Fault._fields))
    for path, table in ((args.csv, corpus.utterances), (args.faults, faults)):
        if path:
            with atomic_write(path) as file:
                file.write(table.map(spreadsheet_safe).to_csv(index=False).encode(errors="surrogateescape"))
    if args.folds_json:
        write_json(args.folds_json, {str(index): fold for index, fold in enumerate(found_folds)})


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.data.audit",
        description="Audit a corpus: KEMDy19, KEMDy20, or your own. The last line states whether it can be trained on (exit "
        "code 0) or not (1).",
        epilog="The tables contain transcripts or ids, so they are only written to files that git ignores. A cell that a "
        "spreadsheet would interpret as a formula is prefixed with an apostrophe.",
        example="python -m utils.data.audit data/KEMDy19",
    )
    parser.add_argument("root", type=named_path, help="the corpus folder, such as data/KEMDy19")
    for flag, what in (
        ("--csv", f"write the usable utterances as a table: {', '.join(COLUMNS)}"),
        ("--faults", f"write all faults as a table: {', '.join(Fault._fields)}"),
        ("--folds-json", "write the folds' sessions as JSON"),
    ):
        parser.add_argument(flag, metavar="FILE", type=named_path, help=what)
    parser.add_argument("--k_fold", type=positive_int, default=5, help="number of folds")
    args = parser.parse_args()

    for path in filter(None, (args.csv, args.faults)):
        refuse_tracked(path)
    try:
        corpus = read_folder(args.root)
    except UserError as error:
        raise UserError(f"NOT ready to train: {error}") from None
    try:
        found_folds = folds(corpus, args.k_fold)
    except UserError as error:
        if args.folds_json:
            raise
        found_folds = str(error)
    print(printable("\n".join(audit(corpus, found_folds))))
    _write_tables(args, corpus, found_folds)
    lines = blocking(corpus, found_folds)
    notes = len(corpus.dropped) + len(corpus.notes)
    verdict = f"{len(lines)} blocking, {notes} note{'s' * (notes != 1)}"
    verdict = f"NOT ready to train: {verdict}: {'; '.join(lines)}" if lines else f"OK to train: {verdict}"
    print(printable(verdict).replace("\n", " "))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
