"""KEMDy19 and KEMDy20 on disk → a Corpus. Everything specific to their format is here.

Both are laid out as ``annotation/*.csv`` and ``wav/**/<segment id>.wav`` with a ``.txt`` transcript beside each wav. FORMATS
has the differences; everything else is read by the same code.
"""

import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from utils.data.judge import Findings, Row, composed, judged, not_text
from utils.data.texts import csv_rows, read_bytes
from utils.data.utterances import NO_ROW, Corpus
from utils.errors import UserError
from utils.methods import KEMDY

# The order of the published class indices.
EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
# KEMDy20's annotations spell one label differently.
SPELLINGS = {"disqust": "disgust"}
# UTF-8 first: CP949 decodes many UTF-8 texts to garbage, whereas decoding CP949 as UTF-8 fails.
ENCODINGS = ("utf-8-sig", "cp949")


@dataclass(frozen=True)
class CorpusFormat:
    """Differences between the corpora: names of annotation files, segment ids, and the real corpus's counts."""

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
        re.compile(r"Session(?P<session>0[1-9]|1\d|20)_(?P<sex>[FM])_res\.csv", re.ASCII),
        "Session01_F_res.csv",
        re.compile(r"Sess(?P<session>\d\d)_(?:script0[1-6]|impro0[1-4])_(?P<sex>[FM])\d{3}", re.ASCII),
        20,
        9_627,
        (1978, 1891, 1871, 1872, 2015),
    ),
    "KEMDy20": CorpusFormat(
        re.compile(r"Sess(?P<session>0[1-9]|[1-3]\d|40)_eval\.csv", re.ASCII),
        "Sess01_eval.csv",
        re.compile(r"Sess(?P<session>\d\d)_script0[1-6]_(?P<user>User0[0-8]\d(?P<sex>[FM]))_\d{3}", re.ASCII),
        40,
        12_828,
        (2513, 2769, 2481, 2497, 2568),
    ),
}


def read_kemdy(root, name=None, progress=True):
    """Read KEMDy19 or KEMDy20, detected from the files in ``root``, with a progress bar when wavs are indexed.

    ``name`` defaults to the detected corpus; under KEMDy's names it must be that corpus.

    Raises UserError if the folder, its annotations or their columns are not as expected; the message names the file.
    """
    release, annotations, others = _find_annotations(root)
    if name in KEMDY and name != release:
        raise UserError(f"{root} holds the annotations of {release}, not of {name}")
    form, findings = FORMATS[release], Findings()
    wavs, transcripts, shadowed = _find_recordings(root / "wav")
    tables = [(path, match, _read_annotation(path)) for path, match in annotations]
    sessions = sorted({int(match["session"]) for _, match in annotations})
    _note_files(root, form, sessions, others, shadowed, wavs, findings)
    labelled = _judge_annotations(tables, form, wavs, transcripts, sessions, findings)
    rows = _judge_transcripts(labelled, wavs, transcripts, findings)
    return Corpus(
        name=name or release,
        root=root,
        labels=EMOTIONS,
        sessions=sessions,
        given_splits=False,
        rows=sum(len(rows) for *_, rows in tables),
        release=release,
        expected_sessions=form.sessions,
        **judged(root, rows, findings, progress),
    )


def _find_annotations(root):
    """Name of the corpus, its annotation files as (path, match of the file name), sorted, and other tables."""
    for part in ("annotation", "wav"):
        if not (root / part).is_dir():
            raise UserError(f"{root} has no folder {part}/: it should hold annotation/ and wav/ of KEMDy19 or KEMDy20")
    files = sorted(path for path in (root / "annotation").iterdir() if path.suffix.lower() == ".csv" and path.name[0] != ".")
    found = {
        name: [(path, match) for path in files if (match := form.annotation_name.fullmatch(path.name))]
        for name, form in FORMATS.items()
    }
    names = [name for name in FORMATS if found[name]]
    if len(names) != 1:
        examples = " or ".join(f"{form.annotation_example} ({name})" for name, form in FORMATS.items())
        problem = "annotation files of both corpora" if names else "no annotation file"
        raise UserError(f"{root / 'annotation'} holds {problem}: expected names like {examples}")
    annotations = found[names[0]]
    if names[0] == "KEMDy19":
        # A speaker's labels are in that speaker's own file, so half of a session would be lost silently.
        for path, match in annotations:
            partner = path.with_name(f"Session{match['session']}_{'M' if match['sex'] == 'F' else 'F'}_res.csv")
            if partner not in files:
                raise UserError(f"{partner} is missing: copy it again (each speaker's labels are in their own file)")
    return names[0], annotations, sorted(set(files) - {path for path, _ in annotations})


def _find_recordings(wav_root):
    """Paths by stem, of wavs and of transcripts, and deeper duplicates (as in ``converted/``) as (ignored path, used path)."""
    paths, visited = [], set()

    def refuse(error):
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}), and its files would be missed")

    for folder, subfolders, files in os.walk(wav_root, onerror=refuse, followlinks=True):
        subfolders.sort()
        if (real := os.path.realpath(folder)) in visited:  # a link to a parent folder would never end
            subfolders.clear()
            continue
        visited.add(real)
        paths += [os.path.join(folder, file) for file in sorted(files) if not file.startswith(".")]
    found, shadowed = {".wav": {}, ".txt": {}}, []
    for path in sorted(paths, key=lambda path: path.count(os.sep)):
        stem, suffix = os.path.splitext(os.path.basename(path))
        by_stem = found.get(suffix.lower())
        if by_stem is not None and by_stem.setdefault(stem, path) != path:
            shadowed.append((path, by_stem[stem]))
    return found[".wav"], found[".txt"], shadowed


