"""Your own corpus on disk, metadata.csv or .jsonl and optionally corpus.json → a Corpus (docs/own-corpus.md).

The rules are those of Hugging Face's audiofolder, so that a folder that loads there also loads here.
"""

import json
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.data import SPLITS
from utils.data.judge import Findings, Row, composed, judged, not_text
from utils.data.kemdy import EMOTIONS
from utils.data.texts import csv_rows, utf8_text
from utils.data.utterances import METADATA, SHOWN, Corpus, unknown_labels
from utils.errors import UserError
from utils.files import read_json

# Column → accepted names, in order of preference.
COLUMN_NAMES = {
    "file_name": ("file_name", "path", "wav"),
    "emotion": ("emotion", "label", "emo"),
    "transcription": ("transcription", "text", "transcript"),
    "speaker_id": ("speaker_id", "speaker"),
    "session": ("session",),
    "split": ("split",),
    "start": ("start",),
    "end": ("end",),
    "id": ("id", "segment_id", "key"),
}
NEEDED = ("file_name", "emotion", "transcription")
SETTINGS = "corpus.json"
ABOUT = ("language", "licence", "citation")
LINE_END = re.compile(r"\s*[\r\n]+\s*")
# Not allowed in ids, file names and labels: control characters, line ends and lone surrogates.
NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Metadata(NamedTuple):
    """Content of a metadata file: a table of texts by row number with all of COLUMN_NAMES, "" for missing columns."""

    path: Path
    table: pd.DataFrame
    columns: list  # those of COLUMN_NAMES that are present
    unread: list  # names of other columns


def read_manifest(root, name, progress=True):
    """Read your own corpus, called ``name``, with a progress bar when audio files are indexed.

    Labels that corpus.json neither lists nor maps are in the Corpus's ``unknown_labels``, and their rows are dropped.

    Raises UserError if metadata or corpus.json are malformed; the message names the file and row.
    """
    settings, metadata, findings = read_settings(root), read_metadata(root), Findings()
    labels, emotions, label_reasons = classes(metadata, settings)
    groups = _groups(metadata, findings)
    given_splits = "split" in metadata.columns
    for column in metadata.unread:
        findings.note("columns not read", metadata.path, "", "", f"column {column!r}")
    for key in settings:
        if key not in ("labels", "label_map", *ABOUT):
            findings.note("keys not read", root / SETTINGS, "", "", f"key {key!r}")
    rows = _judge_rows(root, metadata, emotions, label_reasons, groups, findings)
    return Corpus(
        name=name,
        root=root,
        labels=labels,
        sessions=list(SPLITS) if given_splits else sorted({row.session for row in rows}),
        given_splits=given_splits,
        rows=len(metadata.table),
        unknown_labels=_unknown(metadata, label_reasons),
        about={key: settings[key] for key in ABOUT if key in settings},
        **judged(root, rows, findings, progress),
    )


def outline_manifest(root):
    """(labels, given_splits). Raises UserError as ``read_manifest``, and for labels that are neither listed nor mapped."""
    metadata = read_metadata(root)
    labels, _, label_reasons = classes(metadata, read_settings(root))
    if unknown := _unknown(metadata, label_reasons):
        raise UserError(unknown_labels(root, unknown))
    return labels, "split" in metadata.columns


# Reading


def read_settings(root):
    """Content of corpus.json, {} if there is none. Raises UserError if a value has the wrong type."""
    path = root / SETTINGS
    settings = read_json(path) if path.exists() else {}
    labels, label_map = settings.get("labels"), settings.get("label_map", {})

    def check(key, good, wanted):
        if not good:
            raise UserError(f"{path}: {key!r} is not {wanted}")

    def is_name(label):
        return isinstance(label, str) and bool(label.strip())

    if labels is not None:
        check("labels", isinstance(labels, list) and all(map(is_name, labels)), "a list of names")
        check("labels", len(set(labels)) == len(labels) > 1, "a list of two names or more, each once")
    mapped = isinstance(label_map, dict) and all(to is None or is_name(to) for to in label_map.values())
    check("label_map", mapped, 'an object such as {"hap": "happy", "xxx": null}')
    for label, to in label_map.items():
        if labels is not None and to is not None and to not in labels:
            raise UserError(f"{path}: label_map maps {label!r} to {to!r}, which is not among labels")
    for key in ABOUT:
        check(key, isinstance(settings.get(key, ""), str), "a text")
    return settings


