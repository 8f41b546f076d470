"""KEMDy19 and KEMDy20 on disk → one table of utterances. ``python -m utils.kemdy data/KEMDy19`` audits a copy.

Both corpora are laid out as ``annotation/*.csv`` and ``wav/**/<segment id>.wav`` with a ``.txt`` transcript beside each
wav. What differs stands in FORMATS; everything else is read by the same code. Nothing is dropped silently: every
annotation row is either in the table or counted under the reason that kept it out.
"""

import argparse
import csv
import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from utils.errors import UserError, one_line_errors
from utils.files import SYNTHETIC_MARKER
from utils.folds import SPLITS, session_folds, split_utterances
from utils.wavs import SAMPLE_RATE, WavHeader, index_wavs

# The order of the published class indices.
EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
CORPORA = ("KEMDy19", "KEMDy20")
# KEMDy20's annotations spell one label differently.
SPELLINGS = {"disqust": "disgust"}
COLUMNS = ("segment_id", "session", "speaker", "emotion", "wav_path", "text", "duration")
# In this order a row is examined; it is counted under the first that holds.
DROP_REASONS = (
    "malformed id",
    "id of another session",
    "other speaker's file",
    "duplicate id",
    "several labels",
    "no label",
    "unknown label",
    "no wav",
    "no transcript",
    "transcript in neither encoding",
    "unreadable wav",
)
# Transcription marks: a letter and a slash (noise, breath, fillers), a cut or repeated word, an aside's brackets.
TAGS_ONLY = re.compile(r"(?:[A-Za-z]/|[*+/().,?!\s])+")
# UTF-8 first: CP949 accepts many UTF-8 texts and turns them into noise, the other way round it fails.
ENCODINGS = ("utf-8-sig", "cp949")


@dataclass(frozen=True)
class CorpusFormat:
    """What differs between the corpora: names of annotation files, form of segment ids, and the counts of the real one."""

    annotation_name: re.Pattern
    annotation_example: str
    segment_id: re.Pattern
    sessions: int
    usable: int
    test_sizes: tuple

    def speaker(self, match):
        """Name of the speaker within the corpus, from a matched segment id."""
        groups = match.groupdict()
        return groups.get("user") or f"Sess{groups['session']}_{groups['sex']}"


FORMATS = {
    "KEMDy19": CorpusFormat(
        re.compile(r"Session(?P<session>0[1-9]|1\d|20)_(?P<sex>[FM])_res\.csv"),
        "Session01_F_res.csv",
        re.compile(r"Sess(?P<session>\d\d)_(?:script0[1-6]|impro0[1-4])_(?P<sex>[FM])\d{3}"),
        20,
        9_627,
        (1978, 1891, 1871, 1872, 2015),
    ),
    "KEMDy20": CorpusFormat(
        re.compile(r"Sess(?P<session>0[1-9]|[1-3]\d|40)_eval\.csv"),
        "Sess01_eval.csv",
        re.compile(r"Sess(?P<session>\d\d)_script0[1-6]_(?P<user>User0[0-8]\d(?P<sex>[FM]))_\d{3}"),
        40,
        12_828,
        (2513, 2769, 2481, 2497, 2568),
    ),
}


@dataclass
class Corpus:
    """One corpus as read from disk.

    Attributes:
        name: KEMDy19 or KEMDy20, recognised from the annotation files' names.
        root: the corpus folder.
        utterances: the usable utterances, a table with COLUMNS (duration in seconds), in annotation order.
        sessions: sorted session numbers that have an annotation file.
        rows: annotation rows read; the usable utterances and the dropped rows add up to it.
        dropped: rows by DROP_REASONS.
        notes: what was kept, but is worth knowing, with counts.
        unreadable: (path, reason) of every wav that is needed and cannot be used.
        unreadable_transcripts: the same of transcripts; their rows are dropped, and training goes on without them.
        synthetic: True for a made corpus (one with a file SYNTHETIC at its top).
    """

    name: str
    root: Path
    utterances: pd.DataFrame
    sessions: list
    rows: int
    dropped: dict
    notes: dict
    unreadable: list
    unreadable_transcripts: list
    synthetic: bool

    def warnings(self):
        """What a user should hear before training on this copy, as lines."""
        lines = [f"left out, transcript {path} {reason}" for path, reason in self.unreadable_transcripts]
        known = FORMATS[self.name].sessions
        if not self.synthetic and len(self.sessions) != known:
            lines.append(f"{len(self.sessions)} of {known} sessions are here: the folds are not the published ones")
        return lines

    def require_readable_wavs(self):
        """Raise UserError that lists every wav which training would stumble over."""
        if self.unreadable:
            listing = "; ".join(f"{path}: {reason}" for path, reason in self.unreadable)
            raise UserError(
                f"{len(self.unreadable)} wav file(s) of {self.name} cannot be used (copy them again, or remove them to leave "
                f"their utterances out): {listing}"
            )