def _read_annotation(path):
    """(row number, segment id, majority label) of every row; columns are found by name in the two header rows."""
    rows = csv_rows(path)
    if len(rows) < 2:
        raise UserError(f"{path}: no header of two rows; copy it again")
    for number, cells in rows:
        if any("\n" in cell or "\r" in cell for cell in cells):  # two stray quotes would swallow the rows between them
            raise UserError(f"{path}: row {number} has a quoted cell with a line end in it; copy the file again")
    names = list(zip(rows[0][1], rows[1][1]))
    id_columns = [column for column, (name, _) in enumerate(names) if name == "Segment ID"]
    label_columns = [column for column, name in enumerate(names) if name == ("Total Evaluation", "Emotion")]
    if len(id_columns) != 1 or len(label_columns) != 1:
        problem = "several" if id_columns and label_columns else "no"
        raise UserError(
            f"{path}: the two header rows have {problem} columns 'Segment ID' and 'Total Evaluation' / 'Emotion'; "
            "this is not an annotation file of KEMDy19 or KEMDy20"
        )
    return [(number, cells[id_columns[0]], cells[label_columns[0]]) for number, cells in rows[2:]]


def _read_transcript(path):
    """(first line, encoding) of a transcript; (None, (drop reason, problem)) if it cannot be used."""
    try:
        content = read_bytes(path)
    except OSError as error:
        return None, ("no transcript", f"cannot be read ({error.strerror})")
    for encoding in ENCODINGS:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if what := not_text(text):
            return None, ("transcript is not text", what)
        return re.split("\r\n|\n|\r", text)[0].strip(), encoding
    what = "is in UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "is neither in UTF-8 nor in CP949"
    return None, ("transcript in neither encoding", what)


def _note_files(root, form, sessions, others, shadowed, wavs, findings):
    """Note the tables and recordings that are not read."""
    for path in others:
        findings.note("files not read", path, "", "", f"is not named like {form.annotation_example}")
    for path, taken in shadowed:
        findings.note("shadowed files", path, "", Path(path).stem, f"{taken} has the same name and is taken")
    recorded = Counter(int(match["session"]) for stem in wavs if (match := form.segment_id.fullmatch(stem)))
    for session in sorted(recorded.keys() - set(sessions)):
        what = f"session {session} has {recorded[session]:,} wavs and no file here"
        findings.note("sessions without annotation", root / "annotation", "", "", what)


def _judge_annotations(tables, form, wavs, transcripts, sessions, findings):
    """(segment id, session, speaker, emotion) of the rows with a usable annotation and both files."""
    labelled, seen = [], set()
    for path, file_match, rows in tables:
        session = int(file_match["session"])
        for number, annotated_id, label in rows:
            segment_id, match, reason = annotated_id, form.segment_id.fullmatch(annotated_id), None
            if match is not None and int(match["session"]) != session:
                # The first release of KEMDy20 has wrong session numbers in one session's ids; the file names are correct.
                segment_id = f"Sess{session:02d}_{annotated_id.split('_', 1)[1]}"
                match = form.segment_id.fullmatch(segment_id)
                if segment_id in wavs:
                    findings.count("ids mended")
                else:
                    reason = "id of another session"
            if reason is None:
                reason, emotion = _judge_row(match, file_match, segment_id, label, seen)
            if reason is None and segment_id not in wavs:
                reason = "no wav"
            if reason is None and segment_id not in transcripts:
                reason = "no transcript"
            if reason is None:
                labelled.append((segment_id, session, form.speaker(match), emotion))
                continue
            shown = {"malformed id": annotated_id, "unknown label": label}.get(reason)
            what = reason if shown is None else f"{reason} {shown[:40]!r}"
            findings.drop(reason, path, number, annotated_id if match else "", what)
    for stem in sorted(wavs.keys() - seen):
        match = form.segment_id.fullmatch(stem)
        if match and int(match["session"]) in sessions:
            findings.note(NO_ROW, wavs[stem], "", stem, "has no row in annotation/, so its label is lost")
    return labelled


def _judge_row(match, file_match, segment_id, label, seen):
    """(reason to drop the row or None, emotion or None), from the annotation alone."""
    if not match:
        return "malformed id", None
    # Compare the letter in the FILE name with that in the ID: rows of the other speaker contain the listener's emotion.
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


def _judge_transcripts(labelled, wavs, transcripts, findings):
    """A Row for each utterance whose transcript is text."""
    with ThreadPoolExecutor(8) as pool:  # threads wait for network storage together
        texts = list(pool.map(_read_transcript, [transcripts[segment_id] for segment_id, *_ in labelled]))
    rows = []
    for (segment_id, session, speaker, emotion), (text, encoding) in zip(labelled, texts):
        place = transcripts[segment_id], ""
        if text is None:
            reason, what = encoding
            findings.drop_transcript(reason, *place, segment_id, what)
            continue
        note = "CP949 transcripts" if encoding == "cp949" else ""
        text = composed(text, findings)
        rows.append(Row(segment_id, session, speaker, emotion, wavs[segment_id], 0.0, None, text, place, note))
    return rows
