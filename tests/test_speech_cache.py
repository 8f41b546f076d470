"""What the frozen speech encoder makes of a corpus is computed once, found again, and never a wrong or a half one."""

import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import folder, shell

import adapter
from models import AdapterFusionClassifier, load_tokenizer
from models.encoders import load_encoder
from models.speech import make_padding_invariant
from utils.data import speech_cache
from utils.data.batches import Sound, UtteranceDataset
from utils.data.corpus import read_corpus
from utils.data.speech_cache import cache_key, corpus_features
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture()
def corpus(data_root):
    return read_corpus(data_root, "KEMDy20")


@pytest.fixture()
def encoder(encoders):
    return make_padding_invariant(load_encoder("speech", encoders / "speech"))


def make(corpus, encoder, root, max_seq_len=5.0, precision="float16", said=None):
    return corpus_features(corpus, encoder, max_seq_len, precision, root, CPU, (said if said is not None else []).append)


def only(root):
    """The one cache folder."""
    (path,) = (path for path in root.iterdir() if path.is_dir())
    return path


@pytest.mark.parametrize("precision, tolerance", [("float16", 2e-3), ("float32", 1e-5)])
def test_cached_and_computed_features_give_the_same_logits(corpus, encoders, tmp_path, precision, tolerance):
    model = AdapterFusionClassifier(
        *(load_encoder(kind, encoders / kind) for kind in ("text", "speech")), len(corpus.labels)
    ).eval()
    batches = []
    for speech in (Sound(5), make(corpus, model.speech_encoder, tmp_path, precision=precision)):
        dataset = UtteranceDataset(corpus.utterances, corpus.labels, load_tokenizer(encoders / "text"), 64, speech)
        batches.append(dataset.collate([dataset[index] for index in (0, 5, 9, 20)]))
    batch, cached = batches
    assert set(cached["speech_inputs"]) == {"features", "attention_mask"}
    assert cached["speech_inputs"]["features"].dtype == getattr(torch, precision)
    with torch.no_grad():
        computed, kept = (model(part["speech_inputs"], part["text_inputs"]) for part in (batch, cached))
    assert torch.allclose(computed, kept, atol=tolerance)
    assert not torch.allclose(kept[0], kept[1], atol=1e-3)  # of different utterances


def test_it_says_what_it_will_take_and_is_found_again(corpus, encoder, tmp_path, monkeypatch):
    said = []
    first = make(corpus, encoder, tmp_path, said=said)
    size = os.path.getsize(only(tmp_path) / "features.bin")
    assert len(said) == 1 and f"{len(corpus.utterances)} utterances" in said[0] and " MB in " in said[0]
    assert size == first.shape[0] * first.width * 2
    monkeypatch.setattr(speech_cache, "_compute", None)
    second = make(corpus, encoder, tmp_path, said=said)
    utterance = corpus.utterances.loc[3]
    assert torch.equal(first(utterance), second(utterance)) and len(said) == 1


def test_what_would_give_other_features_finds_no_cache(corpus, encoders, encoder, tmp_path):
    known = cache_key(corpus, encoder, 5.0, "float16")
    assert known == cache_key(corpus, encoder, 5, "float16")
    changed = [cache_key(corpus, encoder, 4.0, "float16"), cache_key(corpus, encoder, 5.0, "float32")]
    changed.append(cache_key(corpus, load_encoder("speech", encoders / "speech", pretrained=False), 5.0, "float16"))
    with torch.no_grad():
        encoder.encoder.layers[0].final_layer_norm.bias[0] += 1e-3
    encoder.save_pretrained(tmp_path / "speech")
    changed.append(cache_key(corpus, load_encoder("speech", tmp_path / "speech"), 5.0, "float16"))
    # Settings that are not weights, too.
    encoder.config.feat_extract_activation = "relu"
    encoder.save_pretrained(tmp_path / "relu")
    changed.append(cache_key(corpus, load_encoder("speech", tmp_path / "relu"), 5.0, "float16"))
    shutil.copytree(corpus.root, tmp_path / "KEMDy20")
    copy = read_corpus(tmp_path, "KEMDy20")
    same = cache_key(copy, load_encoder("speech", encoders / "speech"), 5.0, "float16")
    # Other sound of the same length; a copy of the same sound is the same.
    path = Path(copy.utterances["wav_path"][0])
    path.write_bytes(path.read_bytes()[:-2] + b"\x01\x02")
    copy = read_corpus(tmp_path, "KEMDy20")
    changed.append(cache_key(copy, load_encoder("speech", encoders / "speech"), 5.0, "float16"))
    assert same == known and len({known, *changed}) == len(changed) + 1


