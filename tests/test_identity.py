"""What counts as the same run, corpus, encoder and folder, and what is said of anything else."""

import errno
import json
import os
import shutil
import signal
import time

import pytest
import soundfile
import torch
from conftest import digest, flags, folder, read
from stress import differences, start
from transformers import AutoModel

import adapter
import continual_learning_init
import ewc
import finetune
from models.hub import quiet
from utils.data.corpus import read_corpus
from utils.errors import UserError
from utils.files import Locked, LockFile, write_json
from utils.identity import FileDigests
from utils.results import export
from utils.training.checkpoints import read_weights


@pytest.fixture()
def own(data_root, encoders, outputs, tmp_path):
    """A folder with corpora, encoders and finished runs (task_a on both, finetune on KEMDy20) that a test may change."""
    shutil.copytree(data_root, tmp_path / "data")
    shutil.copytree(encoders, tmp_path / "encoders")
    for experiment, task in (("task_a", "KEMDy19"), ("task_a", "KEMDy20"), ("finetune", "KEMDy20")):
        shutil.copytree(folder(outputs, experiment, task), folder(tmp_path / "outputs", experiment, task))
    return tmp_path


@pytest.fixture()
def run(call_main, own):
    """run(module, *flags) → (exit code, stdout, stderr), on ``own``."""
    return lambda module, *arguments: call_main(module, *flags(own / "data", own / "encoders", own / "outputs"), *arguments)


def refused(answer, *told):
    code, _, stderr = answer
    assert code == 1 and stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert all(text in stderr for text in told), stderr


def other_sound(own):
    """Another recording of the same length, rate and time of change in the place of each wav of KEMDy20's."""
    for path in (own / "data" / "KEMDy20" / "wav").rglob("*.wav"):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[::-1], rate, subtype="PCM_16")


def other_transcript(own):
    path = next((own / "data" / "KEMDy20" / "wav").rglob("*.txt"))
    path.write_bytes(path.read_bytes().rstrip() + " 네\n".encode("cp949"))


def lost_session(own):
    (own / "data" / "KEMDy20" / "annotation" / "Sess06_eval.csv").unlink()


def other_setting(own):
    path = own / "encoders" / "text" / "config.json"
    write_json(path, read(path) | {"hidden_act": "relu"})


def other_vocabulary(own):
    path = own / "encoders" / "text" / "tokenizer.json"
    tokenizer = read(path)
    words = tokenizer["model"]["vocab"]
    one, other = list(words)[5:7]
    words[one], words[other] = words[other], words[one]
    path.write_text(json.dumps(tokenizer))


def other_weights(own):
    path = own / "encoders" / "speech"
    with quiet():
        model = AutoModel.from_pretrained(path)
        model.encoder.layer_norm.bias.data.add_(0.01)
        model.save_pretrained(path)


