"""The loader of KEMDy19 and KEMDy20, on look-alikes that hold every known defect of the real copies."""

import builtins
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from lookalike import RATERS, make_kemdy19, make_kemdy20

from utils.data import audit
from utils.data.audio import read_waveform
from utils.data.corpus import COLUMNS, find_corpus, read_folder
from utils.data.folds import session_folds
from utils.data.kemdy import EMOTIONS
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
MAKE = {"KEMDy19": make_kemdy19, "KEMDy20": make_kemdy20}
both_corpora = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def read(root):
    return read_folder(root, progress=False)


@pytest.fixture(scope="module", params=MAKE)
def trapped(request, tmp_path_factory):
    """A corpus with all traps, below a path that holds both letters, a session's number and the other corpus's name."""
    other = {"KEMDy19": "KEMDy20", "KEMDy20": "KEMDy19"}[request.param]
    root = tmp_path_factory.mktemp("F_M001") / "Session02_M" / "User001F" / other
    expected = MAKE[request.param](root, traps=True)
    return SimpleNamespace(name=request.param, root=root, expected=expected, corpus=read(root))


# What comes out of a copy with all the defects


def test_usable_utterances(trapped):
    table = trapped.corpus.utterances
    assert list(table.columns) == list(COLUMNS) and set(table["start"]) == {0}
    # The corpus is recognised by its annotations, not by its folder.
    assert trapped.root.name != trapped.name == trapped.corpus.name and trapped.corpus.sessions == [1, 2, 3, 4, 5, 6]
    # The class indices of the published checkpoints; KEMDy20 spells one of them in another way.
    assert trapped.corpus.labels == EMOTIONS == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert set(table["emotion"]) == set(EMOTIONS)
    found = {row.segment_id: (row.session, row.emotion, row.text, row.duration) for row in table.itertuples()}
    assert len(found) == len(table)
    assert {key: value[:3] for key, value in found.items()} == {
        key: value[:3] for key, value in trapped.expected.utterances.items()
    }
    # Stereo, 8 kHz and 44.1 kHz among them: seconds, not samples.
    for segment_id, (*_, seconds) in trapped.expected.utterances.items():
        assert found[segment_id][3] == pytest.approx(seconds), segment_id
    for row in table.itertuples():
        path = Path(row.wav_path)
        assert path.stem == row.segment_id and path.parent.name != "converted"
        assert row.wav_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (table.groupby("speaker")["session"].nunique() == 1).all()
    assert (table.groupby("session")["speaker"].nunique() == 2).all()
    silent = table.set_index("segment_id")["wav_path"][trapped.expected.ids["all-zero wav"]]
    assert (read_waveform(silent, 5) == 0).all()


def test_every_row_is_kept_or_counted_under_its_reason(trapped):
    corpus = trapped.corpus
    assert {reason: count for reason, count in corpus.dropped.items() if count} == dict(trapped.expected.dropped)
    assert corpus.rows == trapped.expected.rows
    assert corpus.rows == len(corpus.utterances) + sum(corpus.dropped.values())
    assert {note: count for note, count in corpus.notes.items() if count} == +trapped.expected.notes
    assert {Path(path) for path, _ in corpus.unreadable} == trapped.expected.unreadable


def test_labels_come_from_the_speakers_own_file(tmp_path):
    expected = make_kemdy19(tmp_path, sessions=2)
    emotions = read(tmp_path).utterances.set_index("segment_id")["emotion"]
    assert len(emotions) == 16
    for segment_id, emotion in emotions.items():
        assert emotion == expected.utterances[segment_id][1] != expected.listener_labels[segment_id]


def test_session_with_wrong_numbers_is_not_mended_without_its_wavs(tmp_path):
    make_kemdy20(tmp_path, sessions=3)
    second, third = (tmp_path / "annotation" / f"Sess0{number}_eval.csv" for number in (2, 3))
    # Now the ids are those of the third session, whose wavs exist; those of the second have other users' names.
    shutil.copy(third, second)
    corpus = read(tmp_path)
    assert corpus.dropped == {"id of another session": 8} and "ids mended" not in corpus.notes
    assert len(corpus.utterances) == 16 and corpus.sessions == [1, 2, 3]