def test_a_half_written_cache_is_not_read_and_goes_on(corpus, encoder, tmp_path, monkeypatch):
    whole = make(corpus, encoder, tmp_path / "whole")
    monkeypatch.setattr(speech_cache, "BATCH_SIZE", 8)
    compute, seen = speech_cache._features_of, []

    def cut_off(batch, *arguments):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(list(batch["segment_id"]))
        return compute(batch, *arguments)

    monkeypatch.setattr(speech_cache, "_features_of", cut_off)
    with pytest.raises(KeyboardInterrupt):
        make(corpus, encoder, tmp_path / "cut")
    partial = only(tmp_path / "cut")
    assert partial.suffix == ".partial"
    # And the last write was truncated.
    with open(partial / "features.bin", "ab") as file:
        file.write(b"half a frame")
    with open(partial / "progress.csv", "a") as file:
        file.write("Sess01_script")
    said, first = [], list(seen)
    monkeypatch.setattr(speech_cache, "_features_of", lambda batch, *more: seen.append(batch) or compute(batch, *more))
    again = make(corpus, encoder, tmp_path / "cut", said=said)
    assert "16 already computed" in said[0]
    done = {name for batch in first for name in batch}
    assert all(done.isdisjoint(batch["segment_id"]) for batch in seen[2:])
    for utterance in corpus.utterances.itertuples():
        assert torch.allclose(again(utterance).float(), whole(utterance).float(), atol=2e-3)
    assert only(tmp_path / "cut").suffix == ""


@pytest.mark.parametrize("file, damage", [("features.bin", "short"), ("index.json", "short")])
def test_a_copy_that_was_cut_off_is_made_anew(corpus, encoder, tmp_path, file, damage):
    make(corpus, encoder, tmp_path)
    path = only(tmp_path) / file
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    said = []
    make(corpus, encoder, tmp_path, said=said)
    assert len(said) == 1 and path.read_bytes() == content


def test_two_runs_that_want_it_at_once_compute_it_once(corpus, encoder, tmp_path, monkeypatch):
    compute, started, waiting, computed = speech_cache._compute, threading.Event(), threading.Event(), []

    def slow(*arguments):
        computed.append(threading.current_thread().name)
        started.set()
        assert waiting.wait(60)
        compute(*arguments)

    monkeypatch.setattr(speech_cache, "_compute", slow)
    said, found = [], []
    first = threading.Thread(target=lambda: found.append(make(corpus, encoder, tmp_path)))
    first.start()
    assert started.wait(60)
    found.append(
        corpus_features(corpus, encoder, 5.0, "float16", tmp_path, CPU, lambda line: (said.append(line), waiting.set()))
    )
    first.join()
    utterance = corpus.utterances.loc[0]
    assert len(computed) == 1 and "waiting for it" in said[0] and torch.equal(found[0](utterance), found[1](utterance))


def test_it_may_be_deleted_while_a_run_uses_it(corpus, encoder, tmp_path):
    features, utterances = make(corpus, encoder, tmp_path), list(corpus.utterances.itertuples())
    before = list(map(features, utterances))
    shutil.rmtree(tmp_path)
    assert all(map(torch.equal, before, map(features, utterances)))


def test_a_disk_that_is_too_small_or_closed_is_one_line(corpus, encoder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="take .* MB, but .* has .* MB left.*--no_speech_cache"):
        make(corpus, encoder, tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be stored.*--speech_cache"):
        make(corpus, encoder, tmp_path / "file" / "cache")


def test_features_that_the_precision_cannot_hold_are_refused(corpus, encoder, tmp_path):
    with torch.no_grad():
        encoder.encoder.layer_norm.weight *= 1e6
        for layer in encoder.encoder.layers:
            layer.final_layer_norm.weight *= 1e6
    with pytest.raises(UserError, match="not finite in float16.*--speech_cache_precision float32"):
        make(corpus, encoder, tmp_path)
    make(corpus, encoder, tmp_path, precision="float32")


def test_adapter_runs_share_it_and_learn_what_they_learn_without(call, outputs, tmp_path):
    code, stdout, stderr = call(adapter, "--task", "KEMDy20", "--no_speech_cache", output_root=tmp_path)
    assert code == 0 and "speech features" not in stdout, stderr
    with_cache, without = (folder(root, "adapter", "KEMDy20") for root in (outputs, tmp_path))
    tables = [pd.read_csv(path / "predictions.csv").filter(like="p_").to_numpy() for path in (with_cache, without)]
    assert np.abs(tables[0] - tables[1]).max() < 5e-3
    histories = [pd.read_csv(path / "history.csv")["train_loss"][1:] for path in (with_cache, without)]
    assert np.allclose(*histories, atol=5e-3)
    # One for each corpus and encoder, of the four runs of both adapter settings.
    assert len([path for path in (outputs / "speech_features").iterdir() if path.is_dir()]) == 4
    code, stdout, _ = call(adapter, "--task", "KEMDy20", "--exp_name", "more", "--num_fold", 1)
    assert code == 0 and "computing the speech features" not in stdout
    # An argument that changes nothing does not make it another run.
    code, stdout, _ = call(adapter, "--task", "KEMDy20", "--no_speech_cache")
    assert code == 0 and "skipped" in stdout


def test_with_features_no_wav_is_opened(call, outputs, monkeypatch):
    def refuse(path, *more):
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr("utils.data.batches.read_waveform", refuse)
    code, _, stderr = call(adapter, "--task", "KEMDy20", "--exp_name", "closed")
    assert code == 0, stderr


def test_the_benchmark_gives_ratios():
    small = "--small --steps 1 --repeats 1 --batch_size 2 --only adapter features predict".split()
    done = shell(sys.executable, "-m", "benchmarks", *small)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| training step of an adapter"))
    plain, ours, ratio = (float(cell.split()[0]) for cell in row.split("|")[2:5])
    assert ratio == pytest.approx(plain / ours, rel=0.1) and ratio > 0
    assert "Features take" in done.stdout and "Predicting with an adapter" in done.stdout
