"""Corpora with faults: each is listed by the audit, and training answers it with one line."""

import csv
import errno
import io
import os
import shutil
import struct
import subprocess
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import flags
from conftest import read as read_json
from lookalike import make_kemdy20

import continual_learning_init
from utils.data import audit, judge
from utils.data.audio import INDEX_NAME, read_waveform
from utils.data.corpus import read_folder
from utils.errors import UserError

# Notes of which the files are not listed.
ONLY_COUNTED = ("ids mended", "CP949 transcripts", "tags-only transcripts", "transcripts composed to NFC")
ID = "Sess01_script01_User001F_001"  # every fault is put into this segment's files or row


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "KEMDy20"
    make_kemdy20(root, sessions=5, utterances=3)
    return root


@pytest.fixture
def copy(whole, tmp_path):
    """A copy to damage: its root, and the files of one segment."""
    return copied(whole, tmp_path / "KEMDy20")


def copied(whole, root):
    shutil.copytree(whole, root)
    folder = root / "wav" / "Session01"
    return SimpleNamespace(
        root=root,
        wav=folder / f"{ID}.wav",
        txt=folder / f"{ID}.txt",
        csv=root / "annotation" / "Sess01_eval.csv",
        folder=folder,
    )


def read(root):
    corpus = read_folder(root, progress=False)
    assert corpus.rows == len(corpus.utterances) + sum(corpus.dropped.values())
    by_kind = Counter(fault.kind for fault in corpus.faults)
    for kind, count in (corpus.dropped | corpus.notes).items():
        if kind not in (*judge.BY_DESIGN, *ONLY_COUNTED):
            assert by_kind[kind] == count
    return corpus


def noted(corpus):
    """The notes, without that of the encoding which all transcripts of the corpus have."""
    return {note: count for note, count in corpus.notes.items() if note != "CP949 transcripts"}


# Wavs


def riff(samples=8_000, rate=16_000, channels=1, announced=None, riff_size=None, code=1):
    """A wav of 16 bit whose header says what it is told to."""
    sound = (9_000 * np.sin(np.arange(samples * channels) / 9)).astype("<i2").tobytes()
    announced = len(sound) if announced is None else announced
    header = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, 2 * channels * rate % 2**32, 2 * channels, 16)
    body = b"WAVE" + header + struct.pack("<4sI", b"data", announced) + sound
    return struct.pack("<4sI", b"RIFF", len(body) if riff_size is None else riff_size) + body


def data_chunk(samples):
    return struct.pack("<4sI", b"data", 2 * samples) + b"\1\2" * samples