# Rows as documented, written by hand, so that loader and generator cannot share a misreading


def test_documented_rows_of_kemdy19(tmp_path):
    names = ("01F", "02M", "03F", "04F", "05M", "06M", "07M", "08F", "09M", "10F")
    header = (
        "Numb,Wav,,ECG,,E4-EDA,,E4-TEMP,,Segment ID,Total Evaluation,,," + ",".join(f"Eval{name},," for name in names) + "\n"
        ",start,end,start,end,start,end,start,end,,Emotion,Valence,Arousal" + ",Emotion,Valence,Arousal" * 10 + "\n"
    )
    first = "1,0.512,3.204,101.0,102.0,0.31,0.32,33.1,33.1,Sess01_impro01_F001,{},4.2,3.6" + ",happy,4,4" * 10 + "\n"
    second = "2,3.204,7.15,,,0.32,0.32,33.1,33.1,Sess01_impro01_M001,{},2.6,3.1" + ",neutral,3,3" * 10 + "\n"
    (tmp_path / "annotation").mkdir()
    files = {"F": ("happy", "neutral;disgust"), "M": ("angry", "sad")}
    for letter, labels in files.items():
        rows = header + first.format(labels[0]) + second.format(labels[1])
        (tmp_path / "annotation" / f"Session01_{letter}_res.csv").write_text(rows, encoding="utf-8")
    folder = tmp_path / "wav" / "Session01" / "Sess01_impro01"
    folder.mkdir(parents=True)
    for stem, text in (("Sess01_impro01_F001", "기뻐\n"), ("Sess01_impro01_M001", "슬퍼\n")):
        soundfile.write(folder / f"{stem}.wav", np.zeros(8_000), 16_000, subtype="PCM_16")
        (folder / f"{stem}.txt").write_text(text, encoding="utf-8")
    corpus = read(tmp_path)
    columns = ["segment_id", "session", "emotion", "text", "duration"]
    assert corpus.utterances[columns].values.tolist() == [
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
    folder = tmp_path / "wav" / "Session01"
    folder.mkdir(parents=True)
    for stem in ("User001F_001", "User002M_001", "User001F_002"):
        soundfile.write(folder / f"Sess01_script01_{stem}.wav", np.zeros(8_000), 16_000, subtype="PCM_16")
        (folder / f"Sess01_script01_{stem}.txt").write_bytes("그래 \n".encode("cp949"))
    corpus = read(tmp_path)
    assert corpus.utterances[["segment_id", "session", "emotion", "text"]].values.tolist() == [
        ["Sess01_script01_User001F_001", 1, "neutral", "그래"],
        ["Sess01_script01_User001F_002", 1, "disgust", "그래"],
    ]
    assert corpus.dropped == {"several labels": 1}


# The look-alikes themselves: other tests train on them


@both_corpora
def test_lookalike_has_the_documented_form(tmp_path, make):
    make(tmp_path, sessions=2)
    cells, blank, id_form, names = {
        make_kemdy19: (43, "", r"Sess(0[1-9]|1\d|20)_(script0[1-6]|impro0[1-4])_([FM])(\d{3})", "Session*_res.csv"),
        make_kemdy20: (37, " ", r"Sess(0[1-9]|[1-3]\d|40)_(script0[1-6])_(User(0[0-8]\d)([FM]))_(\d{3})", "Sess*_eval.csv"),
    }[make]
    raters = set()
    for path in (tmp_path / "annotation").glob(names):
        first, second, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
        assert {len(row) for row in (first, second, *rows)} == {cells}
        assert first[2] == second[0] == first[-1] == blank
        assert second[-33:] == ["Emotion", "Valence", "Arousal"] * 11
        raters.add(tuple(cell.removeprefix("Eval") for cell in first if cell.startswith("Eval")))
        assert all(re.fullmatch(id_form, row[first.index("Segment ID")]) for row in rows)
        if cells == 43:
            assert any(row[3:9] == [""] * 6 for row in rows)
    assert raters == set(RATERS["KEMDy19" if cells == 43 else "KEMDy20"])
    formats = {(info.samplerate, info.channels, info.subtype) for info in map(soundfile.info, tmp_path.rglob("*.wav"))}
    assert formats == {(16_000, 1, "PCM_16")}


@both_corpora
def test_lookalike_is_the_size_asked_for_and_the_same_each_time(tmp_path, make):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(tmp_path / name, sessions=3, utterances=7, seed=seed)
    table = read(tmp_path / "a").utterances
    assert (table["session"].value_counts() == 7).all()
    assert all(set(session["emotion"]) == set(EMOTIONS) for _, session in table.groupby("session"))

    def content(name):
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file() and not path.name.startswith("."))
        return [(path.relative_to(tmp_path / name), path.read_bytes()) for path in files]

    assert content("a") == content("b") != content("c")