def read_metadata(root):
    """Metadata of a corpus folder; cells are stripped texts.

    Raises UserError unless there is exactly one such file, or if it is malformed or lacks a required column.
    """
    found = [root / file for file in METADATA if (root / file).exists()]
    if len(found) != 1:
        raise UserError(f"{root} holds {' and '.join(METADATA) if found else 'no metadata'}: one of them is needed")
    metadata = read_table(found[0])
    if not {"speaker_id", "session", "split"}.intersection(metadata.columns):
        raise UserError(f"{found[0]}: there is no column speaker_id, session or split, one of which folds are made by")
    return metadata


def read_table(path, needed=NEEDED):
    """The columns of COLUMN_NAMES in a .csv or .jsonl file, as Metadata.

    Raises UserError if the file is malformed, or lacks a ``needed`` column.
    """
    header, numbers, rows = (_jsonl_table if path.suffix == ".jsonl" else _csv_table)(path)
    names = [name.strip().lower() for name in header]
    if repeated := [name for name, count in Counter(names).items() if name and count > 1]:
        raise UserError(f"{path}: the column {repeated[0]!r} is there twice; rename one")
    taken = {}
    for meaning, aliases in COLUMN_NAMES.items():
        there = [alias for alias in aliases if alias in names]
        if there:
            taken[there[0]] = meaning
        elif meaning in needed:
            hint = "; are its cells separated by commas?" if len(names) < 2 else ""
            raise UserError(f"{path}: there is no column {meaning} (also read as {' or '.join(aliases[1:])}){hint}")
    columns = list(taken.values())
    table = pd.DataFrame(rows, numbers, names, dtype=object)[list(taken)].set_axis(columns, axis=1)
    unread = [name for name in header if name.strip() and name.strip().lower() not in taken]
    return Metadata(path, table.reindex(columns=list(COLUMN_NAMES), fill_value=""), columns, unread)


def _csv_table(path):
    """(header, row numbers, rows) of a CSV with one header row."""
    rows = csv_rows(path)
    if len(rows) < 2:
        raise UserError(f"{path}: there is no row below a header")
    numbers, cells = zip(*rows)
    return cells[0], numbers[1:], cells[1:]