def find_corpus(data_root, name):
    """Folder of a corpus: ``data_root/KEMDy19``, or the one ``data_root/KEMDy19_v*``.

    Raises:
        UserError: if there is none, or if several versions leave a choice.
    """
    data_root = Path(data_root)
    exact = data_root / name
    if exact.is_dir():
        return exact
    versions = sorted(path for path in data_root.glob(f"{name}_v*") if path.is_dir())
    if len(versions) > 1:
        raise UserError(f"{data_root} holds {', '.join(path.name for path in versions)}: rename the one to use to {name}")
    if not versions:
        raise UserError(f"no corpus at {exact}: see data/README.md for where to get it, or name another --data_root")
    return versions[0]


def read_corpus(root, progress=True):
    """Read KEMDy19 or KEMDy20, whichever lies at ``root``.

    Args:
        root: the corpus folder, with ``annotation/`` and ``wav/`` in it.
        progress: show a bar when wavs are looked at for the first time.

    Returns:
        A Corpus.

    Raises:
        UserError: if the folder, its annotations or their columns are not those of the corpora; the line names the file.
    """
    root = Path(root)
    name, annotations = _find_annotations(root)
    corpus_format = FORMATS[name]
    wavs, transcripts, shadowed = _find_recordings(root / "wav")
    dropped, notes = Counter(), Counter({"shadowed files": shadowed} if shadowed else {})
    rows, candidates, seen = 0, [], set()
    for path, file_match in annotations:
        session = int(file_match["session"])
        for segment_id, label in _read_annotation(path):
            rows += 1
            match = corpus_format.segment_id.fullmatch(segment_id)
            mended = False
            if match and int(match["session"]) != session:
                # The first release of KEMDy20 numbers a whole session's ids wrongly; the files beside it are right.
                segment_id = f"Sess{session:02d}_{segment_id.split('_', 1)[1]}"
                match = corpus_format.segment_id.fullmatch(segment_id)
                mended = segment_id in wavs
                if not mended:
                    dropped["id of another session"] += 1
                    continue
            reason, emotion = _examine_row(match, file_match, segment_id, label, seen)
            if reason is None and segment_id not in wavs:
                reason = "no wav"
            if reason is None and segment_id not in transcripts:
                reason = "no transcript"
            notes["ids mended"] += mended
            if reason is None:
                candidates.append((segment_id, session, corpus_format.speaker(match), emotion))
            else:
                dropped[reason] += 1

    texts = _read_transcripts([transcripts[segment_id] for segment_id, *_ in candidates])
    readable, unreadable_transcripts = [], []
    for candidate, (text, encoding) in zip(candidates, texts):
        if encoding in ENCODINGS:
            readable.append((*candidate, text, encoding))
            continue
        dropped["no transcript" if encoding else "transcript in neither encoding"] += 1
        reason = f"cannot be read ({encoding})" if encoding else "is neither in UTF-8 nor in CP949"
        unreadable_transcripts.append((transcripts[candidate[0]], reason))

    headers = index_wavs(root, [wavs[segment_id] for segment_id, *_ in readable], progress)
    utterances, unreadable = [], []
    for segment_id, session, speaker, emotion, text, encoding in readable:
        header = headers[wavs[segment_id]]
        if not isinstance(header, WavHeader):
            dropped["unreadable wav"] += 1
            unreadable.append((wavs[segment_id], header))
            continue
        notes["CP949 transcripts"] += encoding == "cp949"
        notes["empty transcripts"] += text == ""
        notes["tags-only transcripts"] += bool(TAGS_ONLY.fullmatch(text))
        notes["wavs with several channels"] += header.channels > 1
        notes["wavs not at 16 kHz"] += header.samplerate != SAMPLE_RATE
        utterances.append((segment_id, session, speaker, emotion, wavs[segment_id], text, header.duration))
    return Corpus(
        name=name,
        root=root,
        utterances=pd.DataFrame(utterances, columns=list(COLUMNS)),
        sessions=sorted({int(match["session"]) for _, match in annotations}),
        rows=rows,
        dropped={reason: dropped[reason] for reason in DROP_REASONS if dropped[reason]},
        notes={note: count for note, count in sorted(notes.items()) if count},
        unreadable=unreadable,
        unreadable_transcripts=unreadable_transcripts,
        synthetic=(root / SYNTHETIC_MARKER).exists(),
    )