# The index of wavs


def test_second_reading_opens_no_wav(tmp_path, monkeypatch):
    make_kemdy19(tmp_path / "here", sessions=2)
    first = read(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "copy", copy_function=shutil.copyfile)
    assert read(tmp_path / "copy").digest == first.digest
    monkeypatch.setattr("utils.data.audio.soundfile", None)
    pd.testing.assert_frame_equal(first.utterances, read(tmp_path / "here").utterances)
    # Nor after the corpus moved.
    (tmp_path / "here").rename(tmp_path / "there")
    assert read(tmp_path / "there").digest == first.digest


@pytest.mark.parametrize("kept", ["size", "time"])
def test_changed_wav_is_looked_at_again_and_no_other(tmp_path, monkeypatch, kept):
    make_kemdy20(tmp_path, sessions=2)
    before = read(tmp_path).utterances
    path = Path(before["wav_path"][3])
    stat = path.stat()
    samples, _ = soundfile.read(path)
    if kept == "size":
        soundfile.write(path, samples, 8_000, subtype="PCM_16")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
        assert path.stat().st_size == stat.st_size
        seconds = len(samples) / 8_000
    else:
        soundfile.write(path, samples[:-160], 16_000, subtype="PCM_16")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        seconds = len(samples[:-160]) / 16_000
    opened, sound_file = [], soundfile.SoundFile
    monkeypatch.setattr(soundfile, "SoundFile", lambda file: opened.append(Path(file)) or sound_file(file))
    after = read(tmp_path).utterances
    assert after["duration"][3] == pytest.approx(seconds)
    assert opened == [path]
    assert after["duration"].drop(3).equals(before["duration"].drop(3))


def test_wav_that_broke_or_vanished_since_is_noticed(tmp_path):
    make_kemdy20(tmp_path, sessions=2)
    paths = [Path(path) for path in read(tmp_path).utterances["wav_path"][:2]]
    content = paths[0].read_bytes()
    paths[0].write_bytes(b"")
    paths[1].unlink()
    corpus = read(tmp_path)
    assert [Path(path) for path, _ in corpus.unreadable] == paths[:1]
    assert corpus.dropped == {"no wav": 1, "unreadable wav": 1}
    paths[0].write_bytes(content)
    assert read(tmp_path).dropped == {"no wav": 1}


@pytest.mark.parametrize("damage", [b"", b"path,size\n\xff\xfe,,\n", b"path,size,mtime_ns,frames\na.wav,1\n"])
def test_damaged_index_is_made_again(tmp_path, monkeypatch, damage):
    make_kemdy20(tmp_path, sessions=2, utterances=2)
    first = read(tmp_path)
    (tmp_path / ".wav_index.csv").write_bytes(damage)
    pd.testing.assert_frame_equal(first.utterances, read(tmp_path).utterances)
    monkeypatch.setattr("utils.data.audio.soundfile", None)
    read(tmp_path)


def test_what_a_killed_process_left_of_an_index_goes_in_time(tmp_path):
    make_kemdy20(tmp_path, sessions=2, utterances=2)
    old, young = (tmp_path / f".wav_index.csv.{host}.7" for host in ("a", "b"))
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    read(tmp_path)
    assert not old.exists() and young.exists()  # which another process may be writing


