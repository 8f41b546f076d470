"""predict.py: what training wrote, of any file, with every bad input a row or a line."""

import json
import os
import shutil
import stat
import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import flags, folder, run_main
from invented import change
from test_export import LABELS, make_run

import predict
from models import speech
from predict import load_predictor
from utils.data.audio import read_waveform, unchanged
from utils.data.corpus import read_corpus
from utils.data.recordings import decoded
from utils.errors import UserError
from utils.methods import KEMDY
from utils.results.export import export
from utils.training import predictor as module
from utils.training import routing

A, B = KEMDY
MP3 = {"format": "MP3", "subtype": "MPEG_LAYER_III"}


@pytest.fixture(scope="module")
def utterances(data_root):
    """Table of all utterances of both corpora by (task, segment id)."""
    tables = {name: read_corpus(data_root, name).utterances.set_index("segment_id") for name in KEMDY}
    return pd.concat(tables, names=["task"])


@pytest.fixture(scope="module")
def whole(outputs, data_root, encoders, tmp_path_factory):
    """Output folder of an adapter that was trained on features in float32."""
    root = tmp_path_factory.mktemp("float32")
    run_main("adapter.py", "--task", A, "--speech_cache_precision", "float32", *flags(data_root, encoders, root))
    return root


@pytest.fixture(scope="module")
def routed(outputs, tmp_path_factory):
    """Run folders of two adapters with centroids.pt."""
    root = tmp_path_factory.mktemp("routed")
    runs = [shutil.copytree(folder(outputs, "adapter", task), root / task) for task in KEMDY]
    for run in runs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["routing", str(run), "--cpu", "--num_workers", "0"])
            routing.main()
    return runs


@pytest.fixture
def wavs(utterances):
    """Six files of an utterance each, with their texts."""
    table = utterances.loc[A].head(6)
    return table["wav_path"].tolist(), table["text"].tolist()


def probabilities(table):
    return table.filter(like="p_").to_numpy(dtype=float)


def named(encoders):
    return {f"{kind}_model": encoders / kind for kind in ("text", "speech")}


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize(
    "method, tolerance", [("finetune", 1e-5), ("adapter", 2e-3), ("adapter_wo_pretraining", 2e-3), ("float32", 1e-5)]
)
def test_predictions_are_those_of_the_run(
    outputs, whole, utterances, encoders, tmp_path, method, tolerance, exported, batch_size
):
    run = folder(whole, "adapter", A) if method == "float32" else folder(outputs, method, A)
    stored, model = pd.read_csv(run / "predictions.csv"), run
    if exported:
        model = tmp_path / "model.safetensors"
        export(run, model)
    of = utterances.loc[list(zip(stored["task"], stored["segment_id"]))]
    predictor = load_predictor(model, device="cpu", batch_size=batch_size, **(named(encoders) if "wo" not in method else {}))
    found = predictor.predict(of["wav_path"], of["text"])
    assert found["file_name"].tolist() == of["wav_path"].tolist() and not any(found["error"])
    assert list(found.columns[3:-4]) == [column for column in stored.columns if column.startswith("p_")] + ["entropy"]
    assert np.abs(probabilities(found) - probabilities(stored)).max() <= tolerance
    if tolerance < 1e-4:
        assert found["predicted"].tolist() == stored["predicted"].tolist()
    assert found["score"].to_numpy() == pytest.approx(probabilities(found).max(axis=1))
    assert set(found["task_by"]) == {"" if method == "finetune" else "given"}
    assert found["model"].str.fullmatch("[0-9a-f]{12}").all() and found["model"].nunique() == 1


def test_silence_is_noted(outputs, tmp_path):
    tone = np.sin(np.arange(16_000))
    soundfile.write(tmp_path / "opposite.wav", np.stack([tone, -tone], axis=1), 16_000)
    with pytest.warns(UserWarning, match="1 of 1 recordings contain only silence, or channels that cancel"):
        load_predictor(folder(outputs, "task_a", A), device="cpu").predict(tmp_path / "opposite.wav", "네")