def _find_annotations(root):
    """Name of the corpus and its annotation files, as (path, match of the file name), in order of session and letter."""
    if not root.is_dir():
        raise UserError(f"no corpus folder at {root}: see data/README.md for where to get the corpora")
    for part in ("annotation", "wav"):
        if not (root / part).is_dir():
            raise UserError(f"{root} has no folder {part}/: it should hold annotation/ and wav/ of KEMDy19 or KEMDy20")
    files = sorted((root / "annotation").glob("*.csv"))
    found = {
        name: [(path, match) for path in files if (match := corpus_format.annotation_name.fullmatch(path.name))]
        for name, corpus_format in FORMATS.items()
    }
    names = [name for name in CORPORA if found[name]]
    if len(names) != 1:
        examples = " or ".join(f"{FORMATS[name].annotation_example} ({name})" for name in CORPORA)
        problem = "annotation files of both corpora" if names else "no annotation file"
        raise UserError(f"{root / 'annotation'} holds {problem}: expected names like {examples}")
    annotations = found[names[0]]
    if names[0] == "KEMDy19":
        # A speaker's labels stand in that speaker's own file, so half of a session would be lost without notice.
        present = {(match["session"], match["sex"]) for _, match in annotations}
        for session, sex in sorted(present):
            partner = (session, "M" if sex == "F" else "F")
            if partner not in present:
                missing = root / "annotation" / f"Session{partner[0]}_{partner[1]}_res.csv"
                raise UserError(f"{missing} is missing: copy it again (each speaker's labels stand in their own file)")
    return names[0], annotations


def _find_recordings(wav_root):
    """Paths by stem, of wavs and of transcripts, and how many deeper twins were passed over (as in ``converted/``)."""
    found, shadowed = {".wav": {}, ".txt": {}}, 0
    visited = set()
    for folder, subfolders, files in os.walk(wav_root, followlinks=True):
        subfolders.sort()
        if (real := os.path.realpath(folder)) in visited:  # a link back up would be walked for ever
            subfolders.clear()
            continue
        visited.add(real)
        depth = len(Path(folder).parts)
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            by_stem = found.get(suffix.lower())
            if by_stem is None or file.startswith("."):
                continue
            shadowed += stem in by_stem
            if stem not in by_stem or depth < by_stem[stem][0]:
                by_stem[stem] = (depth, os.path.join(folder, file))
    wavs, transcripts = ({stem: path for stem, (_, path) in found[suffix].items()} for suffix in (".wav", ".txt"))
    return wavs, transcripts, shadowed