def test_corpus_on_read_only_storage(tmp_path, monkeypatch):
    make_kemdy20(tmp_path, sessions=2, utterances=2)
    before = sorted(tmp_path.rglob("*"))

    def refuse(path, *args, **kwargs):
        # On a file system mounted read-only even the removal of a file that does not exist ends this way.
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def guarded(function):
        def opened(file, mode="r", *args, **kwargs):
            if set(mode) & set("wax+") and str(file).startswith(str(tmp_path)):
                refuse(file)
            return function(file, mode, *args, **kwargs)

        return opened

    monkeypatch.setattr(builtins, "open", guarded(builtins.open))
    monkeypatch.setattr(io, "open", guarded(io.open))
    for name in ("mkdir", "remove", "rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    assert len(read(tmp_path).utterances) == 4
    assert len(read(tmp_path).utterances) == 4
    assert sorted(tmp_path.rglob("*")) == before


# The digest


def louder(root):
    path = next((root / "wav").rglob("*.wav"))
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples // 2, rate, subtype="PCM_16")


def relabelled(root):
    path = root / "annotation" / "Sess01_eval.csv"
    path.write_text(re.sub(r"(_00\d),\w+,", r"\1,sad,", path.read_text()))


@pytest.mark.parametrize(
    "change",
    [
        louder,
        lambda root: next((root / "wav").rglob("*.txt")).write_text("다른 말"),
        lambda root: next((root / "wav").rglob("*.wav")).unlink(),
        relabelled,
    ],
    ids=["sound", "text", "missing wav", "label"],
)
def test_a_changed_corpus_is_another(tmp_path, change):
    make_kemdy20(tmp_path, sessions=2)
    digest = read(tmp_path).digest
    change(tmp_path)
    assert read(tmp_path).digest != digest


# What a model hears


def test_waveform_is_cut_before_it_is_normalised(tmp_path):
    path = tmp_path / "a.wav"
    quiet = 0.01 * np.sin(np.arange(16_000) / 5) + 0.1
    soundfile.write(path, np.concatenate([quiet, np.ones(16_000) * 0.9]), 16_000, subtype="PCM_16")
    waveform = read_waveform(path, 1)
    assert waveform.shape == (16_000,) and waveform.dtype == np.float32
    assert waveform.mean() == pytest.approx(0, abs=1e-4)
    assert waveform.std() == pytest.approx(1, abs=1e-2)
    assert len(read_waveform(path, 5)) == 32_000


@pytest.mark.parametrize("samplerate", [8_000, 44_100])
def test_other_rates_sound_the_same_at_16_khz(tmp_path, samplerate):
    for rate in (samplerate, 16_000):
        soundfile.write(tmp_path / f"{rate}.wav", 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate), rate)
    # One of the two seconds is heard, cut at the new rate.
    resampled, direct = (read_waveform(tmp_path / f"{rate}.wav", 1) for rate in (samplerate, 16_000))
    assert len(resampled) == len(direct) == 16_000
    # Away from the ends, where a filter has nothing to look at.
    np.testing.assert_allclose(resampled[200:-200], direct[200:-200], atol=0.03)


def test_channels_are_averaged(tmp_path):
    left, right = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 8_000))
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", (left + right) / 2, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_waveform(tmp_path / "stereo.wav", 5), read_waveform(tmp_path / "mono.wav", 5), atol=1e-4)