def test_any_format_is_read(outputs, wavs, tmp_path):
    files, texts = wavs
    copies = {name: [] for name in ("flac", "stereo", "44100", "48000", "mp3")}
    for index, file in enumerate(files):
        samples, rate = soundfile.read(file, dtype="float32")
        for name in copies:
            path = tmp_path / f"{index}-{name}.{name if name in ('flac', 'mp3') else 'wav'}"
            copies[name].append(path)
            if name in ("44100", "48000"):
                count = round(len(samples) * int(name) / rate)
                other = np.interp(np.arange(count) * rate / int(name), np.arange(len(samples)), samples)
                soundfile.write(path, other, int(name), subtype="FLOAT")
            elif name == "stereo":
                soundfile.write(path, np.stack([samples, samples], axis=1), rate)
            else:
                soundfile.write(path, samples, rate, **(MP3 if name == "mp3" else {}))
    predictor = load_predictor(folder(outputs, "task_a", A), device="cpu")
    expected = probabilities(predictor.predict(files, texts))
    for name, paths in copies.items():
        found = predictor.predict(paths, texts)
        assert not any(found["error"])
        moved = np.abs(probabilities(found) - expected)
        assert moved.max() <= 1e-6 if name in ("flac", "stereo") else np.median(moved) <= 0.02, name


def test_long_recordings(outputs, call_main, tmp_path, wavs):
    # Longer than what can be trained on: 130 s, of which a model hears 5.
    samples = np.concatenate([soundfile.read(file)[0] for file in wavs[0]])
    soundfile.write(tmp_path / "long.wav", np.tile(samples, 40)[: 131 * 16_000], 16_000)
    (tmp_path / "list.csv").write_text("path,text,start,end\nlong.wav,네,0.5,13.9\nlong.wav,네,0,2\nlong.wav,네,,\n")
    arguments = [predict, folder(outputs, "task_a", A), "--csv", tmp_path / "list.csv", "--cpu", "--output"]
    found = {}
    for flag in ("", "--windows", "--segments"):
        code, stdout, stderr = call_main(*arguments, tmp_path / f"out{flag}.jsonl", *filter(None, [flag]))
        found[flag] = pd.read_json(tmp_path / f"out{flag}.jsonl", lines=True)
        assert code == 0 and ("2 of 3 recordings are longer than 5 s" in stderr) == (not flag), stderr
    segments = found["--segments"]
    first = segments[:5]
    assert first["start"].tolist() == [0.5, 3.0, 5.5, 8.0, 10.5] and first["end"].tolist() == [5.5, 8.0, 10.5, 13.0, 13.9]
    assert segments["end"][5] == 2 and segments["end"].iloc[-1] == 131 and len(segments) == 5 + 1 + 52
    assert np.allclose(probabilities(found["--windows"])[0], probabilities(first).mean(axis=0), atol=1e-8)
    assert np.allclose(probabilities(found[""])[0], probabilities(first)[0], atol=1e-6)
    assert np.allclose(probabilities(found[""])[1], probabilities(found["--windows"])[1], atol=1e-6)