def silence(samples=0.0, channels=1, kind="WAV", subtype="PCM_16"):
    """Half a second of samples (those of the channels, over and over)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full((8_000, channels), samples), 16_000, format=kind, subtype=subtype)
    return buffer.getvalue()


def encoded(subtype="PCM_16", bad=None, rate=16_000, channels=1, kind="WAV", endian=None):
    """A file that libsndfile writes, with one sample ``bad``."""
    samples = 0.3 * np.sin(np.arange(8_000 * channels) / 9).reshape(-1, channels)
    if bad is not None:
        samples[500] = bad
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype, endian=endian)
    return buffer.getvalue()


ID3 = b"ID3\3\0\0\0\0\0\x0a" + bytes(10)


def put(content):
    return lambda path: path.write_bytes(content)


def replaced(make):
    """Put what ``make(path)`` makes in the place of a file."""

    def change(path):
        path.unlink()
        make(path)

    return change


BAD_WAVS = {
    "empty": (put(b""), "is empty (0 bytes)"),
    "web page": (put(b"<html>404 Not Found</html>\n" * 9), "Format not recognised"),
    "header cut": (put(riff()[:30]), "Error in WAV file. No 'data' chunk marker"),
    "sound cut": (put(riff()[:10_000]), "is truncated: its header announces 16,000 bytes of sound, 9,956 are there"),
    "no sound": (put(riff(samples=0)), "holds no sound"),
    "stream with size 0": (put(riff(announced=0, riff_size=0)), "holds no sound, says its header (16,000 bytes follow)"),
    "too short": (put(riff(samples=100)), "lasts 0.00625 s (usable: 0.025 to 120)"),
    "over-long": (put(riff(samples=16_000 * 121)), "lasts 121 s (usable: 0.025 to 120)"),
    "rate 0": (put(riff(rate=0)), "has an impossible sample rate"),
    "rate 44,101": (put(riff(rate=44_101)), "has a sample rate of 44,101 Hz (usable: 4,000 to 192,000, multiples of 25)"),
    "rate 2^31 - 1": (put(riff(rate=2**31 - 1)), "has a sample rate of 2,147,483,647 Hz"),
    "NaN": (put(encoded("FLOAT", np.nan)), "holds samples that are not finite"),
    "too large": (put(encoded("FLOAT", 3e38)), "holds samples that are not finite"),
    "FLAC, cut": (put(encoded(kind="FLAC")[:2_000]), "Error : flac decoder lost sync"),
    "RF64, cut": (put(encoded(kind="RF64")[:8_000]), "its header announces 16,000 bytes of sound, 7,896 are there"),
    "AIFF, cut": (put(encoded(kind="AIFF")[:-1]), "its header announces 16,008 bytes of sound, 16,007 are there"),
    "CAF, cut": (put(encoded(kind="CAF")[:8_000]), "file is malformed"),
    "MP3, cut": (put(encoded(kind="MP3", subtype="MPEG_LAYER_III")[:864]), "of 8,000 samples can be decoded"),
    "tag before RIFF, cut": (put((ID3 + riff())[:8_000]), "is truncated: its header announces 16,000 bytes of sound"),
    "W64, cut": (put(encoded(kind="W64")[:8_000]), "is truncated: its header announces 16,104 bytes of sound, 8,000 are there"),
    "AU, cut": (put(encoded(kind="AU")[:8_000]), "is truncated: its header announces 16,000 bytes of sound, 7,976 are there"),
    "NIST, cut": (put(encoded(kind="NIST")[:8_000]), "is truncated: its header announces 16,000 bytes of sound"),
    "one wav appended to another": (put(riff() + riff()), "holds 2 chunks of sound"),
    "two chunks of sound": (put(riff() + data_chunk(100)), "holds 2 chunks of sound, where one is expected"),
    "ADPCM, cut": (put(encoded("IMA_ADPCM")[:2_000]), "is truncated"),
    "broken link": (replaced(lambda path: path.symlink_to("nowhere.wav")), "is a broken link"),
    "pipe": (replaced(os.mkfifo), "is not a regular file"),
}
KEPT_WAVS = {
    "stereo": (riff(channels=2), "wavs with several channels", "has 2 channels, which are averaged"),
    "44.1 kHz": (riff(rate=44_100), "wavs not at 16 kHz", "is at 44,100 Hz, and is resampled"),
    "stream": (riff(announced=2**32 - 1, riff_size=2**32 - 1), "wavs of untold length", "does not tell whether it is whole"),
    "IRCAM": (encoded(kind="IRCAM"), "wavs of untold length", "does not tell whether it is whole"),
    "MP3": (encoded(kind="MP3", subtype="MPEG_LAYER_III"), "wavs of untold length", "does not tell whether it is whole"),
    "Ogg": (encoded(kind="OGG", subtype="VORBIS"), "wavs of untold length", "does not tell whether it is whole"),
    "zeros": (silence(), "silent wavs", "is silent"),
    "one constant": (silence(0.25), "silent wavs", "is silent"),
    "tag before RIFF": (ID3 + riff(), None, None),
    **{kind: (encoded(kind=kind), None, None) for kind in ("W64", "AU", "NIST", "RF64")},
    "RIFX": (encoded(endian="BIG"), None, None),
    "AIFF": (encoded(kind="AIFF"), None, None),
    "CAF": (encoded(kind="CAF"), None, None),
    "RIFF size 0": (riff(riff_size=0), None, None),
    "FLAC": (encoded(kind="FLAC"), None, None),
    "a chunk after the sound": (riff() + b"LIST\4\0\0\0INFO", None, None),
}


def cases(table):
    return pytest.mark.parametrize("case", table.values(), ids=table)


def listed(corpus, kind):
    return [fault[1:] for fault in corpus.faults if fault.kind == kind]


@cases(BAD_WAVS)
def test_a_wav_that_cannot_be_used(copy, case):
    damage, reason = case
    damage(copy.wav)
    corpus = read(copy.root)
    assert corpus.dropped == {"unreadable wav": 1} and ID not in set(corpus.utterances["segment_id"])
    [(file, row, segment_id, what)] = listed(corpus, "unreadable wav")
    assert (file, row, segment_id) == (str(copy.wav), "", ID) and reason in what
    with pytest.raises(UserError) as caught:
        corpus.require_readable_wavs()
    line = str(caught.value)
    assert f"{copy.wav}: {what}" in line and "--skip_bad_files" in line and "\n" not in line


@cases(KEPT_WAVS)
def test_a_wav_of_another_form_is_kept(copy, case):
    content, note, reason = case
    copy.wav.write_bytes(content)
    corpus = read(copy.root)
    assert not corpus.dropped and {name for name in corpus.notes if "wav" in name} == ({note} if note else set())
    if note:
        [(file, _, segment_id, what)] = listed(corpus, note)
        assert (file, segment_id) == (str(copy.wav), ID) and reason in what
    told = f"1 wavs are in a form that does not tell whether they are whole ({corpus.command} lists them)"
    assert corpus.warnings() == ([told] if note == "wavs of untold length" else [])
    seconds = corpus.utterances.set_index("segment_id")["duration"][ID]
    assert np.isfinite(read_waveform(copy.wav, 5, seconds)).all()


@pytest.mark.parametrize(
    "samples, silent",
    [
        (np.tile([0.5, -0.5], (8_000, 1)), True),
        (np.random.default_rng(0).integers(-1, 2, 8_000, dtype=np.int16), True),
        (np.random.default_rng(0).integers(-8, 9, 8_000, dtype=np.int16), False),
        (np.int16(900) * (np.arange(40_000) == 30_000), False),
    ],
    ids=["channels that cancel out", "the noise of rounding", "a quiet voice", "a click"],
)
def test_what_is_silence(copy, samples, silent):
    soundfile.write(copy.wav, samples, 16_000)
    assert noted(read(copy.root)).get("silent wavs", 0) == silent


def test_files_that_may_not_be_read(copy, monkeypatch):
    # The rights themselves do not keep an administrator out.
    forbidden, opened = {str(copy.wav)}, open

    def guarded(file, *arguments, **settings):
        if str(file) in forbidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *arguments, **settings)

    monkeypatch.setattr("builtins.open", guarded)
    assert listed(read(copy.root), "unreadable wav") == [(str(copy.wav), "", ID, "Permission denied")]
    forbidden.add(str(copy.txt))
    assert listed(read(copy.root), "no transcript") == [(str(copy.txt), "", ID, "cannot be read (Permission denied)")]
    forbidden.add(str(copy.csv))
    assert refused(copy.root) == f"{copy.csv}: cannot be read (Permission denied); copy it again, or make it readable"
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: scan(folder) if str(folder) != str(copy.folder) else guarded(copy.wav))
    assert refused(copy.root).startswith(f"{copy.wav}: cannot be read (Permission denied), and what lies in it")


def test_an_index_of_an_older_look_is_made_again(copy):
    assert not read(copy.root).dropped
    copy.wav.write_bytes(riff()[:-1_000])
    stat = copy.wav.stat()
    name = os.path.relpath(copy.wav, copy.root)
    # The look that wrote this one took what libsndfile makes of a truncated file for its length.
    (copy.root / INDEX_NAME).write_text(
        f"path,size,mtime_ns,frames,samplerate,channels\n{name},{stat.st_size},{stat.st_mtime_ns},7500,16000,1\n"
    )
    assert read(copy.root).dropped == {"unreadable wav": 1}
    assert name not in (copy.root / INDEX_NAME).read_text()


# Transcripts

DAMAGED_TRANSCRIPTS = {
    "UTF-16": (put("기뻐 정말\n".encode("utf-16")), "transcript in neither encoding", "is in UTF-16"),
    "UTF-16 without its mark": (put("n/ l/\n".encode("utf-16-le")), "transcript is not text", "control character 0x00"),
    "neither encoding": (put(b"\xff\xff\xff"), "transcript in neither encoding", "is neither in UTF-8 nor in CP949"),
    "NUL": (put("기뻐\0\n".encode()), "transcript is not text", "control character 0x00"),
    "broken link": (
        replaced(lambda path: path.symlink_to("nowhere.txt")),
        "no transcript",
        "cannot be read (is a broken link)",
    ),
    "pipe": (replaced(os.mkfifo), "no transcript", "cannot be read (is not a regular file)"),
}


@cases(DAMAGED_TRANSCRIPTS)
def test_a_transcript_that_cannot_be_used(copy, case):
    damage, kind, reason = case
    damage(copy.txt)
    corpus = read(copy.root)
    assert corpus.dropped == {kind: 1}
    [(file, _, segment_id, what)] = listed(corpus, kind)
    assert (file, segment_id) == (str(copy.txt), ID) and reason in what
    assert corpus.warnings() == [f"left out, transcript {copy.txt} {what}"]


KEPT_TEXTS = {
    "compatibility jamo": ("ㅋㅋ 그래 ㅎ", "compatibility jamo", "U+314B, U+314E"),
    "jamo that compose with nothing": ("\u11ab그래", "uncomposed jamo", "U+11AB"),
    "full width": ("그래\uff01 \uff21", "full- or half-width forms", "U+FF01, U+FF21"),
    "zero-width space": ("그\u200b래", "invisible characters", "U+200B"),
    "no-break space": ("그\xa0래", "unusual spaces", "U+00A0"),
    "combining mark": ("q\u0301", "combining marks", "U+0301"),
    "replacement character": ("그\ufffd래", "replacement characters", "U+FFFD"),
    "private use": ("그\ue000래", "private-use characters", "U+E000"),
    "ordinary": ('n/ 그래... "응", 카페 café (음)… 3시·100% ~ 漢字 ①', None, None),
}


@cases(KEPT_TEXTS)
def test_text_that_looks_like_other_text_is_kept_and_listed(copy, case):
    text, kind, points = case
    copy.txt.write_text(text, encoding="utf-8")
    corpus = read(copy.root)
    assert noted(corpus) == ({f"transcripts with {kind}": 1} if kind else {}) and not corpus.dropped
    assert [fault[1:] for fault in corpus.faults] == ([(str(copy.txt), "", ID, f"holds {points}")] if kind else [])
    assert corpus.utterances.set_index("segment_id")["text"][ID] == text


def test_every_transcript_is_composed(copy):
    before = read(copy.root)
    for path in (copy.root / "wav").rglob("*.txt"):
        path.write_text(unicodedata.normalize("NFD", path.read_text("cp949")), encoding="utf-8")
    corpus = read(copy.root)
    assert list(corpus.utterances["text"]) == list(before.utterances["text"])
    assert corpus.notes == {"transcripts composed to NFC": 15} and corpus.digest == before.digest


# Annotations. Row 3 is that of the segment; columns 3 and 4 hold its id and its label.


def rewritten(change, **settings):
    """Change an annotation file's list of rows."""

    def damage(copy):
        with open(copy.csv, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        change(rows)
        with open(copy.csv, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n", **settings).writerows(rows)

    return damage


def cell(column, content, row=2):
    return rewritten(lambda rows: rows[row].__setitem__(column, content))


def columns(order):
    """Take the columns in another order; ``order`` maps their list to another."""

    def change(rows):
        for number, row in enumerate(rows):
            rows[number] = order(row)

    return rewritten(change)


def content(change):
    return lambda copy: copy.csv.write_bytes(change(copy.csv.read_bytes()))


DAMAGED_ROWS = {
    "unknown label": (cell(4, "contempt"), "unknown label", ID, "unknown label 'contempt'"),
    "labels joined by a comma": (cell(4, "sad,happy"), "unknown label", ID, "unknown label 'sad,happy'"),
    "no label": (cell(4, " "), "no label", ID, "no label"),
    "malformed id": (cell(3, ID.lower()), "malformed id", "", f"malformed id '{ID.lower()}'"),
    "digits of another script": (cell(3, ID.replace("01_s", "0１_s")), "malformed id", "", "malformed id 'Sess0１_script01"),
    "id of another session": (cell(3, "Sess02_script01_User003F_001"), "id of another session", None, "id of another session"),
    "no such wav": (lambda copy: copy.wav.unlink(), "no wav", ID, "no wav"),
    "a folder for a wav": (lambda copy: (copy.wav.unlink(), copy.wav.mkdir()), "no wav", ID, "no wav"),
    "no such transcript": (lambda copy: copy.txt.unlink(), "no transcript", ID, "no transcript"),
}
SAME_TABLE = {
    "columns in another order": columns(lambda row: row[7:] + row[4:7] + row[3:4] + row[:3]),
    "more columns": columns(lambda row: ["Note", *row, "Checked"]),
    "fewer columns": columns(lambda row: row[3:7]),
    "BOM": content(lambda data: b"\xef\xbb\xbf" + data),
    "CRLF": content(lambda data: data.replace(b"\n", b"\r\n")),
    "CR": content(lambda data: data.replace(b"\n", b"\r")),
    "no last line end": content(lambda data: data.rstrip(b"\n")),
    "quoted cells": rewritten(lambda rows: None, quoting=csv.QUOTE_ALL),
    "labels in capitals with blanks": columns(
        lambda row: [*row[:4], f" {row[4].upper()} " if row[0].isdigit() else row[4], *row[5:]]
    ),
    "empty rows": rewritten(lambda rows: rows.insert(3, [])),
}
REFUSED = {
    "a column missing in one row": (rewritten(lambda rows: rows[3].pop(9)), "row 4 has 36 cells where the header has 37"),
    "no id column": (columns(lambda row: row[:3] + row[4:]), "have no columns 'Segment ID' and"),
    "two label columns": (columns(lambda row: [*row, row[4]]), "have several columns 'Segment ID' and"),
    "no header": (rewritten(lambda rows: rows.__delitem__(slice(2))), "have no columns 'Segment ID' and"),
    "semicolons": (content(lambda data: data.replace(b",", b";")), "have no columns 'Segment ID' and"),
    "quote that is not closed": (
        content(lambda data: data.replace(ID.encode(), b'"' + ID.encode())),
        "row 3 is not CSV (unexpected end of data)",
    ),
    "quotes around two rows": (
        rewritten(lambda rows: rows[2].__setitem__(9, "x\n1,2,3")),
        "row 3 is not CSV (a quoted cell has a line end in it)",
    ),
    "text after a quote": (
        content(lambda data: data.replace(ID.encode(), b'"' + ID.encode() + b'"x')),
        "row 3 is not CSV (',' expected after '\"')",
    ),
    "a byte that is not UTF-8": (content(lambda data: data.replace(ID.encode(), b"\xff")), "row 3 is not in UTF-8"),
    "UTF-16": (content(lambda data: data.decode().encode("utf-16")), "row 1 is not in UTF-8"),
    "empty": (content(lambda data: b""), "no header of two rows"),
    "a folder": (lambda copy: (copy.csv.unlink(), copy.csv.mkdir()), "cannot be read (is a folder)"),
    "a broken link": (lambda copy: (copy.csv.unlink(), copy.csv.symlink_to("no.csv")), "cannot be read (is a broken link)"),
}


def refused(root):
    with pytest.raises(UserError) as caught:
        read_folder(root, progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@cases(DAMAGED_ROWS)
def test_a_row_that_cannot_be_used(copy, case):
    damage, kind, segment_id, what = case
    damage(copy)
    corpus = read(copy.root)
    assert corpus.dropped == {kind: 1}
    [fault] = listed(corpus, kind)
    assert fault[:2] == (str(copy.csv), 3) and fault[3].startswith(what)
    assert segment_id is None or fault[2] == segment_id


@cases(SAME_TABLE)
def test_an_annotation_of_another_form_says_the_same(whole, copy, case):
    case(copy)
    corpus, before = read(copy.root), read(whole)
    columns = ["segment_id", "session", "speaker", "emotion", "text", "duration"]
    pd.testing.assert_frame_equal(corpus.utterances[columns], before.utterances[columns])
    assert (corpus.dropped, corpus.notes, corpus.faults) == (before.dropped, before.notes, before.faults)


@cases(REFUSED)
def test_an_annotation_that_cannot_be_read(copy, case):
    damage, reason = case
    damage(copy)
    line = refused(copy.root)
    assert line.startswith(f"{copy.csv}: ") and reason in line


def test_ids_and_stems_that_are_there_twice(copy):
    rewritten(lambda rows: rows.append(rows[2]))(copy)
    for path in (copy.root / "wav" / "A" / copy.wav.name, copy.folder / "converted" / copy.txt.name):
        path.parent.mkdir()
        shutil.copy(copy.folder / path.name, path)
    corpus = read(copy.root)
    assert corpus.dropped == {"duplicate id": 1}
    assert listed(corpus, "duplicate id") == [(str(copy.csv), 6, ID, "duplicate id")]
    taken = copy.root / "wav" / "A" / copy.wav.name
    assert listed(corpus, "shadowed files") == [
        (str(copy.wav), "", ID, f"{taken} has the same name and is taken"),
        (str(copy.folder / "converted" / copy.txt.name), "", ID, f"{copy.txt} has the same name and is taken"),
    ]


def test_sessions_that_do_not_match(copy):
    copy.csv.rename(copy.csv.with_name("Sess1_eval.csv"))
    shutil.rmtree(copy.root / "wav" / "Session02")
    corpus = read(copy.root)
    assert corpus.dropped == {"no wav": 3}
    folder = copy.root / "annotation"
    assert listed(corpus, "files not read") == [(str(folder / "Sess1_eval.csv"), "", "", "is not named like Sess01_eval.csv")]
    assert listed(corpus, "sessions without annotation") == [(str(folder), "", "", "session 1 has 3 wavs and no file here")]


def test_an_annotation_file_that_was_cut_at_a_line_end(copy):
    lines = copy.csv.read_text().splitlines(keepends=True)
    copy.csv.write_text("".join(lines[:3]))
    corpus = read(copy.root)
    lost = [line.split(",")[3] for line in lines[3:]]
    expected = [
        (str(copy.wav.with_name(f"{name}.wav")), "", name, "has no row in annotation/, so its label is lost") for name in lost
    ]
    assert len(lost) == 2 and listed(corpus, "wavs without a row") == expected
    assert [line.split(",")[0] for line in corpus.warnings()][0] == "2 wavs have no row in annotation/"


# The audit


def test_the_audit_lists_a_few_and_writes_all(copy, call_main, tmp_path):
    copy.wav.unlink()
    for path in (copy.root / "wav" / "Session05").glob("*.wav"):
        path.write_bytes(riff()[:999])
    change = rewritten(lambda rows: rows.extend([["", "", "", f"id {number}", *rows[2][4:]] for number in range(13)]))
    change(copy)
    code, stdout, _ = call_main(audit, copy.root, "--faults", tmp_path / "faults.csv")
    assert code == 1 and stdout.count(": malformed id ") == 10 and "… and 3 more (--faults FILE.csv writes all)" in stdout
    assert f"{copy.csv}, row 3, {ID}: no wav\n" in stdout
    faults = pd.read_csv(tmp_path / "faults.csv", keep_default_na=False)
    assert list(faults.columns) == ["kind", "file", "row", "segment_id", "what"]
    assert faults["kind"].value_counts().to_dict() == {"malformed id": 13, "no wav": 1, "unreadable wav": 3}
    assert "6" in set(faults["row"].astype(str))


def test_names_of_folders_need_not_be_text(copy, call_main, tmp_path):
    folder = os.fsdecode(os.fsencode(copy.root / "wav") + b"/\xb1\xe2\xbb\xb6")
    os.rename(copy.folder, folder)
    code, stdout, stderr = call_main(audit, copy.root, "--faults", tmp_path / "faults.csv", "--csv", tmp_path / "table.csv")
    assert code == 1 and "its path is not in UTF-8" in stdout, stderr
    assert read(copy.root).dropped == {"unreadable wav": 3}


def test_names_and_cells_reach_no_terminal_raw(copy, call_main, tmp_path):
    copy.folder.rename(copy.folder.with_name("\x1b[31mred\r"))
    (copy.root / "wav" / "\x1b[31mred\r" / copy.wav.name).write_bytes(b"")
    cell(4, "sad\x1b[2J\x07", row=3)(copy)
    code, stdout, stderr = call_main(audit, copy.root)
    assert code == 1 and "\\x1b[31mred\\r" in stdout and "unknown label 'sad\\x1b[2J\\x07'" in stdout, stderr
    code, out, err = call_main(audit, copy.root / "wav" / "\x1b[31mred\r")
    assert code == 1 and "\\x1b[31mred" in err and "nor annotation/" in err
    assert not any(character in stdout + out + err for character in "\x1b\r\x07")


def test_cells_of_tables_begin_no_formula(copy, call_main, tmp_path):
    texts = ["=1+1", "+ 그래", "-3도", "@me", "＝1+1", "그래 =1"]
    for path, text in zip(sorted(copy.folder.glob("*.txt")) + sorted((copy.root / "wav/Session02").glob("*.txt")), texts):
        path.write_text(text, encoding="utf-8")
    rewritten(lambda rows: rows.append(["", "", "", "=2", *rows[2][4:]]))(copy)
    call_main(audit, copy.root, "--csv", tmp_path / "table.csv", "--faults", tmp_path / "faults.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["text"][:6].tolist() == ["'=1+1", "'+ 그래", "'-3도", "'@me", "'＝1+1", "그래 =1"]
    assert table["duration"].tolist() == read(copy.root).utterances["duration"].tolist()
    assert pd.read_csv(tmp_path / "faults.csv")["what"][0] == "malformed id '=2'"


@pytest.mark.parametrize("flag", ["--csv", "--faults"])
def test_tables_of_ids_are_not_written_where_git_would_take_them(copy, call_main, tmp_path, monkeypatch, flag):
    checkout = tmp_path / "checkout"
    (checkout / "outputs").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", checkout], check=True)
    (checkout / ".gitignore").write_text("/outputs/*\n")
    (tmp_path / "link.csv").symlink_to(checkout / "table.csv")
    for target in (checkout / "table.csv", tmp_path / "link.csv"):
        code, stdout, stderr = call_main(audit, copy.root, flag, target)
        assert code == 1 and not stdout and f"{checkout / 'table.csv'} would be committed by git add -A" in stderr
        assert stderr.count("\n") == 1 and not (checkout / "table.csv").exists()
    for target in (checkout / "outputs" / "table.csv", tmp_path / "table.csv"):
        assert call_main(audit, copy.root, flag, target)[0] == 0 and target.exists()
    monkeypatch.setenv("PATH", "")
    assert call_main(audit, copy.root, flag, checkout / "table.csv")[0] == 0


# Training


def test_training_stops_before_it_starts(whole, encoders, call_main, tmp_path):
    copied(whole, tmp_path / "KEMDy20")
    for path in sorted((tmp_path / "KEMDy20" / "wav").rglob("*.wav"))[:12]:
        path.write_bytes(b"")
    arguments = flags(tmp_path, encoders, tmp_path / "outputs")
    code, _, stderr = call_main(continual_learning_init, "--task", "KEMDy20", *arguments)
    assert code == 1 and stderr.startswith("error: 12 wav file(s) of KEMDy20 cannot be used") and stderr.count("\n") == 1
    assert stderr.count("is empty") == 10 and "; and 2 more" in stderr
    assert f"--skip_bad_files; python -m utils.data.audit {tmp_path / 'KEMDy20'} lists all" in stderr


def test_training_without_the_bad_files(whole, encoders, call_main, tmp_path):
    copy = copied(whole, tmp_path / "KEMDy20")
    copy.wav.write_bytes(b"")
    arguments = ["--task", "KEMDy20", *flags(tmp_path, encoders, tmp_path / "outputs"), "--num_epochs", 1]
    code, stdout, stderr = call_main(continual_learning_init, *arguments, "--skip_bad_files")
    assert code == 0, stderr
    assert f"KEMDy20: left out, wav {copy.wav} is empty (0 bytes)" in stdout
    config = read_json(tmp_path / "outputs" / "task_a" / "fold_0" / "KEMDy20" / "config.json")
    facts = config["corpora"]["KEMDy20"]
    assert facts["skipped_files"] == {f"wav/Session01/{ID}.wav": "is empty (0 bytes)"}
    assert facts["dropped"] == {"unreadable wav": 1} and facts["utterances"] == facts["rows"] - 1
    # It is another run than one on all files.
    code, _, stderr = call_main(continual_learning_init, *arguments)
    assert code == 1 and "--skip_bad_files True then, False now" in stderr


GONE_BAD = {
    "is gone": (Path.unlink, "No such file or directory"),
    "is another file": (put(b"x" * 16_044), "Format not recognised"),
    "is shorter": (put(riff(announced=8_000)), "holds 0.25 s of sound, 0.50 s before"),
    "has no sound": (put(riff(announced=0)), "holds no sound, says its header (16,000 bytes follow)"),
    "has another rate": (put(riff(rate=2**31 - 1)), "has a sample rate of 2,147,483,647 Hz"),
    "is not finite": (put(encoded("FLOAT", np.nan)), "holds samples that are not finite"),
}


@cases(GONE_BAD)
def test_a_wav_that_goes_bad_while_it_is_trained_on(copy, case):
    damage, reason = case
    copy.wav.write_bytes(riff())
    [duration] = read(copy.root).utterances.query("segment_id == @ID")["duration"]
    damage(copy.wav)
    with pytest.raises(UserError) as caught:
        read_waveform(copy.wav, 5.0, duration)
    line = str(caught.value)
    assert line.startswith(f"{copy.wav} went bad since it was looked at: {reason}") and "\n" not in line


def test_a_wav_that_goes_bad_ends_training_with_one_line(whole, encoders, call_main, tmp_path):
    root = copied(whole, tmp_path / "KEMDy20").root
    wavs = list((root / "wav").rglob("*.wav"))
    read(root)
    for path in wavs:  # so that the index cannot tell
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    arguments = flags(tmp_path, encoders, tmp_path / "outputs")
    code, _, stderr = call_main(continual_learning_init, "--task", "KEMDy20", *arguments, "--num_workers", 1)
    lines = [line for line in stderr.splitlines() if "it/s" not in line and line.strip()]
    assert code == 1 and lines[-1].startswith("error: ") and "went bad since it was looked at" in lines[-1]
    assert "Traceback" not in stderr and any(str(path) in lines[-1] for path in wavs)