def _jsonl_table(path):
    """Like ``_csv_table``, for a file with one JSON object per line."""
    objects = {}
    for number, line in enumerate(utf8_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON ({error})") from None
        if not isinstance(found, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        objects[number] = found
    if not objects:
        raise UserError(f"{path}: there is no line with an object")
    header = list(dict.fromkeys(key for found in objects.values() for key in found))
    read = {alias for aliases in COLUMN_NAMES.values() for alias in aliases}
    cells = [name if name.strip().lower() in read else None for name in header]
    rows = [[_json_text(path, number, name, found.get(name)) for name in cells] for number, found in objects.items()]
    return header, list(objects), rows


def _json_text(path, number, name, cell):
    if cell is None or cell != cell:  # null or NaN
        return ""
    if isinstance(cell, (dict, list)):
        raise UserError(f"{path}: line {number}: {name!r} is neither a text nor a number")
    return str(cell).strip()


# Judging


def classes(metadata, settings):
    """The labels in class order, ``{cell: emotion}``, and ``{cell: reason}`` for cells without an emotion.

    Without labels in corpus.json, the classes are those that occur, sorted, or all of KEMDy's if they are a subset.
    """
    label_map = settings.get("label_map", {})
    mapped = {cell: label_map.get(cell, cell) for cell in metadata.table["emotion"].unique()}
    labels = settings.get("labels")
    if labels is None:
        occur = {label for label in mapped.values() if label}
        if not occur:
            raise UserError(f"{metadata.path}: no row has a label")
        labels = EMOTIONS if occur <= set(EMOTIONS) else sorted(occur)
        if len(labels) < 2:
            raise UserError(f"{metadata.path}: all rows have the label {labels[0]!r}, and two are needed")
    if odd := [label for label in labels if NO_NAME.search(label)]:
        raise UserError(f"{metadata.path}: the label {odd[0]!r} holds a control character or a line end")
    emotions = {cell: label for cell, label in mapped.items() if label in labels}
    reasons = {None: "label mapped to null", "": "no label"}
    rest = {cell: reasons.get(to, "unknown label") for cell, to in mapped.items() if cell not in emotions}
    return tuple(labels), emotions, rest


def _unknown(metadata, label_reasons):
    """Labels that corpus.json neither lists nor maps, with counts, the most frequent first."""
    found = Counter(cell for cell in metadata.table["emotion"] if label_reasons.get(cell) == "unknown label")
    return dict(found.most_common())


def _groups(metadata, findings):
    """The fold group of each row: its split, its session or speaker, or a group connected by either."""
    path, table, columns, _ = metadata
    if "split" in columns:
        for number, split in table.loc[~table["split"].isin(SPLITS), "split"].items():
            raise UserError(f"{path}: row {number}: the split {split!r} is none of {', '.join(SPLITS)}")
        splits_of = table.groupby("speaker_id")["split"].nunique()
        for speaker in splits_of.index[splits_of > 1]:
            if speaker:
                findings.note("speakers in several splits", path, "", "", f"has speaker {speaker!r} in several")
        return table["split"]
    if "session" not in columns:
        return table["speaker_id"]
    if "speaker_id" not in columns:
        return table["session"]
    groups = _connected(table["session"], table["speaker_id"])
    for members in sorted(group for group in groups.unique() if len(group) > 1):
        what = f"sessions {', '.join(members[:SHOWN])}{' …' if len(members) > SHOWN else ''} are one group"
        findings.note("sessions that share speakers", path, "", "", f"{what}, for they share speakers")
    names = {group: group[0] if len(group) == 1 else f"{group[0]} and {len(group) - 1:,} more" for group in groups.unique()}
    return groups.map(names)


def _connected(sessions, speakers):
    """For each row the group of sessions connected by shared speakers; a row without a session belongs to its speaker."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = sessions.where(sessions != "", speakers)
    pairs = pd.Series(list(zip(sessions, names)), names.index)
    sessions, speakers = "session " + sessions, "speaker " + speakers
    ends = [sessions.where(sessions != "session ", speakers), speakers.where(speakers != "speaker ", sessions)]
    nodes, found = pd.factorize(np.concatenate(ends))
    graph = coo_array((np.ones(len(names)), nodes.reshape(2, -1)), (len(found), len(found)))
    components = pd.Series(connected_components(graph)[1][nodes[: len(names)]], names.index)
    members = pairs.groupby(components).agg(lambda group: tuple(dict.fromkeys(name for _, name in sorted(set(group)))))
    return components.map(members)


def _judge_rows(root, metadata, emotions, label_reasons, groups, findings):
    """A Row for each row with usable metadata."""
    prefix, rows, seen, own_ids = os.path.join(root, ""), [], set(), "id" in metadata.columns
    for group, cells in zip(groups, metadata.table.itertuples()):
        place, file_name, label = (metadata.path, cells.Index), cells.file_name, cells.emotion
        if is_outside(file_name):
            raise UserError(f"{metadata.path}: row {cells.Index}: {file_name} is outside of the corpus's folder")
        start, end, wrong_span = seconds(cells.start, cells.end)
        segment_id = cells.id if own_ids else os.path.splitext(file_name)[0] + (f"-{start:.3f}" if cells.start else "")
        if not segment_id or NO_NAME.search(segment_id):
            findings.drop("malformed id", *place, "", f"malformed id {segment_id[:40]!r}")
        elif segment_id in seen:
            findings.drop("duplicate id", *place, segment_id)
        elif reason := label_reasons.get(label):
            findings.drop(reason, *place, segment_id, f"{reason} {label[:40]!r}" if label else reason)
        elif not group:
            findings.drop("no speaker", *place, segment_id, "neither a speaker nor a session")
        elif wrong_span:
            findings.drop("unusable start or end", *place, segment_id, wrong_span)
        elif not file_name or NO_NAME.search(file_name):
            findings.drop("no wav", *place, segment_id, f"no wav {file_name!r}")
        elif what := not_text(cells.transcription):
            findings.drop_transcript("transcript is not text", *place, segment_id, what)
        else:
            seen.add(segment_id)
            text = composed(LINE_END.sub(" ", cells.transcription), findings)
            speaker, path = cells.speaker_id, prefix + file_name
            rows.append(Row(segment_id, group, speaker, emotions[label], path, start, end, text, place))
    return rows


def is_outside(file_name):
    """Return whether a relative path leaves its folder."""
    return os.path.isabs(file_name) or ".." in file_name and os.path.normpath(file_name).startswith("..")


def seconds(start, end):
    """Start and end in seconds (end may be None), and the problem with them or ""."""
    try:
        first, last = float(start or 0), float(end or "inf")
    except ValueError:
        return 0.0, None, f"start {start!r} and end {end!r} are not both numbers"
    if not 0 <= first < math.inf or math.isnan(last) or end and last == math.inf:
        return 0.0, None, f"start {start!r} and end {end!r} are not both seconds of a file"
    if first >= last:
        return first, last, f"start {start} is not before end {end}"
    return first, last if end else None, ""