CHANGES = {
    other_sound: "corpus KEMDy20 changed",
    other_transcript: "corpus KEMDy20 changed",
    lost_session: "corpus KEMDy20; folds of KEMDy20 changed",
    other_setting: "text encoder changed",
    other_vocabulary: "text encoder changed",
    other_weights: "speech encoder changed",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_is_skipped_or_resumed_only_on_the_same_material(change, run, own):
    path = folder(own / "outputs", "task_a", "KEMDy20")
    assert run(continual_learning_init, "--task", "KEMDy20", "--overwrite", "--keep_last")[0] == 0
    code, stdout, stderr = run(continual_learning_init, "--task", "KEMDy20")
    assert code == 0 and "is finished: skipped" in stdout, stderr
    change(own)
    told = "task_a/fold_0/KEMDy20 holds another run", CHANGES[change]
    refused(run(continual_learning_init, "--task", "KEMDy20"), *told)
    (path / "metrics.json").unlink()
    last = digest(path / "last_checkpoint.pt")
    refused(run(continual_learning_init, "--task", "KEMDy20"), *told)
    assert digest(path / "last_checkpoint.pt") == last


def test_the_same_material_elsewhere_is_the_same(call_main, own):
    (own / "elsewhere").mkdir()
    for part in ("data", "encoders"):
        shutil.copytree(own / part, own / "elsewhere" / part, copy_function=shutil.copy)  # with new times
        shutil.rmtree(own / part)
    # Written again by the library, the same encoder has other files.
    text = own / "elsewhere" / "encoders" / "text"
    before = digest(text / "config.json")
    with quiet():
        AutoModel.from_pretrained(text).save_pretrained(text)
    write_json(text / "config.json", read(text / "config.json") | {"note": "saved again"})
    assert digest(text / "config.json") != before
    arguments = flags(own / "elsewhere" / "data", own / "elsewhere" / "encoders", own / "outputs")
    for script in (continual_learning_init, finetune):
        code, stdout, stderr = call_main(script, "--task", "KEMDy20", *arguments)
        assert code == 0 and "is finished: skipped" in stdout, stderr


def test_what_is_not_here_any_more_is_not_compared(run, own):
    shutil.rmtree(own / "data")
    shutil.rmtree(own / "encoders")
    shutil.rmtree(own / "outputs" / "task_a")
    code, stdout, stderr = run(finetune, "--task", "KEMDy20")
    assert code == 0 and "is finished: skipped" in stdout, stderr


def test_a_finished_run_from_another_starting_model_is_not_skipped(run, own):
    for argument in ((), ("--checkpoint", own / "copy.pt")):
        shutil.copy(folder(own / "outputs", "task_a", "KEMDy19") / "best_model.pt", own / "copy.pt")
        code, stdout, stderr = run(finetune, "--task", "KEMDy20", *argument)
        assert code == 0 and "is finished: skipped" in stdout, stderr
    shutil.copy(folder(own / "outputs", "task_a", "KEMDy20") / "best_model.pt", own / "copy.pt")
    refused(run(finetune, "--task", "KEMDy20", "--checkpoint", own / "copy.pt"), "(starting model changed)")
    model = folder(own / "outputs", "task_a", "KEMDy19") / "best_model.pt"
    torch.save(torch.load(model, weights_only=True) | {"classifier.bias": torch.zeros(7)}, model)
    refused(run(finetune, "--task", "KEMDy20"), "(starting model changed)")


def test_nothing_but_the_question_is_asked_of_a_finished_run(run, monkeypatch):
    assert run(finetune, "--task", "KEMDy20")[0] == 0

    def refuse(*arguments, **options):
        raise AssertionError("a model was loaded, or a whole file read again")

    monkeypatch.setattr("utils.training.facts.load_encoder", refuse)
    monkeypatch.setattr("utils.identity.sha256", refuse)
    monkeypatch.setattr("utils.data.audio.soundfile", None)
    code, stdout, stderr = run(finetune, "--task", "KEMDy20")
    assert code == 0 and "is finished: skipped" in stdout, stderr


def test_a_file_that_kept_size_and_time_counts_as_unchanged(tmp_path):
    file, store = tmp_path / "file", tmp_path / "digests.json"
    file.write_bytes(b"one")
    first = FileDigests(store)(file)
    file.write_bytes(b"two and more")
    assert FileDigests(store)(file) != first
    second = FileDigests(store)(file)
    before = os.stat(file)
    file.write_bytes(b"six and more")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert FileDigests(store)(file) == second
    store.write_text("{")
    assert FileDigests(store)(file) != second


# Whose folder it is


@pytest.mark.parametrize("gone", ["removed", "moved", "removed while the next run is there"])
def test_a_run_whose_folder_is_gone_writes_nothing_more(gone, call, outputs, data_root, encoders, tmp_path):
    root, path = tmp_path / "outputs", folder(tmp_path / "outputs", "task_a", "KEMDy20")
    command = [*flags(data_root, encoders, root), "--task", "KEMDy20", "--num_epochs", "9999"]
    process = start(continual_learning_init, command, tmp_path / "log")
    while not (path / "best_model.pt").exists():
        assert os.waitpid(process, os.WNOHANG) == (0, 0), (tmp_path / "log").read_text()
        time.sleep(0.01)
    if gone == "moved":
        (root / "task_a").rename(root / "kept")
    else:
        os.kill(process, signal.SIGSTOP)
        shutil.rmtree(root / "task_a")
        if gone != "removed":
            code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=root)
            assert code == 0, stderr
        os.kill(process, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    assert f"{path} was removed or moved while this run was writing it" in (tmp_path / "log").read_text()
    if gone == "moved":
        assert not path.exists() and (folder(root, "kept", "KEMDy20") / "last_checkpoint.pt").exists()
    elif gone == "removed":
        assert not (root / "task_a").exists()
    else:
        assert differences(folder(outputs, "task_a", "KEMDy20"), path) == []
        assert read(path / "config.json")["run"] == read(path / "metrics.json")["run"]


def test_a_start_that_is_refused_leaves_nothing(run, own):
    refused(run(ewc, "--task", "KEMDy20", "--data_root", own / "nowhere", "--exp_name", "new"), "no corpus at")
    shutil.rmtree(own / "outputs" / "task_a" / "fold_0" / "KEMDy19")
    refused(run(finetune, "--task", "KEMDy20", "--exp_name", "new", "--num_fold", 1), "to start from")
    assert {path.name for path in (own / "outputs").iterdir()} <= {"task_a", "finetune", ".digests.json"}
    assert not list((own / "outputs").rglob("*.lock"))


def test_a_lock_is_that_of_the_file_at_its_path(tmp_path):
    path = tmp_path / ".run.lock"
    lock = LockFile(path, "the first")
    with pytest.raises(Locked, match="^the first$"):
        LockFile(path, "the second")
    path.unlink()
    second = LockFile(path, "the second")
    assert not lock.is_held() and second.is_held()
    lock.release()  # of a file that is gone: the other's stays
    assert second.is_held() and path.read_text() == "the second\n"
    second.release()
    assert not path.exists()
    path.symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        LockFile(path, "through a link")
    assert not (tmp_path / "target").exists()


def test_without_locks_whoever_comes_last_holds_the_file(tmp_path, monkeypatch):
    def unknown(descriptor, **options):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("utils.files.lock_descriptor", unknown)
    first = LockFile(tmp_path / "lock", "the first")
    assert first.is_held()
    second = LockFile(tmp_path / "lock", "the second")
    assert second.is_held() and not first.is_held()


def test_a_link_in_a_run_folder_is_never_written_through(run, own):
    path = folder(own / "outputs", "task_a", "KEMDy20")
    for name in ("best_model.pt", "history.csv", "metrics.json"):
        (own / name).write_text("mine")
        (path / name).unlink()
        (path / name).symlink_to(own / name)
    assert run(continual_learning_init, "--task", "KEMDy20", "--overwrite")[0] == 0
    for name in ("best_model.pt", "history.csv", "metrics.json"):
        assert (own / name).read_text() == "mine" and not (path / name).is_symlink()


def test_a_last_checkpoint_of_another_seed_is_refused(run, own):
    paths = {seed: folder(own / "outputs", f"task_a-{seed}", "KEMDy20") for seed in (13, 14)}
    for seed, path in paths.items():
        arguments = ("--task", "KEMDy20", "--seed", seed, "--exp_name", f"task_a-{seed}", "--keep_last")
        assert run(continual_learning_init, *arguments)[0] == 0
        (path / "metrics.json").unlink()
    shutil.copy(paths[14] / "last_checkpoint.pt", paths[13] / "last_checkpoint.pt")
    again = ("--task", "KEMDy20", "--seed", 13, "--exp_name", "task_a-13", "--keep_last")
    told = f"{paths[13] / 'last_checkpoint.pt'} is not of the run in config.json"
    refused(run(continual_learning_init, *again), told)
    own = read(paths[13] / "config.json")["run"]
    last = torch.load(paths[14] / "last_checkpoint.pt", weights_only=True)
    torch.save(last | {"run": own}, paths[13] / "last_checkpoint.pt")
    refused(run(continual_learning_init, *again), told)


def test_a_start_that_trained_on_what_is_tested_now_is_refused(run, own):
    exported = own / "start.safetensors"
    export.export(folder(own / "outputs", "task_a", "KEMDy19"), exported, text_model=own / "encoders" / "text",
                  speech_model=own / "encoders" / "speech")  # fmt: skip
    for path in (own / "data" / "KEMDy19" / "annotation").glob("Session03_*"):
        path.unlink()
    for start_from in ((), ("--checkpoint", exported)):
        refused(
            run(finetune, "--task", "KEMDy20", "--exp_name", "new", *start_from), "was trained on other sessions of KEMDy19"
        )


# Bits that flip where they lie


def flipped(path, position, to):
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    to.write_bytes(content)


def test_a_flipped_bit_is_noticed(run, own):
    model = folder(own / "outputs", "task_a", "KEMDy19") / "best_model.pt"
    exported = own / "model.safetensors"
    export.export(model.parent, exported, text_model=own / "encoders" / "text", speech_model=own / "encoders" / "speech")
    state = torch.load(model, weights_only=True)
    for source in (model, exported):
        size, damaged = source.stat().st_size, own / f"damaged{source.suffix}"
        noticed = 0
        for position in range(size // 40, size, size // 20):
            flipped(source, position, damaged)
            try:
                read_back = read_weights(damaged)
            except UserError as error:
                assert str(damaged) in str(error)
                noticed += 1
            else:  # a bit that says nothing of the model, such as padding in front of a tensor
                assert all(torch.equal(read_back[name], tensor) for name, tensor in state.items())
        assert noticed > 10


def test_damaged_features_are_computed_again(run, own):
    assert run(adapter, "--task", "KEMDy20")[0] == 0
    (features,) = (own / "outputs" / "speech_features").glob("*/features.bin")
    before = features.read_bytes()
    features.write_bytes(before[:100] + bytes(100) + before[200:])
    code, stdout, _ = run(adapter, "--task", "KEMDy20", "--exp_name", "again", "--num_fold", 1)
    assert code == 0 and "computing the speech features once" in stdout and features.read_bytes() == before


# Run folders and files of before


def test_what_an_earlier_version_wrote_is_refused(run, own):
    path = folder(own / "outputs", "task_a", "KEMDy20") / "config.json"
    config = read(path)
    del config["format"]
    write_json(path, config)
    refused(run(continual_learning_init, "--task", "KEMDy20"), f"{path} has format 1, but this version reads format 3")


def test_a_copied_corpus_has_the_same_digest(own):
    corpus = read_corpus(own / "data", "KEMDy20")
    shutil.copytree(own / "data" / "KEMDy20", own / "copy" / "KEMDy20", copy_function=shutil.copy)
    for path in (own / "copy" / "KEMDy20").glob(".wav_index*"):
        path.unlink()
    assert read_corpus(own / "copy", "KEMDy20").digest == corpus.digest
