"""Corpora of one's own: the rules by which a folder is read, what is refused in one line, folds, and the audit's verdict."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from corpora import MELD_EMOTIONS, make_iemocap, make_meld, make_ravdess, read, refused, tone, write_corpus
from lookalike import make_kemdy20

import utils.kemdy
from utils.data import audit, corpus
from utils.data.audio import read_waveform
from utils.data.corpus import find_corpus, fold_of, folds, read_corpus
from utils.data.folds import split_utterances
from utils.data.kemdy import EMOTIONS
from utils.data.utterances import COLUMNS
from utils.errors import UserError

SECONDS = 4.0  # of the one long file that rows of the smallest corpus cut or name


@pytest.fixture
def own(tmp_path):
    """A folder for corpora with the smallest one, "mine": 12 utterances of six speakers, two labels, one file each."""
    rows = [
        {"file_name": f"wav/{index:02d}.wav", "emotion": "happy sad".split()[index % 2], "transcription": f"그래 {index}"}
        | {"speaker_id": f"s{index // 2}"}
        for index in range(12)
    ]
    root = tmp_path / "mine"
    (root / "wav").mkdir(parents=True)
    for index, row in enumerate(rows):
        soundfile.write(root / row["file_name"], tone(index, 0.5, np.random.default_rng(index)), 16_000)
    soundfile.write(root / "long.wav", tone(1, SECONDS, np.random.default_rng(99)), 16_000)
    write_corpus(root, rows)
    return root


def changed(root, change, **settings):
    """Rewrite metadata.csv by ``change``, which gets its table of texts and may return another."""
    table = pd.read_csv(root / "metadata.csv", dtype=str, keep_default_na=False)
    result = change(table)
    (table if result is None else result).to_csv(root / "metadata.csv", index=False, **settings)


def cell(column, content, row=2):
    """A change of one cell: of the table's row ``row``, which is the file's row 4."""

    def change(table):
        table[column] = table.get(column, "")
        table.loc[row, column] = content

    return change


def column(name, content):
    """A change of a whole column."""
    return lambda table: table.__setitem__(name, content)


# Imitations of well-known corpora


def test_a_corpus_with_sessions_and_a_label_map(tmp_path):
    rows = make_iemocap(tmp_path / "IEMOCAP")
    found = read(tmp_path / "IEMOCAP")
    table = found.utterances
    assert tuple(table.columns) == COLUMNS and found.labels == ("angry", "happy", "neutral", "sad")
    assert found.dropped == {"label mapped to null": 5} and found.rows == len(rows) == 45
    merged = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
    expected = [(row["path"], merged[row["emo"]], row["text"], row["session"]) for row in rows if row["emo"] != "xxx"]
    paths = [str(Path(path).relative_to(tmp_path / "IEMOCAP")) for path in table["wav_path"]]
    assert list(zip(paths, table["emotion"], table["text"], table["session"])) == expected
    assert list(table["segment_id"]) == [path.rsplit(".", 1)[0] for path in paths]
    assert found.about == {"language": "Korean", "licence": "none: tones", "citation": "made by a program"}
    assert not found.is_kemdy and not found.given_splits and found.synthetic
    assert {Path(path).suffix for path in paths} == {".flac", ".mp3", ".ogg"}
    for row in table.itertuples():
        assert len(read_waveform(row.wav_path, 5.0, row.duration)) == pytest.approx(row.duration * 16_000, abs=1)
    # Each of the five sessions is tested once, and with so few one validates.
    found_folds = folds(found, 5)
    assert sorted(fold["test"] for fold in found_folds) == [[f"Session{number}"] for number in range(1, 6)]
    assert all(len(fold["valid"]) == 1 and len(fold["train"]) == 3 for fold in found_folds)
    assert fold_of(found, 3, 5) == found_folds[3]
    with pytest.raises(UserError, match="--num_fold 5.*0 to 4"):
        fold_of(found, 5, 5)


def test_a_corpus_without_sessions_is_divided_by_speakers(tmp_path):
    make_ravdess(tmp_path / "RAVDESS", utterances=2)
    found = read(tmp_path / "RAVDESS")
    assert found.labels == ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
    assert found.sessions == [f"{actor:02d}" for actor in range(1, 25)] and found.notes == {"wavs not at 16 kHz": 48}
    for fold in folds(found, 5):
        assert len(fold["valid"]) == 2
        splits = split_utterances(found.utterances, fold)
        speakers = [set(table["speaker"]) for table in splits.values()]
        assert sum(map(len, speakers)) == len(set.union(*speakers)) == 24
        assert sum(map(len, splits.values())) == 48


def test_a_corpus_with_given_splits_and_rows_that_cut_files(tmp_path):
    rows = make_meld(tmp_path / "MELD")
    found = read(tmp_path / "MELD")
    assert found.labels == MELD_EMOTIONS and found.given_splits and found.sessions == ["train", "valid", "test"]
    with pytest.raises(UserError, match="comes with splits of its own"):
        found.without(["train"])
    assert found.notes == {"speakers in several splits": 3}
    one = {"train": ["train"], "valid": ["valid"], "test": ["test"]}
    assert folds(found, 5) == [one] and fold_of(found, 4, 5) == fold_of(found, 0, 2) == one
    for split, table in split_utterances(found.utterances, one).items():
        assert list(table["segment_id"]) == [row["key"] for row in rows if row["split"] == split]
    for row, utterance in zip(rows, found.utterances.itertuples()):
        assert (utterance.start, utterance.duration) == (row["start"], pytest.approx(row["end"] - row["start"]))
        heard = read_waveform(utterance.wav_path, 5.0, utterance.duration, utterance.start)
        sound, _ = soundfile.read(utterance.wav_path, start=round(row["start"] * 16_000), stop=round(row["end"] * 16_000))
        np.testing.assert_allclose(heard, (sound - sound.mean()) / sound.std(), atol=1e-3)


@pytest.mark.parametrize("change", ['"start": 0.05', '"end": 0.3', '"label": "rage"', '"transcript": "다른 말"', '"key": "k"'])
def test_a_changed_row_makes_another_corpus(tmp_path, change):
    make_meld(tmp_path / "MELD", utterances=7)
    before, path = read(tmp_path / "MELD"), tmp_path / "MELD" / "metadata.jsonl"
    name = change.split(":")[0]
    path.write_text(re.sub(rf"{name}: [^,]*", change, path.read_text(), count=1))
    assert read(tmp_path / "MELD").digest != before.digest


# Forms of one table


def as_jsonl(table):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in table.to_dict("records"))


@pytest.mark.parametrize(
    "form",
    [
        {"file_name": "path", "emotion": "label", "transcription": "text", "speaker_id": "speaker"},
        {"file_name": "wav", "emotion": "emo", "transcription": "transcript", "speaker_id": " Speaker "},
        "BOM",
        "CRLF, quoted",
        "more columns, another order, empty rows",
        "jsonl",
    ],
    ids=str,
)
def test_other_forms_say_the_same(own, form):
    before, path = read(own), own / "metadata.csv"
    table = pd.read_csv(path, dtype=str)
    if isinstance(form, dict):
        table.rename(columns=form).to_csv(path, index=False)
    elif form == "BOM":
        table.to_csv(path, index=False, encoding="utf-8-sig")
    elif form == "CRLF, quoted":
        table.to_csv(path, index=False, quoting=1, lineterminator="\r\n")
    elif form == "jsonl":
        path.unlink()
        (own / "metadata.jsonl").write_text(as_jsonl(table), encoding="utf-8")
    else:
        table[["speaker_id", "transcription", "emotion", "file_name"]].assign(rater="x").to_csv(path)
        path.write_text(path.read_text().replace("\n", "\n\n,,,,,\n"))
    found = read(own)
    pd.testing.assert_frame_equal(found.utterances, before.utterances)
    assert found.digest == before.digest and found.notes == ({"columns not read": 1} if "more" in form else {})


TEXTS = [
    ("", "", "empty transcripts", "no text"),
    ("두 줄\n이다", "두 줄 이다", None, ""),
    ("\u1100\u1161", "가", None, ""),  # composed, which is counted
    ('따옴표 "와", NaN 카페 café… 3시·100% ~ 漢字 ①', '따옴표 "와", NaN 카페 café… 3시·100% ~ 漢字 ①', None, ""),
    ("ㅋㅋ 그래 ㅎ", "ㅋㅋ 그래 ㅎ", "transcripts with compatibility jamo", "holds U+314B, U+314E"),
    ("\u11ab그래", "\u11ab그래", "transcripts with uncomposed jamo", "holds U+11AB"),
    ("그래\uff01 \uff21", "그래\uff01 \uff21", "transcripts with full- or half-width forms", "holds U+FF01, U+FF21"),
    ("그\u200b래", "그\u200b래", "transcripts with invisible characters", "holds U+200B"),
    ("그\xa0래", "그\xa0래", "transcripts with unusual spaces", "holds U+00A0"),
    ("q\u0301", "q\u0301", "transcripts with combining marks", "holds U+0301"),
    ("그\ufffd래", "그\ufffd래", "transcripts with replacement characters", "holds U+FFFD"),
    ("그\ue000래", "그\ue000래", "transcripts with private-use characters", "holds U+E000"),
]


def test_texts_and_ids(own):
    ids = [f"u{index}" for index in range(12)]
    changed(own, lambda table: table.assign(id=ids, transcription=[text for text, *_ in TEXTS]))
    found = read(own)
    assert list(found.utterances["text"]) == [text for _, text, *_ in TEXTS]
    assert list(found.utterances["segment_id"]) == ids
    expected = [(kind, str(own / "metadata.csv"), row, ids[row - 2], what) for row, (*_, kind, what) in enumerate(TEXTS, 2)]
    assert found.faults == [fault for fault in expected if fault[0]]
    assert found.notes == {"transcripts composed to NFC": 1} | {kind: 1 for _, _, kind, _ in TEXTS if kind}


def test_numbers_and_missing_values_in_json_lines(own):
    write_jsonl(
        own,
        '{"path": "wav/00.wav", "label": 1, "text": null, "speaker": 7, "start": 0.1}\n'
        '{"path": "wav/01.wav", "label": 2, "text": NaN, "speaker": NaN, "end": NaN}\n',
    )
    found = read(own)
    assert found.labels == ("1", "2") and found.dropped == {"no speaker": 1}
    [row] = found.utterances.itertuples()
    assert (row.segment_id, row.emotion, row.text, row.speaker, row.duration) == ("wav/00-0.100", "1", "", "7", 0.4)


def test_classes_without_a_list(own):
    assert read(own).labels == EMOTIONS  # all among the seven of KEMDy
    changed(own, cell("emotion", "calm"))
    assert read(own).labels == ("calm", "happy", "sad")
    write_json(own, {"label_map": {"calm": None, "happy": "joy"}, "note": "x"})
    found = read(own)
    assert found.labels == ("joy", "sad") and found.dropped == {"label mapped to null": 1}
    assert found.notes == {"keys not read": 1}


def test_segments_of_one_file(own):
    def change(table):
        table["file_name"], table["start"], table["end"] = "long.wav", [f"{n / 4}" for n in range(12)], ""
        table.loc[:10, "end"] = [f"{n / 4 + 0.25}" for n in range(11)]
        table.loc[10, "end"] = f"{SECONDS + 0.03}"  # times are often rounded

    changed(own, change)
    table = read(own).utterances
    assert list(table["segment_id"][:2]) == ["long-0.000", "long-0.250"]
    assert list(table["duration"]) == [0.25] * 10 + [SECONDS - 2.5, SECONDS - 2.75]
    assert len(set(table["wav_digest"])) == 1


def test_a_long_file_is_usable_where_rows_cut_it(own):
    soundfile.write(own / "long.wav", np.tile(tone(1, 1, np.random.default_rng(0), 8_000), 130), 8_000)

    def change(table):
        table["start"] = table["end"] = ""
        table.loc[0, ["file_name", "start", "end"]] = "long.wav", "125", "126.5"
        table.loc[1, ["file_name", "start", "end"]] = "long.wav", "1", "122"

    changed(own, change)
    found = read(own)
    assert found.utterances.loc[0, "duration"] == 1.5 and found.dropped == {"unusable start or end": 1}
    assert found.faults[0].what == "lasts 121 s (usable: 0.025 to 120)"
    assert len(read_waveform(own / "long.wav", 5.0, 1.5, 125.0)) == 24_000
    changed(own, cell("start", "", 1))
    changed(own, cell("end", "", 1))
    found = read_corpus(own.parent, "mine", progress=False)
    assert found.unreadable == [(str(own / "long.wav"), "lasts 130 s (usable: 0.025 to 120)")]


# Groups


def test_sessions_and_speakers_together_make_connected_groups(own):
    changed(own, column("session", [f"S{index}" for index in range(12)]))  # two a speaker
    found = read(own)
    assert len(found.sessions) == 6 and found.notes == {"sessions that share speakers": 6}
    assert set(found.utterances.groupby("session")["speaker"].nunique()) == {1}
    assert found.utterances["session"][0] == "S0 and 1 more"
    # One speaker in all sessions connects all of them.
    changed(own, column("speaker_id", "s0"))
    found = read(own)
    assert found.sessions == ["S0 and 11 more"]
    with pytest.raises(UserError, match="^1 sessions .* too few for 5 folds"):
        folds(found, 5)
    # Where one of the two is not told, the other decides.
    changed(own, column("speaker_id", ""))
    changed(own, cell("session", "", 3))
    found = read(own)
    assert found.dropped == {"no speaker": 1} and len(found.sessions) == 11


def test_groups_do_not_move_when_sound_is_missing(own):
    before = folds(read(own), 5)
    for index in (0, 1):
        (own / "wav" / f"{index:02d}.wav").unlink()
    found = read(own)
    assert found.dropped == {"no wav": 2} and folds(found, 5) == before
    assert found.warnings() == [f"left out, 2 rows whose wav is not there ({found.command} lists them)"]


# Rows that are left out and listed; row 4 of the file is the table's row 2


@pytest.mark.parametrize(
    "column, content, kind, what",
    [
        ("file_name", "wav/no.wav", "no wav", "no wav .*/wav/no.wav"),
        ("file_name", "", "malformed id", "malformed id ''"),
        ("file_name", "wav/\x00.wav", "malformed id", r"malformed id 'wav/\\x00'"),
        ("file_name", "wav/00.wav", "duplicate id", "duplicate id"),
        ("emotion", "", "no label", "no label"),
        ("transcription", "그래\x00", "transcript is not text", r"control character U\+0000"),
        ("speaker_id", "", "no speaker", "neither a speaker nor a session"),
        ("start", "nan", "unusable start or end", "not both seconds"),
        ("start", "-1", "unusable start or end", "not both seconds"),
        ("start", "0,5", "unusable start or end", "not both numbers"),
        ("start", "inf", "unusable start or end", "not both seconds"),
        ("end", "0", "unusable start or end", "start  is not before end 0"),
        ("end", "0.6", "unusable start or end", "ends at 0.60 s, and .*02.wav lasts 0.50 s"),
        ("start", "0.5", "unusable start or end", "starts at 0.50 s, and .*02.wav lasts 0.50 s"),
        ("start", "0.49", "unusable start or end", "lasts 0.01 s"),
    ],
)
def test_a_row_that_cannot_be_used(own, column, content, kind, what):
    changed(own, cell(column, content))
    found = read(own)
    assert found.dropped == {kind: 1}
    [fault] = found.faults
    assert (fault.kind, fault.file, fault.row) == (kind, str(own / "metadata.csv"), 4)
    assert re.search(what, fault.what)


# What is refused, with the file and row


def write_json(root, content):
    (root / "corpus.json").write_text(content if isinstance(content, str) else json.dumps(content))


def write_jsonl(root, text):
    (root / "metadata.csv").unlink()
    (root / "metadata.jsonl").write_text(text)


def write_csv(root, change):
    (root / "metadata.csv").write_bytes(change((root / "metadata.csv").read_bytes()))


ROW = '{"file_name": "wav/00.wav", "emotion": "sad", "text": "", "speaker": "a"}\n'
REFUSED = {
    changed: [
        (
            lambda table: table.drop(columns="file_name"),
            "metadata.csv: there is no column file_name (also read as path or wav)",
        ),
        (lambda table: table.drop(columns="speaker_id"), "there is no column speaker_id, session or split"),
        (lambda table: table.rename(columns={"transcription": "Emotion"}), "the column 'emotion' is there twice"),
        (cell("file_name", "../x.wav"), "row 4: ../x.wav is outside of the corpus's folder"),
        (cell("file_name", "wav/../../x.wav"), "row 4: wav/../../x.wav is outside"),
        (cell("split", "dev"), "row 2: the split '' is none of train, valid, test"),
        (column("emotion", "calm"), "all rows have the label 'calm'"),
        (column("emotion", ""), "no row has a label"),
        (cell("emotion", "a\nb"), "the label 'a\\nb' holds a control character"),
    ],
    write_csv: [
        (lambda data: data.replace(b",", b";"), "are its cells separated by commas?"),
        (lambda data: b"", "metadata.csv: there is no row below a header"),
        (lambda data: data.replace(b"sad,", b"", 1), "row 3 has 3 cells where the header has 4"),
        (lambda data: data.replace(b"sad,", b'"sad,', 1), "is not CSV (unexpected end of data)"),
        (lambda data: data.decode().encode("cp949"), "metadata.csv: line 2 is not in UTF-8"),
    ],
    write_jsonl: [
        (ROW + "{'file_name'}\n", "metadata.jsonl: line 2 is not JSON"),
        (ROW + "\n[1]\n", "metadata.jsonl: line 3 is not a JSON object"),
        ("\n", "metadata.jsonl: there is no line with an object"),
        (ROW.replace('"sad"', '["sad"]'), "line 1: 'emotion' is neither a text nor a number"),
        (ROW.replace('"sad"', '"\\ud800"') + ROW, "the label '\\ud800' holds a control character"),
    ],
    write_json: [
        ("{'labels': []}", "corpus.json cannot be read"),
        ({"labels": "happy"}, "corpus.json: 'labels' is not a list of names"),
        ({"labels": ["sad", "sad"]}, "corpus.json: 'labels' is not a list of two names or more"),
        ({"label_map": []}, "corpus.json: 'label_map' is not an object"),
        ({"label_map": {"sad": 3}}, "corpus.json: 'label_map' is not an object"),
        ({"labels": ["sad", "happy"], "label_map": {"a": "hapy"}}, "label_map maps 'a' to 'hapy', which is not among labels"),
        ({"licence": ["CC"]}, "corpus.json: 'licence' is not a text"),
        ({"labels": ["sad", "calm"]}, "neither lists nor maps the label 'happy' (6 rows): add it to labels, or to label_map"),
    ],
}


@pytest.mark.parametrize("write, content, reason", [(write, *case) for write, cases in REFUSED.items() for case in cases])
def test_a_corpus_that_is_refused(own, call_main, write, content, reason):
    write(own, content)
    line = refused(own)
    assert line.startswith(str(own)) and reason in line
    code, out, err = call_main(audit, own)
    verdict = (out + err).splitlines()[-1]
    assert code == 1 and "NOT ready to train: " in verdict and line in verdict


@pytest.mark.parametrize("name", ["a+b", "a/b", ".hidden", "joint", ""])
def test_names_that_no_corpus_can_have(tmp_path, name):
    with pytest.raises(UserError, match="cannot be the name of a corpus"):
        find_corpus(tmp_path, name)


def test_folders_that_are_no_corpus(own, tmp_path):
    (tmp_path / "empty").mkdir()
    make_kemdy20(tmp_path / "KEMDy19", sessions=2, utterances=1)
    (own / "metadata.jsonl").write_text(ROW)
    assert refused(own).startswith(f"{own} holds metadata.csv and metadata.jsonl")
    assert refused(tmp_path / "gone").startswith(f"no corpus at {tmp_path}/gone: see docs/own-corpus.md")
    assert "empty holds neither metadata.csv nor metadata.jsonl, nor annotation/" in refused(tmp_path / "empty")
    assert "KEMDy19 holds the annotations of KEMDy20, not of KEMDy19" in refused(tmp_path / "KEMDy19")


def test_kemdy_under_another_name_is_read_by_its_reader(tmp_path):
    make_kemdy20(tmp_path / "talk", sessions=6, utterances=2)
    found = read_corpus(tmp_path, "talk", progress=False)
    assert found.name == "talk" and found.is_kemdy and found.labels == EMOTIONS and found.sessions == [1, 2, 3, 4, 5, 6]


# The commands


def test_folds_and_classes_of_a_sequence(tmp_path, monkeypatch, call_main):
    make_iemocap(tmp_path / "A", utterances=1)
    make_meld(tmp_path / "B", utterances=7)
    make_kemdy20(tmp_path / "KEMDy20", sessions=2, utterances=1)
    monkeypatch.setattr("utils.data.audio.read_header", None)  # no sound is looked at
    order = ["--data_root", tmp_path]
    four = ["angry", "happy", "neutral", "sad"]
    others = [label for label in MELD_EMOTIONS if label not in four]
    assert call_main(corpus, "A", "B", *order)[1].splitlines() == ["0 1 2 3 4", *four, *others]
    assert call_main(corpus, "B", *order)[1].splitlines() == ["0", *MELD_EMOTIONS]
    found = call_main(corpus, "KEMDy20", "A", "--k_fold", 3, *order)[1].splitlines()
    assert found == ["0 1 2", *EMOTIONS]
    for name in ("joint", "no"):
        code, out, err = call_main(corpus, "A", name, *order)
        assert code == 1 and not out and err.count("\n") == 1 and name in err
    write_json(tmp_path / "A", {"labels": ["ang", "hap"]})
    assert "neither lists nor maps the label 'xxx' (5 rows), 'exc' (1 row), " in call_main(corpus, "A", *order)[2]


def test_the_verdict(own, call_main):
    assert utils.kemdy.main is audit.main  # its former name
    code, out, _ = call_main(audit, own)
    assert code == 0 and out.splitlines()[-1] == "OK to train: 0 blocking, 0 notes" and "as known" not in out
    changed(own, cell("transcription", ""))
    (own / "wav" / "00.wav").unlink()
    code, out, _ = call_main(audit, own)
    assert code == 0 and out.splitlines()[-1] == "OK to train: 0 blocking, 2 notes"
    (own / "wav" / "01.wav").write_bytes(b"")
    write_json(own, {"labels": ["sad", "calm"]})
    code, out, _ = call_main(audit, own)
    verdict = out.splitlines()[-1]
    assert code == 1 and verdict.startswith("NOT ready to train: 2 blocking, ")
    assert "'happy' (6 rows)" in verdict and "1 wav file(s) cannot be used" in verdict


@pytest.mark.parametrize(
    "change, reason",
    [
        (column("speaker_id", "one"), "1 sessions (or groups of speakers) are too few for 5 folds"),
        (column("split", "train"), "the valid split of fold 0 has no usable utterance"),
        (column("file_name", "no.wav"), "no utterance is usable"),
    ],
)
def test_what_would_end_a_run_before_it_starts(own, call_main, change, reason):
    changed(own, change)
    code, out, _ = call_main(audit, own)
    assert code == 1 and out.splitlines()[-1].startswith("NOT ready to train: 1 blocking, ") and reason in out.splitlines()[-1]