def _read_annotation(path):
    """(segment id, majority label) of every row; columns are found by their names in the two header rows."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error}); copy it again") from None
    if len(rows) < 2:
        raise UserError(f"{path}: no header of two rows; copy it again")
    first, second = ([cell.strip() for cell in row] for row in rows[:2])
    try:
        id_column, label_column = first.index("Segment ID"), first.index("Total Evaluation")
        if second[label_column] != "Emotion":
            raise ValueError
    except (ValueError, IndexError):
        raise UserError(
            f"{path}: the two header rows have no columns 'Segment ID' and 'Total Evaluation' / 'Emotion'; "
            "this is not an annotation file of KEMDy19 or KEMDy20"
        ) from None
    labels = []
    for number, row in enumerate(rows[2:], start=3):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < len(first) or any(cell.strip() for cell in row[len(first) :]):
            raise UserError(f"{path}: row {number} has {len(row)} cells where the header has {len(first)}; copy the file again")
        labels.append((row[id_column].strip(), row[label_column]))
    return labels


def _examine_row(match, file_match, segment_id, label, seen):
    """(reason to drop the row or None, emotion or None), by what the annotation alone says."""
    if not match:
        return "malformed id", None
    # The letter of the FILE's name against that of the ID: rows of the other speaker hold the listener's emotion.
    if "sex" in file_match.groupdict() and match["sex"] != file_match["sex"]:
        return "other speaker's file", None
    if segment_id in seen:
        return "duplicate id", None
    seen.add(segment_id)
    emotions = [name.strip().lower() for name in label.split(";") if name.strip()]
    if len(emotions) != 1:
        return ("several labels" if emotions else "no label"), None
    emotion = SPELLINGS.get(emotions[0], emotions[0])
    return (None, emotion) if emotion in EMOTIONS else ("unknown label", None)


def _read_transcripts(paths):
    """(first line, encoding) of each; (None, None) where it is in neither encoding, (None, why) where it cannot be read."""
    # Threads wait for network storage together; a hundred files each time, or handing them out takes longer than reading.
    chunks = [paths[start : start + 100] for start in range(0, len(paths), 100)]
    with ThreadPoolExecutor(8) as pool:
        return [text for chunk in pool.map(lambda chunk: list(map(_read_transcript, chunk)), chunks) for text in chunk]


def _read_transcript(path):
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return None, error.strerror
    for encoding in ENCODINGS:
        try:
            return re.split("\r\n|\n|\r", content.decode(encoding))[0].strip(), encoding
        except UnicodeDecodeError:
            continue
    return None, None


def audit(corpus, folds):
    """Text of an audit: what was read, kept and dropped, and how it compares with the real corpus.

    Args:
        corpus: a Corpus.
        folds: the result of ``session_folds``, or a str that says why there are none.
    """
    known, utterances = FORMATS[corpus.name], corpus.utterances

    def compared(count, expected):
        return "as known for the real corpus" if count == expected else f"the real corpus has {expected:,}"

    def counts(title, table, total=None):
        lines = [title] + [
            f"  {name:<32}{count:>8,}" + (f"{count / total:>8.1%}" if total else "") for name, count in table.items()
        ]
        return lines if table else [title, "  none"]

    lines = [f"{corpus.name} at {corpus.root}" + (" (SYNTHETIC, made by a program)" if corpus.synthetic else "")]
    lines += [f"  {'annotation rows':<32}{corpus.rows:>8,}", f"  {'sessions':<32}{len(corpus.sessions):>8,}"]
    usable = f"  {'usable utterances':<32}{len(utterances):>8,}   {compared(len(utterances), known.usable)}"
    lines += [usable, *counts("dropped, by reason", corpus.dropped), *counts("kept, but worth knowing", corpus.notes)]
    labels = utterances["emotion"].value_counts()
    lines += counts("labels", {emotion: int(labels.get(emotion, 0)) for emotion in EMOTIONS}, max(len(utterances), 1))
    seconds = utterances["duration"]
    if len(seconds):
        quantiles = ", ".join(f"{name} {seconds.quantile(q):.2f}" for name, q in zip(("median", "95 %"), (0.5, 0.95)))
        lines += [
            "durations in seconds",
            f"  shortest {seconds.min():.2f}, mean {seconds.mean():.2f}, {quantiles}, longest {seconds.max():.2f}, "
            f"{seconds.sum() / 3600:.2f} hours in all",
        ]
    lines += [f"unreadable wav: {path}: {reason}" for path, reason in corpus.unreadable]
    lines += corpus.warnings()
    if isinstance(folds, str):
        return "\n".join([*lines, f"folds: none, {folds}"])
    lines.append(f"{len(folds)} folds, session numbers (utterances)")
    as_published = (len(folds), len(corpus.sessions)) == (len(known.test_sizes), known.sessions)
    for index, fold in enumerate(folds):
        splits = split_utterances(utterances, fold)
        comparison = f"   test: {compared(len(splits['test']), known.test_sizes[index])}" if as_published else ""
        lines.append(f"  fold {index}{comparison}")
        for split in SPLITS:
            lines.append(f"    {split:<6}{', '.join(map(str, fold[split]))} ({len(splits[split]):,})")
    return "\n".join(lines)


@one_line_errors
def main():
    parser = argparse.ArgumentParser(prog="python -m utils.kemdy", description="Audit a copy of KEMDy19 or KEMDy20.")
    parser.add_argument("root", help="the corpus folder, with annotation/ and wav/ in it")
    parser.add_argument("--csv", metavar="FILE", help=f"write the usable utterances as a table: {', '.join(COLUMNS)}")
    parser.add_argument("--folds-json", metavar="FILE", help="write the folds' session numbers as JSON")
    parser.add_argument("--k_fold", type=int, default=5, help="number of folds (default: %(default)s)")
    args = parser.parse_args()

    corpus = read_corpus(args.root)
    try:
        folds = session_folds(corpus.sessions, args.k_fold)
    except UserError as error:
        if args.folds_json:
            raise
        folds = str(error)
    print(audit(corpus, folds))
    try:
        if args.csv:
            corpus.utterances.to_csv(args.csv, index=False)
        if args.folds_json:
            named = {str(index): fold for index, fold in enumerate(folds)}
            Path(args.folds_json).write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename or args.csv}: {error.strerror or error}") from None


if __name__ == "__main__":
    main()
