"""The reader of KEMDy19 and KEMDy20: what it makes of the documented form, and of the defects of real copies."""

import csv
import hashlib
import json
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from corpora import read, refused
from lookalike import listeners, make_kemdy19, make_kemdy20

from utils.data import audit, kemdy
from utils.data.corpus import find_corpus
from utils.data.folds import session_folds
from utils.data.utterances import COLUMNS
from utils.errors import UserError


@pytest.fixture
def copy(tmp_path):
    """A KEMDy20 of five sessions with three utterances each: root, annotation of the first session, its Segments."""
    root = tmp_path / "KEMDy20"
    return root, root / "annotation" / "Sess01_eval.csv", make_kemdy20(root, sessions=5, utterances=3)


def changed(path, change, lineterminator="\n", **settings):
    """Rewrite a CSV by ``change``, which gets the list of its rows."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=lineterminator, **settings).writerows(rows)


# Rows as documented, written by hand, so that reader and look-alikes cannot share a misreading


def test_documented_rows_of_kemdy19(tmp_path):
    names = ("01F", "02M", "03F", "04F", "05M", "06M", "07M", "08F", "09M", "10F")
    header = (
        "Numb,Wav,,ECG,,E4-EDA,,E4-TEMP,,Segment ID,Total Evaluation,,," + ",".join(f"Eval{name},," for name in names) + "\n"
        ",start,end,start,end,start,end,start,end,,Emotion,Valence,Arousal" + ",Emotion,Valence,Arousal" * 10 + "\n"
    )
    first = "1,0.512,3.204,101.0,102.0,0.31,0.32,33.1,33.1,Sess01_impro01_F001,{},4.2,3.6" + ",happy,4,4" * 10 + "\n"
    second = "2,3.204,7.15,,,0.32,0.32,33.1,33.1,Sess01_impro01_M001,{},2.6,3.1" + ",neutral,3,3" * 10 + "\n"
    (tmp_path / "annotation").mkdir()
    for letter, labels in {"F": ("happy", "neutral;disgust"), "M": ("angry", "sad")}.items():
        rows = header + first.format(labels[0]) + second.format(labels[1])
        (tmp_path / "annotation" / f"Session01_{letter}_res.csv").write_text(rows, encoding="utf-8")
    write_recordings(
        tmp_path / "wav/Session01/Sess01_impro01", {"Sess01_impro01_F001": "기뻐\n", "Sess01_impro01_M001": "슬퍼\n"}
    )
    corpus = read(tmp_path)
    assert corpus.utterances[["segment_id", "session", "emotion", "text", "duration"]].values.tolist() == [
        ["Sess01_impro01_F001", 1, "happy", "기뻐", 0.5],
        ["Sess01_impro01_M001", 1, "sad", "슬퍼", 0.5],
    ]
    assert corpus.dropped == {"other speaker's file": 2}


def test_documented_rows_of_kemdy20(tmp_path):
    names = ("01F", "02M", "03F", "04F", "05M", "06F", "07F", "08M", "09F", "10M")
    rows = (
        "Numb,WAV, ,Segment ID,Total Evaluation, , ," + ",".join(f"Eval{name}, , " for name in names) + "\n"
        " ,start,end, ,Emotion,Valence,Arousal" + ",Emotion,Valence,Arousal" * 10 + "\n"
        "1,2.0312500,6.9140625,Sess01_script01_User001F_001,neutral,3.1,3.3" + ",neutral,3,3" * 10 + "\n"
        "2,6.5000000,8.2500000,Sess01_script01_User002M_001,happy;neutral,3.6,3.4" + ",happy,4,4" * 10 + "\n"
        "3,8.7500000,9.5000000,Sess01_script01_User001F_002,disqust,2.2,3.2" + ",disqust,2,3" * 10 + "\n"
    )
    (tmp_path / "annotation").mkdir()
    (tmp_path / "annotation" / "Sess01_eval.csv").write_text(rows, encoding="utf-8")
    stems = ("User001F_001", "User002M_001", "User001F_002")
    write_recordings(tmp_path / "wav/Session01", {f"Sess01_script01_{stem}": "그래 \n" for stem in stems}, "cp949")
    corpus = read(tmp_path)
    assert corpus.utterances[["segment_id", "session", "emotion", "text"]].values.tolist() == [
        ["Sess01_script01_User001F_001", 1, "neutral", "그래"],
        ["Sess01_script01_User001F_002", 1, "disgust", "그래"],
    ]
    assert corpus.dropped == {"several labels": 1}


def write_recordings(folder, texts, encoding="utf-8"):
    folder.mkdir(parents=True)
    for stem, text in texts.items():
        soundfile.write(folder / f"{stem}.wav", np.zeros(8_000), 16_000, subtype="PCM_16")
        (folder / f"{stem}.txt").write_bytes(text.encode(encoding))


@pytest.mark.parametrize("make", [make_kemdy19, make_kemdy20])
def test_whole_copies(tmp_path, make):
    # The corpus is recognised by its annotations; the path holds both letters, a session's number and another corpus's name.
    name, other = ("KEMDy19", "KEMDy20") if make is make_kemdy19 else ("KEMDy20", "KEMDy19")
    root = tmp_path / "F_M001" / "Session02_M" / "User001F" / other
    segments = make(root)
    corpus = read(root)
    table = corpus.utterances
    assert corpus.name == name and corpus.sessions == [1, 2, 3, 4, 5, 6] and tuple(table.columns) == COLUMNS
    # The class indices of the published checkpoints.
    assert corpus.labels == kemdy.EMOTIONS == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    found = {row.segment_id: (row.session, row.emotion, row.text) for row in table.itertuples()}
    assert found == {segment.id: (segment.session, segment.emotion, segment.text) for segment in segments}
    seconds = {segment.id: int(segment.seconds * 16_000) / 16_000 for segment in segments}
    assert dict(zip(table["segment_id"], table["duration"])) == seconds and set(table["start"]) == {0}
    for row in table.itertuples():
        assert Path(row.wav_path).stem == row.segment_id
        assert row.wav_digest == hashlib.sha256(Path(row.wav_path).read_bytes()).hexdigest()
    assert (table.groupby("speaker")["session"].nunique() == 1).all()
    assert (table.groupby("session")["speaker"].nunique() == 2).all()
    if name == "KEMDy19":  # the other speaker's file says otherwise
        assert all(found[segment.id][1] != listeners(segment) for segment in segments)
        assert corpus.dropped == {"other speaker's file": 48} and not corpus.notes
    else:
        assert not corpus.dropped and corpus.notes == {"CP949 transcripts": 48}


# Annotations. In KEMDy20 columns 3 and 4 hold id and label, and row 3 is the first below the header.


def test_rows_that_cannot_be_used(tmp_path):
    segments = [segment for segment in make_kemdy20(tmp_path, sessions=2, utterances=14) if segment.session == 1]
    ids = [segment.id for segment in segments]
    (segments[9].folder / f"{ids[9]}.wav").unlink()
    (segments[10].folder / f"{ids[10]}.txt").unlink()
    (segments[11].folder / f"{ids[11]}.wav").unlink()
    (segments[11].folder / f"{ids[11]}.wav").mkdir()
    cells = [
        (4, "contempt", "unknown label", "unknown label 'contempt'"),
        (4, "sad,happy", "unknown label", "unknown label 'sad,happy'"),
        (4, " ", "no label", "no label"),
        (4, "happy;sad;fear", "several labels", None),
        (3, ids[4].lower(), "malformed id", f"malformed id '{ids[4].lower()}'"),
        (3, ids[5].replace("01_s", "0１_s"), "malformed id", "malformed id 'Sess0１_script01"),
        (3, f"{ids[6]}1", "malformed id", f"malformed id '{ids[6]}1'"),
        (3, "Sess02_script01_User003F_001", "id of another session", "id of another session"),  # whose wav exists
        (3, ids[0], "duplicate id", "duplicate id"),
        (4, "sad", "no wav", "no wav"),
        (4, "sad", "no transcript", "no transcript"),
        (4, "sad", "no wav", "no wav"),
    ]
    changed(
        tmp_path / "annotation" / "Sess01_eval.csv",
        lambda rows: [rows[number].__setitem__(column, cell) for number, (column, cell, *_) in enumerate(cells, 2)],
    )
    corpus = read(tmp_path)
    assert [row.split("_")[0] for row in corpus.utterances["segment_id"]] == ["Sess01"] * 2 + ["Sess02"] * 14
    kinds = [kind for *_, kind, _ in cells]
    assert corpus.dropped == {kind: kinds.count(kind) for kind in kinds}
    found = {fault.row: fault for fault in corpus.faults if fault.kind in corpus.dropped}
    for number, (*_, kind, what) in enumerate(cells, 3):
        assert what is None or found[number].kind == kind and found[number].what.startswith(what)


def test_a_session_whose_ids_have_a_wrong_number(tmp_path):
    make_kemdy20(tmp_path, sessions=3)
    second, third = (tmp_path / "annotation" / f"Sess0{number}_eval.csv" for number in (2, 3))
    before, content = read(tmp_path), second.read_text()
    second.write_text(content.replace("Sess02", "Sess42"))  # as in the first release
    corpus = read(tmp_path)
    assert corpus.digest == before.digest and corpus.notes["ids mended"] == 8
    # Not without the wavs: these ids are those of the third session; the files of the second have other users' names.
    shutil.copy(third, second)
    corpus = read(tmp_path)
    assert corpus.dropped == {"id of another session": 8} and "ids mended" not in corpus.notes
    assert len(corpus.utterances) == 16 and corpus.sessions == [1, 2, 3]


def columns(order):
    """Take the columns in another order; ``order`` maps their list to another."""
    return lambda rows: rows.__setitem__(slice(None), [order(row) for row in rows])


@pytest.mark.parametrize(
    "change, settings",
    [
        (columns(lambda row: ["Note", *row[7:], *row[4:7], row[3], *row[:3]]), {}),
        (columns(lambda row: row[3:7]), {"quoting": csv.QUOTE_ALL}),
        (columns(lambda row: [*row[:4], f" {row[4].upper()} " if row[0].isdigit() else row[4], *row[5:]]), {}),
        (lambda rows: rows.insert(3, []), {"lineterminator": "\r"}),
        (lambda rows: [row.append("") for row in rows[3:]], {"lineterminator": "\r\n"}),
        (lambda rows: rows[0].__setitem__(0, "\ufeffNumb"), {}),
    ],
    ids=["other columns", "few columns, quoted", "capitals and blanks", "empty row, CR", "commas at the end, CRLF", "BOM"],
)
def test_an_annotation_of_another_form_says_the_same(copy, change, settings):
    root, annotation, _ = copy
    before = read(root)
    changed(annotation, change, **settings)
    corpus = read(root)
    pd.testing.assert_frame_equal(corpus.utterances, before.utterances)
    assert (corpus.dropped, corpus.notes, corpus.faults) == (before.dropped, before.notes, before.faults)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda rows: rows[3].pop(9), "row 4 has 36 cells where the header has 37"),
        (columns(lambda row: row[:3] + row[4:]), "have no columns 'Segment ID' and"),
        (columns(lambda row: [*row, row[4]]), "have several columns 'Segment ID' and"),
        (lambda rows: rows[2].__setitem__(9, "x\n1,2,3"), "row 3 has a quoted cell with a line end in it"),
        (lambda rows: rows.__delitem__(slice(2)), "have no columns 'Segment ID' and"),
        (lambda rows: rows.clear(), "no header of two rows"),
    ],
)
def test_an_annotation_that_cannot_be_read(copy, change, reason):
    root, annotation, _ = copy
    changed(annotation, change)
    line = refused(root)
    assert line.startswith(f"{annotation}: ") and reason in line


# Transcripts


def test_transcripts(tmp_path):
    segments = make_kemdy20(tmp_path, sessions=5, utterances=3)
    neither, control = "transcript in neither encoding", "transcript is not text"
    cases = [
        ("똠양꿍이랑 펲시를 시켰어\n".encode("cp949"), "똠양꿍이랑 펲시를 시켰어"),  # outside of EUC-KR
        ("\ufeff그래 \r\n".encode(), "그래"),
        (unicodedata.normalize("NFD", "그래").encode(), "그래"),
        ("c/ (음) 그래+ n/ 어/ 그래*".encode(), "c/ (음) 그래+ n/ 어/ 그래*"),
        (b"n/ l/", "n/ l/"),
        (b"", ""),
        (b" \n", ""),
        ("그래\n두 번째 줄".encode(), "그래"),
        ("기뻐 정말\n".encode("utf-16"), (neither, "is in UTF-16")),
        ("n/ l/\n".encode("utf-16-le"), (control, "control character U+0000")),
        (b"\xff\xff\xff", (neither, "is neither in UTF-8 nor in CP949")),
        ("기뻐\0\n".encode(), (control, "control character U+0000")),
        (None, ("no transcript", "cannot be read (is a broken link)")),
    ]
    for (content, _), segment in zip(cases, segments):
        path = segment.folder / f"{segment.id}.txt"
        if content is None:
            path.unlink()
            path.symlink_to("nowhere.txt")
        else:
            path.write_bytes(content)
    corpus = read(tmp_path)
    texts = dict(zip(corpus.utterances["segment_id"], corpus.utterances["text"]))
    faults = {fault.segment_id: fault for fault in corpus.faults}
    for (_, expected), segment in zip(cases, segments):
        if isinstance(expected, str):
            assert texts[segment.id] == expected
        else:
            kind, what = expected
            fault = faults[segment.id]
            assert (fault.kind, fault.file) == (kind, str(segment.folder / f"{segment.id}.txt")) and what in fault.what
            assert f"left out, transcript {fault.file} {fault.what}" in corpus.warnings()
    assert corpus.dropped == {"no transcript": 1, neither: 2, control: 2}
    counted = {"transcripts composed to NFC": 1, "tags-only transcripts": 1, "empty transcripts": 2, "CP949 transcripts": 3}
    assert corpus.notes == counted


# Files that are not where they should be


def test_find_corpus(tmp_path):
    def refused(reason, name="KEMDy20"):
        with pytest.raises(UserError, match=reason):
            find_corpus(tmp_path, name)

    refused(re.escape(str(tmp_path / "KEMDy20")))
    (tmp_path / "KEMDY20_V1_1").mkdir()
    assert find_corpus(tmp_path, "KEMDy20") == tmp_path / "KEMDY20_V1_1"
    (tmp_path / "Kemdy20").mkdir()
    refused("holds KEMDY20_V1_1, Kemdy20: rename the one to use to KEMDy20")
    (tmp_path / "KEMDy20").mkdir()
    assert find_corpus(str(tmp_path), "KEMDy20") == tmp_path / "KEMDy20"
    refused("no corpus at", "KEMDy19")
    # Hangul as macOS writes it, and as it is typed.
    (tmp_path / unicodedata.normalize("NFD", "말뭉치") / "KEMDy19_v1_3").mkdir(parents=True)
    found = find_corpus(tmp_path / unicodedata.normalize("NFC", "말뭉치"), "KEMDy19")
    assert found.is_dir() and found.name == "KEMDy19_v1_3"


@pytest.mark.parametrize(
    "files, reason",
    [
        (None, "no corpus at"),
        (["annotation/Sess01_eval.csv"], "has no folder wav/"),
        (["wav/Session01/Sess01_script01_User001F_001.wav"], "has no folder annotation/"),
        (["annotation/labels.csv", "wav/a.wav"], "holds no annotation file: expected names like Session01_F_res.csv"),
        (["annotation/Sess01_eval.csv", "annotation/Session01_F_res.csv", "wav/a.wav"], "annotation files of both corpora"),
        (["annotation/Session01_F_res.csv", "wav/a.wav"], "Session01_M_res.csv is missing"),
        (["annotation/Session01_M_res.csv", "wav/a.wav"], "Session01_F_res.csv is missing"),
    ],
)
def test_a_folder_that_is_no_whole_corpus(tmp_path, files, reason):
    for file in files or []:
        (tmp_path / "KEMDy20" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "KEMDy20" / file).touch()
    line = refused(tmp_path / "KEMDy20")
    assert str(tmp_path / "KEMDy20") in line and reason in line


def test_files_that_do_not_match(copy):
    root, annotation, segments = copy
    ids = [segment.id for segment in segments if segment.session == 1]
    for folder, stem, suffix in (("A", ids[0], ".wav"), ("Session01/converted", ids[0], ".txt")):
        (root / "wav" / folder).mkdir()
        shutil.copy(segments[0].folder / f"{stem}{suffix}", root / "wav" / folder)
    shutil.rmtree(root / "wav" / "Session02")
    annotation.write_text("".join(annotation.read_text().splitlines(keepends=True)[:3]))  # cut at a line's end
    third = annotation.with_name("Sess03_eval.csv")
    third.rename(annotation.with_name("Sess3_eval.csv"))
    corpus = read(root)
    assert corpus.dropped == {"no wav": 3} and not corpus.unreadable
    faults = {kind: [fault[1:] for fault in corpus.faults if fault.kind == kind] for kind in corpus.notes}
    wav, txt = (str(segments[0].folder / f"{ids[0]}{suffix}") for suffix in (".wav", ".txt"))
    twin = str(root / "wav" / "A" / f"{ids[0]}.wav")
    assert faults["shadowed files"] == [
        (wav, "", ids[0], f"{twin} has the same name and is taken"),
        (str(segments[0].folder / "converted" / f"{ids[0]}.txt"), "", ids[0], f"{txt} has the same name and is taken"),
    ]
    lost = [(str(segments[0].folder / f"{stem}.wav"), "", stem) for stem in ids[1:]]
    assert faults["wavs without a row"] == [(*place, "has no row in annotation/, so its label is lost") for place in lost]
    folder = annotation.parent
    assert faults["files not read"] == [(str(folder / "Sess3_eval.csv"), "", "", "is not named like Sess01_eval.csv")]
    assert faults["sessions without annotation"] == [(str(folder), "", "", "session 3 has 3 wavs and no file here")]
    assert corpus.warnings()[0].startswith("2 wavs have no row in annotation/")


def test_a_real_copy_that_lacks_sessions_is_told_so(copy):
    root, _, _ = copy
    assert read(root).synthetic and read(root).warnings() == []
    (root / "SYNTHETIC").unlink()
    assert read(root).warnings() == ["5 of 40 sessions are here: the folds are not the published ones"]


def test_linked_session_folders_are_followed_and_circles_are_not(copy, tmp_path):
    root, _, segments = copy
    (root / "wav" / "Session01").rename(tmp_path / "elsewhere")
    (root / "wav" / "Session01").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "wav")
    assert len(read(root).utterances) == len(segments)


# The audit


def test_audit(copy, call_main, tmp_path):
    root, annotation, segments = copy
    (segments[0].folder / f"{segments[0].id}.wav").write_bytes(b"")
    changed(annotation, lambda rows: rows.extend([["", "", "", f"id {number}", *rows[2][4:]] for number in range(13)]))
    tables = {name: tmp_path / name for name in ("table.csv", "folds.json", "faults.csv")}
    flags = ("--csv", tables["table.csv"], "--folds-json", tables["folds.json"], "--faults", tables["faults.csv"])
    code, out, err = call_main(audit, root, *flags)
    assert code == 1 and out.splitlines()[-1].startswith("NOT ready to train: 1 blocking, 3 notes: 1 wav file(s)"), err
    corpus = read(root)
    counts = {"annotation rows": 28, "usable utterances": 14, "malformed id": 13, "unreadable wav": 1, "CP949 transcripts": 14}
    for name, count in (*counts.items(), *corpus.utterances["emotion"].value_counts().items()):
        assert re.search(rf"^ +{name} +{count}\b", out, re.MULTILINE), name
    assert out.count(": malformed id ") == 10 and "… and 3 more (--faults FILE.csv writes all)" in out and "SYNTHETIC" in out
    for fold in session_folds(range(1, 6)):
        for sessions in fold.values():
            size = corpus.utterances["session"].isin(sessions).sum()
            assert f"{', '.join(map(str, sessions))} ({size})" in out
    table = pd.read_csv(tables["table.csv"], keep_default_na=False)
    pd.testing.assert_frame_equal(table, corpus.utterances, check_dtype=False)
    assert json.loads(tables["folds.json"].read_text()) == dict(zip("01234", session_folds(range(1, 6))))
    faults = pd.read_csv(tables["faults.csv"], keep_default_na=False)
    assert list(faults.columns) == ["kind", "file", "row", "segment_id", "what"]
    assert faults["kind"].value_counts().to_dict() == {"malformed id": 13, "unreadable wav": 1}
    assert "6" in set(faults["row"].astype(str))


def test_only_what_may_be_the_real_corpus_is_compared_with_it(tmp_path, call_main):
    make_kemdy20(tmp_path / "KEMDy20", sessions=40, utterances=1)
    code, out, _ = call_main(audit, tmp_path / "KEMDy20")
    assert code == 0 and "real corpus" not in out and "\nno faults\n" in out
    assert out.splitlines()[-1] == "OK to train: 0 blocking, 1 note"  # CP949
    (tmp_path / "KEMDy20" / "SYNTHETIC").unlink()
    code, out, _ = call_main(audit, tmp_path / "KEMDy20")
    assert code == 0 and "the real corpus has 12,828" in out and "test: the real corpus has 2,513" in out


def test_audit_of_a_part_of_a_corpus(tmp_path, monkeypatch, call_main):
    make_kemdy20(tmp_path / "corpus", sessions=4, utterances=2)
    code, out, _ = call_main(audit, tmp_path / "corpus")
    assert code == 1 and "folds: none, 4 sessions" in out and "4 sessions" in out.splitlines()[-1]
    for arguments, reason in (
        ((tmp_path / "KEMDy19",), "KEMDy19"),
        ((tmp_path / "corpus", "--folds-json", tmp_path / "folds.json"), "4 sessions"),
        ((tmp_path / "corpus", "--csv", tmp_path / "no such folder" / "out"), "no such folder"),
    ):
        code, _, err = call_main(audit, *arguments)
        assert code == 1 and err.startswith("error: ") and err.count("\n") == 1 and reason in err
    assert not (tmp_path / "folds.json").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call_main(audit, "~/corpus", "--k_fold", 4, "--folds-json=~/folds.json")[0] == 0
    assert list(json.loads((tmp_path / "folds.json").read_text())) == ["0", "1", "2", "3"]
