"""Replay (er) and dark experience replay++ (derpp): buffer, loss, and what a killed run repeats."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from conftest import flags, folder, read, run_main, small_speech_encoder, small_text_encoder

import replay
from models import FusionClassifier, load_tokenizer
from replay import Replay, kept_utterances
from utils.data.batches import Sound, UtteranceDataset
from utils.data.corpus import read_corpus
from utils.data.kemdy import EMOTIONS
from utils.results import export as export_module
from utils.training.engine import backward
from utils.training.run import Run

ER, DERPP = (), ("--dark",)


@pytest.fixture(scope="module")
def dataset(data_root, encoders):
    utterances = read_corpus(data_root, "KEMDy19", progress=False).utterances.head(23)
    return UtteranceDataset(utterances, EMOTIONS, load_tokenizer(str(encoders / "text")), 16, Sound(0.5))


@pytest.fixture()
def model():
    torch.manual_seed(4)
    return FusionClassifier(small_text_encoder(), small_speech_encoder(), len(EMOTIONS)).eval()


@pytest.fixture()
def run():
    return SimpleNamespace(accelerator=Accelerator(cpu=True), args=SimpleNamespace(seed=12))


def ids(kept):
    return {name: part.utterances["segment_id"].tolist() for name, part in kept.items()}


def test_what_a_later_step_keeps_is_a_part_of_what_an_earlier_one_kept(dataset):
    parts = {"A": dataset.subset(range(15)), "B": dataset.subset(range(15, 23)), "C": dataset}
    steps = [ids(kept_utterances(dict(list(parts.items())[:count]), 12, seed=12)) for count in (1, 2, 3)]
    assert [[len(names) for names in step.values()] for step in steps] == [[12], [6, 6], [4, 4, 4]]
    for earlier, later in zip(steps, steps[1:]):
        assert all(later[name] == names[: len(later[name])] for name, names in earlier.items())
    assert len(set(steps[0]["A"])) == 12 and set(steps[0]["A"]) < set(parts["A"].utterances["segment_id"])
    # A task that has too few gives all; another seed draws others.
    whole = ids(kept_utterances({"B": parts["B"]}, 12, seed=12))
    assert sorted(whole["B"]) == sorted(parts["B"].utterances["segment_id"])
    assert ids(kept_utterances({"A": parts["A"]}, 12, seed=13))["A"] != steps[0]["A"]


def logits_of(model, dataset, indices):
    """One utterance at a time."""
    items = [dataset.collate([dataset[index]]) for index in indices]
    return torch.cat([model(item["speech_inputs"], item["text_inputs"]) for item in items])


def cross_entropy(logits, labels):
    return -sum(torch.log(torch.exp(z)[y] / torch.exp(z).sum()) for z, y in zip(logits, labels)) / len(labels)


@pytest.mark.parametrize("alpha, beta, weight", [(0.0, 0.25, 0.75), (0.3, 0.5, 1.0), (0.3, 0.0, 1.0)])
def test_the_gradient_is_that_of_the_definition(run, model, dataset, monkeypatch, alpha, beta, weight):
    buffer, new = dataset.subset(range(9)), dataset.collate([dataset[index] for index in (20, 11, 15)])
    z = torch.randn(9, len(EMOTIONS))
    strategy = Replay(run, {"KEMDy19": buffer}, z, alpha, beta, cross_entropy_weight=weight)
    drawn, draw = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
    # Three utterances of a global batch of four.
    training = SimpleNamespace(model=model, bare=model, strategy=strategy, class_weights=None)
    loss, term = backward(run.accelerator, training, new, 4)
    assert [len(indices) for indices in drawn] == [3] * (bool(alpha) + bool(beta))
    own = iter(drawn)
    expected = 0.0
    if alpha:
        indices = next(own)
        expected += alpha * ((logits_of(model, buffer, indices.tolist()) - z[indices]) ** 2).sum() / (3 * len(EMOTIONS))
    if beta:
        indices = next(own)
        expected += beta * cross_entropy(logits_of(model, buffer, indices.tolist()), buffer.labels[indices])
    fresh = cross_entropy(logits_of(model, dataset, (20, 11, 15)), new["labels"])
    assert loss.item() == pytest.approx(3 * fresh.item(), rel=1e-4)  # the plain sum, whatever it weighs
    assert term.item() == pytest.approx(3 / 4 * expected.item(), rel=1e-4)
    whole = 3 / 4 * (weight * fresh + expected)
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    for parameter, gradient in zip(parameters, torch.autograd.grad(whole, parameters)):
        assert torch.allclose(parameter.grad, gradient, atol=1e-5)


def test_every_step_draws_and_a_resumed_run_repeats_it(run, model, dataset):
    def draws(strategy, steps):
        seen = []
        for _ in range(steps):
            seen.append([strategy.replayed(model, 4)[0]["indices"].tolist() for _ in range(2)])
            strategy.after_step()
        return seen

    whole = draws(Replay(run, {"A": dataset}), 3)
    assert whole[0][0] != whole[0][1] and whole[0] != whole[1]
    begun = Replay(run, {"A": dataset})
    draws(begun, 2)
    resumed = Replay(run, {"A": dataset})
    resumed.load_state_dict(begun.state_dict())
    assert draws(resumed, 1) == whole[2:]


@pytest.mark.parametrize(
    "arguments", [("--buffer_size", 0), ("--replay_weight", 0), ("--dark", "--der_alpha", 0, "--der_beta", 0)]
)
def test_without_weight_or_buffer_it_is_finetune(arguments, outputs, call, tmp_path):
    start = folder(outputs, "task_a", "KEMDy19") / "best_model.pt"
    code, _, stderr = call(replay, "--task", "KEMDy20", "--checkpoint", start, *arguments, output_root=tmp_path)
    assert code == 0, stderr
    (path,) = tmp_path.glob("*/fold_0/KEMDy20/best_model.pt")
    assert path.read_bytes() == (folder(outputs, "finetune", "KEMDy20") / "best_model.pt").read_bytes()


@pytest.fixture(scope="module", params=[ER, DERPP], ids=["er", "derpp"])
def replayed(request, outputs, data_root, encoders, tmp_path_factory):
    """(flags, folder of the run on KEMDy20 with 6 of 14 utterances kept)."""
    root = tmp_path_factory.mktemp("replayed")
    start = folder(outputs, "task_a", "KEMDy19") / "best_model.pt"
    arguments = ("--task", "KEMDy20", "--checkpoint", start, "--buffer_size", 6, *request.param)
    run_main("replay.py", *arguments, *flags(data_root, encoders, root))
    return arguments, folder(root, "derpp" if request.param else "er", "KEMDy20")


def test_a_run_folder_names_what_was_kept_and_an_exported_file_does_not(replayed, call_main, tmp_path):
    _, path = replayed
    config, buffer = read(path / "config.json"), pd.read_csv(path / "buffer.csv")
    assert config["method"] == path.parts[-3] and config["keeps_data"]
    assert buffer["task"].tolist() == ["KEMDy19"] * 6 and buffer["segment_id"].nunique() == 6
    tested = pd.read_csv(path / "predictions.csv")
    assert not set(buffer["segment_id"]) & set(tested["segment_id"])
    code, _, stderr = call_main(export_module, path, tmp_path / "model.safetensors")
    assert code == 0, stderr
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "model.md"}
    for file in tmp_path.iterdir():
        assert not any(name.encode() in file.read_bytes() for name in buffer["segment_id"])


def test_a_run_that_was_killed_ends_with_the_same_bits(replayed, call, monkeypatch, tmp_path):
    arguments, whole = replayed
    with monkeypatch.context() as patch:
        save = Run.save_last

        def save_and_die(run, state):
            save(run, state)
            raise KeyboardInterrupt

        patch.setattr(Run, "save_last", save_and_die)
        assert call(replay, *arguments, output_root=tmp_path)[0] == 130
    code, stdout, stderr = call(replay, *arguments, output_root=tmp_path)
    assert code == 0 and "resuming after epoch 1 of 2" in stdout, stderr
    path = tmp_path / whole.relative_to(whole.parents[2])
    assert (path / "best_model.pt").read_bytes() == (whole / "best_model.pt").read_bytes()
    rows = [pd.read_csv(of / "history.csv").drop(columns="seconds") for of in (path, whole)]
    pd.testing.assert_frame_equal(*rows, check_exact=True)


def test_a_missing_corpus_is_one_line(outputs, call, data_root, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "KEMDy20").symlink_to(data_root / "KEMDy20")
    start = folder(outputs, "task_a", "KEMDy19") / "best_model.pt"
    arguments = ("--task", "KEMDy20", "--checkpoint", start, "--data_root", tmp_path / "data")
    code, _, stderr = call(replay, *arguments, output_root=tmp_path)
    assert code == 1 and stderr.startswith(f"error: {tmp_path / 'data'} lacks KEMDy19: er needs the recordings")
    assert stderr.count("\n") == 1