def test_a_long_file_is_not_read_whole(outputs, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.flac", np.random.default_rng(0).normal(scale=0.1, size=16_000 * 300), 16_000)
    counts, read = [], soundfile.SoundFile.read

    def counted(self, *arguments, **named):
        samples = read(self, *arguments, **named)
        counts.append(len(samples))
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    predictor = load_predictor(folder(outputs, "task_a", A), device="cpu")
    with pytest.warns(UserWarning, match="no transcript: predicted from their speech and an empty transcript"):
        assert len(predictor.predict(tmp_path / "long.flac", segments=True)) == 119
    whole = 16_000 * 300
    # Once to look at it, in blocks, and each second twice.
    assert max(counts) < whole / 2 and sum(counts) < 3.1 * whole


def test_parts_of_an_mp3_are_those_of_the_whole(tmp_path):
    path = str(tmp_path / "a.mp3")
    soundfile.write(path, np.sin(np.arange(16_000 * 20) ** 1.3 / 50), 16_000, **MP3)
    found, whole = decoded(path, parts=True), soundfile.read(path, dtype="float32")[0]
    copy, seconds = found.path, found.header.duration
    assert unchanged(path, found.header) and np.array_equal(read_waveform(copy, 5, seconds), read_waveform(path, 5, seconds))
    part = whole[16_000 * 13 : 16_000 * 18]
    heard = read_waveform(copy, 5.0, seconds - 13, 13.0)  # which a seek in the file itself would begin with silence
    np.testing.assert_allclose(heard, (part - part.mean()) / part.std(), atol=1e-4)
    del found
    assert not os.path.exists(copy)


def test_each_bad_file_is_a_row(outputs, call_main, tmp_path, wavs, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    files, texts = wavs
    good, root = files[0], tmp_path / "recordings"
    root.mkdir()
    shutil.copy(good, root / "good.wav")
    (root / "empty.wav").touch()
    (root / "note.wav").write_text("no sound")
    (root / "sound.raw").write_bytes(bytes(1_000))
    soundfile.write(root / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(root / "=1+1.wav", np.sin(np.arange(16_000)), 16_000)
    shutil.copy(good, root / unicodedata.normalize("NFD", "기쁨.wav"))
    (root / "cut.wav").write_bytes((root / "good.wav").read_bytes()[:-1_000])
    rows = [
        ("good.wav", "네", "", "", ""),
        ("missing.wav", "네", "", "", "No such file"),
        ("empty.wav", "네", "", "", "is empty (0 bytes)"),
        (
            "note.wav",
            "네",
            "",
            "",
            "is in no format that can be read here without ffmpeg: convert it (ffmpeg -i note.wav note.flac)",
        ),
        ("nan.wav", "네", "", "", "not finite"),
        ("../recordings/../x.wav", "네", "", "", "is outside of"),
        (str(root / "good.wav"), "네", "", "", "is outside of"),
        ("cut.wav", "네", "", "", "is truncated"),
        ("good.wav", "네", "1", "0.5", "start 1 is not before end 0.5"),
        ("good.wav", "네", "x", "", "are not both numbers"),
        ("good.wav", "네", "900", "", "starts at 900.00 s"),
        ("good.wav", "네", "0", "0.01", "lasts 0.01 s"),
        ("", "네", "", "", "no file_name"),
        ("a\0b.wav", "네", "", "", "its name holds a control character"),
        ("good.wav", "a\0b", "", "", "its transcript is not text"),
        ("=1+1.wav", "네", "0", "0.5", ""),
        ("good.wav", "아 " * 5_000, "", "", ""),
        (".", "네", "", "", "is a folder"),
        ("sound.raw", "네", "", "", "is raw audio"),
        ("기쁨.wav", "네", "", "", ""),
        ("기" * 300, "네", "", "", "File name too long"),
    ]
    table = pd.DataFrame(rows, columns=["file_name", "transcription", "start", "end", "wrong"])
    table.to_csv(root / "list.csv", index=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = [predict, folder(outputs, "task_a", A), "--csv", root / "list.csv", "--cpu", "--batch_size", 2]
    code, stdout, stderr = call_main(*arguments, "--output", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert code == 1 and f"wrote {tmp_path / 'out.jsonl'} (21 rows, 17 with an error)" in stdout
    assert [line["file_name"] for line in lines] == table["file_name"].tolist()
    for line, wrong in zip(lines, table["wrong"]):
        assert wrong in line["error"] and bool(line["error"]) == bool(wrong) and "\n" not in line["error"]
        assert (line["score"] is None) == bool(wrong) and (line["predicted"] == "") == bool(wrong)
    assert "1 of 21 recordings have a transcript of more than 64 tokens" in stderr
    # As a .csv, and on the terminal.
    call_main(*arguments, "--output", tmp_path / "out.csv")
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert written["file_name"][15] == "'=1+1.wav" and len(written) == 21
    code, stdout, _ = call_main(*arguments)
    head, *body = stdout.splitlines()
    assert code == 1 and head.split() == ["file_name", "predicted", "score", "entropy", "model", "error"] and len(body) == 21
    assert "\0" not in stdout


def test_wrong_calls_are_one_line(outputs, call_main, tmp_path, wavs):
    model, wav = folder(outputs, "task_a", A), wavs[0][0]
    (tmp_path / "none.csv").write_text("name,text\nx,y\n")
    (tmp_path / "odd.csv").write_text('file_name,text\nx,"y\n')
    (tmp_path / "odd.jsonl").write_text('{"file_name": "x"}\n[1]\n')
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\0\1" * 9)
    unfinished = shutil.copytree(model, tmp_path / "unfinished", ignore=shutil.ignore_patterns("metrics.json"))
    combined = shutil.copytree(model, tmp_path / "combined", ignore=shutil.ignore_patterns("best_model.pt"))
    for arguments, answer in [
        ((model, "--csv", tmp_path / "none.csv"), "there is no column file_name (also read as path or wav)"),
        ((model, "--csv", tmp_path / "odd.csv"), "is not CSV"),
        ((model, "--csv", tmp_path / "odd.jsonl"), "line 2 is not a JSON object"),
        ((model, "--csv", tmp_path / "bytes.csv"), "is not in UTF-8"),
        ((model, "--csv", tmp_path / "gone.csv"), "cannot be read"),
        ((model, "--wav", wav, "--text", "a", "b"), "--text: 2 texts for 1 --wav"),
        ((model, "--wav", wav, "--csv", "x"), "not allowed with"),
        ((model,), "one of the arguments --wav --csv is required"),
        ((model, "--wav", wav, "--windows", "--segments"), "not allowed with"),
        ((model, "--wav", wav, "--output", "x.txt"), "must end in .csv or .jsonl"),
        ((model, "--wav", wav, "--output", tmp_path / "gone" / "x.csv"), "cannot be written"),
        ((model, "--csv", tmp_path / "none.csv", "--output", tmp_path / "none.csv"), "is the table that --csv names"),
        ((tmp_path / "gone", "--wav", wav), "gone does not exist"),
        ((model / "best_model.pt", "--wav", wav), "best_model.pt is neither a run folder nor an exported file"),
        ((tmp_path, "--wav", wav), "is not a finished run of one model (it has no metrics.json)"),
        ((unfinished, "--wav", wav), "is not a finished run of one model (it has no metrics.json)"),
        ((combined, "--wav", wav), "is not a finished run of one model (it has no best_model.pt)"),
    ]:
        code, stdout, stderr = call_main(predict, *arguments)
        assert code in (1, 2) and not stdout and answer in stderr and stderr.count("\n") == 1, stderr


def test_a_file_that_changes_while_it_is_read(outputs, wavs, tmp_path, monkeypatch):
    copies = [shutil.copy(file, tmp_path) for file in wavs[0]]
    read = module.read_waveform

    def changing(path, *arguments):
        if path == copies[2]:
            os.utime(path, ns=(1, 1))
        if path == copies[4]:
            os.truncate(path, 1_000)
        return read(path, *arguments)

    monkeypatch.setattr(module, "read_waveform", changing)
    found = load_predictor(folder(outputs, "task_a", A), device="cpu").predict(copies, wavs[1])
    assert found["error"][2] == "changed while it was read" and "was damaged after it was indexed" in found["error"][4]
    assert found["score"].isna().tolist() == [False, False, True, False, True, False]
    assert "skip_bad_files" not in found["error"][4]


def test_an_interrupted_call_leaves_what_is_done(outputs, wavs, tmp_path, call_main, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    combined, calls = module.Predictor._combined, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return combined(self, *arguments)

    monkeypatch.setattr(module.Predictor, "_combined", interrupted)
    output = tmp_path / "out.csv"
    code, *_ = call_main(predict, folder(outputs, "task_a", A), "--wav", *wavs[0], "--output", output, "--cpu")
    assert code == 130 and pd.read_csv(output)["file_name"].tolist() == wavs[0][:4]


def test_ffmpeg_decodes_what_soundfile_cannot(outputs, wavs, tmp_path, monkeypatch):
    files, texts = wavs
    predictor = load_predictor(folder(outputs, "task_a", A), device="cpu")
    expected = predictor.predict(files[:1], texts[:1])
    recording, broken = tmp_path / "a b.m4a", tmp_path / "broken.m4a"
    recording.write_bytes(b"\0\0\0\x20ftyp" + open(files[0], "rb").read())
    broken.write_bytes(b"\0\0\0\x20ftyp")
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = predictor.predict([recording], texts[:1])
    assert "convert it (ffmpeg -i 'a b.m4a' 'a b.wav')" in found["error"][0]
    stand_in = tmp_path / "bin" / "ffmpeg"
    stand_in.parent.mkdir()
    stand_in.write_text(
        '#!/bin/sh\nwhile [ $# -gt 1 ]; do [ "$1" = -i ] && in=${2#file:}; shift; done\n'
        '[ $(wc -c < "$in") -gt 8 ] || { echo first >&2; echo "moov atom not found" >&2; exit 1; }\ntail -c +9 "$in" > "$1"\n'
    )
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{path}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    found = predictor.predict([recording, broken], texts[:1] * 2)
    assert np.array_equal(probabilities(found)[0], probabilities(expected)[0])
    assert found["error"][1] == "cannot be read, not by ffmpeg either (moov atom not found)"
    assert not list((tmp_path / "temporary").iterdir())
    # However many there are, few temporary files are there at a time.
    copies = [shutil.copy(recording, tmp_path / f"{index}.m4a") for index in range(30)]
    counts, read = [], module.read_waveform
    monkeypatch.setattr(module, "TEMPORARY", 2)
    monkeypatch.setattr(module, "read_waveform", lambda *a: counts.append(len(os.listdir(tmp_path / "temporary"))) or read(*a))
    predictor.num_workers = 1
    assert not any(predictor.predict(copies, texts[:1] * 30)["error"])
    assert len(counts) == 30 and max(counts) <= 8


def test_several_adapters(routed, wavs, utterances, monkeypatch):
    files, texts = wavs
    calls = []
    monkeypatch.setattr(module, "speech_features", lambda *a, **k: calls.append(1) or speech.speech_features(*a, **k))
    alone = [load_predictor(run, device="cpu").predict(files, texts) for run in routed]
    tasks, digests = list(KEMDY), [table["model"][0] for table in alone]
    found = {}
    for how in ("routed", "entropy", "mean", B):
        calls.clear()
        found[how] = load_predictor(*routed, adapter=how, device="cpu", batch_size=6).predict(files, texts)
        assert len(calls) == 1
        assert set(found[how]["task_by"]) == {how if how != B else "given"}
    pd.testing.assert_frame_equal(found[B], alone[1])
    mean = (probabilities(alone[0]) + probabilities(alone[1])) / 2
    assert np.allclose(probabilities(found["mean"]), mean, atol=1e-6)
    assert set(found["mean"]["adapter"]) == {f"{A}+{B}"} and set(found["mean"]["model"]) == {"+".join(digests)}
    entropies = np.stack([table["entropy"] for table in alone])
    assert found["entropy"]["entropy"].to_numpy() == pytest.approx(entropies.min(axis=0), abs=1e-6)
    for how in ("routed", "entropy"):
        for index, row in found[how].iterrows():
            chosen = tasks.index(row["adapter"])
            assert row["model"] == digests[chosen]
            assert np.allclose(probabilities(found[how])[index], probabilities(alone[chosen])[index], atol=1e-6)
    # Windows of one file have one answer.
    assert len(load_predictor(*routed, adapter="routed", device="cpu").predict(files, texts, windows=True)) == len(files)


def test_routing_from_a_file_asks_for_its_centroids(routed, encoders, tmp_path):
    export(routed[0], tmp_path / "file")
    with pytest.raises(UserError, match="exported with --with_centroids"):
        load_predictor(tmp_path / "file", routed[1], adapter="routed", **named(encoders))
    bare = shutil.copytree(routed[0], tmp_path / "bare")
    (bare / "centroids.pt").unlink()
    with pytest.raises(UserError, match=f"make them with 'python -m utils.training.routing {bare}'"):
        load_predictor(bare, routed[1], adapter="routed")


def test_models_that_do_not_answer_together_are_one_line(outputs, routed, tmp_path):
    fusion = [folder(outputs, "task_a", task) for task in KEMDY]
    drawn = [folder(outputs, "adapter_wo_pretraining", task) for task in KEMDY]
    shorter = shutil.copytree(routed[1], tmp_path / "shorter")
    change(shorter, arguments={"max_seq_len": 3.0})
    for models, adapter, answer in [
        (fusion, None, "only adapters can be combined"),
        ([fusion[0], routed[0]], "mean", "only adapters can be combined"),
        (fusion[:1], "mean", "is not the adapter of one corpus"),
        (routed, None, f"choose with --adapter {A}, {B}, routed, entropy or mean"),
        (routed, "KEMDy", "--adapter KEMDy: 0 of the models are adapters of it"),
        ([routed[0], routed[0]], A, f"--adapter {A}: 2 of the models are adapters of it"),
        ([routed[0], drawn[0]], "mean", "are adapters of different text encoders"),
        (drawn, "routed", "is over random encoders"),
        ([routed[0], shorter], "mean", "--max_seq_len 5 and 3.0; give one"),
    ]:
        with pytest.raises(UserError) as caught:
            load_predictor(*models, adapter=adapter)
        assert answer in str(caught.value).replace("5.0 and", "5 and") and "\n" not in str(caught.value)


def test_adapters_of_other_labels(routed, encoders, tmp_path, wavs):
    other = make_run(tmp_path, "adapter", encoders)
    change(other, arguments={"max_text_len": 256})
    for how in ("mean", "entropy"):
        found = load_predictor(routed[0], other, adapter=how, device="cpu").predict(*wavs)
        assert [column for column in found.columns if column.startswith("p_")][-3:] == [f"p_{label}" for label in LABELS]
        own = found[[f"p_{label}" for label in LABELS]].notna().all(axis=1)
        assert (own == (found["adapter"] != A)).all() and found["p_angry"].notna().equals(found["adapter"] != "A")
        assert np.nansum(probabilities(found), axis=1) == pytest.approx(1, abs=1e-6)


def test_calibrated(outputs, tmp_path, wavs):
    run = shutil.copytree(folder(outputs, "task_a", A), tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"temperature": 2.0}))
    plain, calibrated = (load_predictor(run, calibrated=of, device="cpu").predict(*wavs) for of in (False, True))
    root = np.sqrt(probabilities(plain))
    assert np.allclose(probabilities(calibrated), root / root.sum(axis=1, keepdims=True), atol=1e-6)
    (run / "metrics.json").write_text(json.dumps({name: value for name, value in metrics.items() if name != "temperature"}))
    with pytest.raises(UserError, match="--calibrated: .* has no temperature"):
        load_predictor(run, calibrated=True)


def test_python_cannot_be_called_wrongly(outputs, wavs):
    files, texts = wavs
    predictor = load_predictor(str(folder(outputs, "task_a", A)), device="cpu")
    one = predictor.predict(files[0], texts[0])
    assert len(one) == 1 and one.equals(predictor.predict([files[0]], [texts[0]]))
    assert list(predictor.predict([]).columns) == list(one.columns)
    for given in (texts[:2], texts[0], []):
        with pytest.raises(ValueError, match=f"6 files and {1 if isinstance(given, str) else len(given)} texts"):
            predictor.predict(files, given)
    with pytest.raises(ValueError, match="choose one"):
        predictor.predict(files, texts, windows=True, segments=True)
    with pytest.raises(ValueError, match="needs a model"):
        load_predictor()
    with pytest.warns(UserWarning, match="2 of 3 recordings have no transcript"):
        predictor.predict(files[:3], [None, float("nan"), "네"])
    with pytest.warns(UserWarning, match="1 of 2 recordings have no transcript"):
        predictor.predict(files[:2], pd.Series([None, "네"], dtype="string"))