# Copies that are not whole, or not a corpus


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
    "files",
    [
        None,
        [],
        ["annotation/Sess01_eval.csv"],
        ["wav/Session01/Sess01_script01_User001F_001.wav"],
        ["annotation/labels.csv", "wav/a.wav"],
        ["annotation/Sess01_eval.csv", "annotation/Session01_F_res.csv", "annotation/Session01_M_res.csv", "wav/a.wav"],
    ],
    ids=["missing", "empty", "no wav folder", "no annotation folder", "no annotation file", "two corpora in one"],
)
def test_folder_that_is_no_corpus(tmp_path, files):
    root = tmp_path / "KEMDy20"
    if files is not None:
        root.mkdir()
    for file in files or []:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    with pytest.raises(UserError, match=re.escape(str(root))) as caught:
        read(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("letter", ["F", "M"])
def test_one_of_a_sessions_two_files_is_missing(tmp_path, letter):
    make_kemdy19(tmp_path, sessions=2, utterances=2)
    missing = tmp_path / "annotation" / f"Session02_{letter}_res.csv"
    missing.unlink()
    with pytest.raises(UserError, match=re.escape(missing.name)):
        read(tmp_path)


def test_a_real_copy_that_lacks_a_session_is_told_so(tmp_path):
    make_kemdy20(tmp_path / "KEMDy20", sessions=6, utterances=7)
    for path in (tmp_path / "KEMDy20" / "annotation").glob("Sess03_*"):
        path.unlink()
    corpus = read(tmp_path / "KEMDy20")
    assert corpus.synthetic and corpus.sessions == [1, 2, 4, 5, 6] and corpus.warnings() == []
    (tmp_path / "KEMDy20" / "SYNTHETIC").unlink()
    corpus = read(tmp_path / "KEMDy20")
    assert not corpus.synthetic
    assert corpus.warnings() == ["5 of 40 sessions are here: the folds are not the published ones"]


def test_linked_session_folders_are_followed_and_circles_are_not(tmp_path):
    expected = make_kemdy20(tmp_path / "KEMDy20", sessions=5, utterances=7)
    session = tmp_path / "KEMDy20" / "wav" / "Session01"
    session.rename(tmp_path / "elsewhere")
    session.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "KEMDy20" / "wav")
    assert len(read(tmp_path / "KEMDy20").utterances) == len(expected.utterances)


# The audit


def test_audit(trapped, call_main, tmp_path):
    corpus = trapped.corpus
    arguments = ("--csv", tmp_path / "table.csv", "--folds-json", tmp_path / "folds.json")
    code, out, err = call_main(audit, trapped.root, *arguments)
    assert code == 1 and out.splitlines()[-1].startswith("NOT ready to train: 1 blocking, "), err  # the unreadable wavs
    for name, count in (*trapped.expected.dropped.items(), *(+trapped.expected.notes).items()):
        assert re.search(rf"^\W*{re.escape(name)}\W+{count}\b", out, re.MULTILINE), name
    for emotion, count in corpus.utterances["emotion"].value_counts().items():
        assert re.search(rf"^\W*{emotion}\W+{count}\b", out, re.MULTILINE), emotion
    assert f"{corpus.rows}\n" in out and "longest 30.50" in out and "SYNTHETIC" in out
    assert all(str(path) in out for path in trapped.expected.unreadable)
    for fold in session_folds(corpus.sessions):
        for split in ("train", "valid", "test"):
            size = corpus.utterances["session"].isin(fold[split]).sum()
            assert f"{', '.join(map(str, fold[split]))} ({size})" in out
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(table, corpus.utterances, check_dtype=False)
    folds = json.loads((tmp_path / "folds.json").read_text(encoding="utf-8"))
    assert folds == {str(index): fold for index, fold in enumerate(session_folds(range(1, 7)))}


def test_only_what_may_be_the_real_corpus_is_compared_with_it(tmp_path, call_main):
    make_kemdy20(tmp_path / "KEMDy20", sessions=40, utterances=1)
    code, out, _ = call_main(audit, tmp_path / "KEMDy20")
    assert code == 0 and "real corpus" not in out and "\nno faults\n" in out
    assert out.splitlines()[-1] == "OK to train: 0 blocking, 1 notes"  # CP949
    (tmp_path / "KEMDy20" / "SYNTHETIC").unlink()
    code, out, _ = call_main(audit, tmp_path / "KEMDy20")
    assert code == 0 and "the real corpus has 12,828" in out and "test: the real corpus has 2,513" in out


def test_audit_that_has_nothing_to_say(tmp_path, monkeypatch, call_main):
    make_kemdy20(tmp_path / "corpus", sessions=4, utterances=2)
    # For a part of a corpus the audit is of use as well.
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
