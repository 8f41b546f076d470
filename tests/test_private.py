"""DP-SGD: noise, draws, clipped gradients, what a killed run repeats, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from conftest import digest, flags, folder, read, small_speech_encoder, small_text_encoder
from opacus.accountants import RDPAccountant
from torch.nn.functional import cross_entropy

import adapter
from models import load_tokenizer
from models.adapter import AdapterFusionClassifier
from utils.data.batches import Sound, UtteranceDataset, derived_seed
from utils.data.corpus import read_corpus
from utils.data.kemdy import EMOTIONS
from utils.errors import UserError
from utils.training import private
from utils.training.engine import Training, train_one_epoch
from utils.training.private import PoissonBatchSampler, PrivateTraining, privacy_facts
from utils.training.run import Run

KINDS = {
    "bottleneck": {"adapter_size": 4},
    "lora": {"lora_rank": 2},
    "none": {"speech_adapter_layers": 0},
}


@pytest.fixture(scope="module")
def dataset(data_root, encoders):
    utterances = read_corpus(data_root, "KEMDy19", progress=False).utterances.head(12)
    return UtteranceDataset(utterances, EMOTIONS, load_tokenizer(str(encoders / "text")), 16, Sound(0.5))


def small_model(kind):
    torch.manual_seed(4)
    return AdapterFusionClassifier(small_text_encoder(), small_speech_encoder(), len(EMOTIONS), adapter=kind, **KINDS[kind])


def small_run(batch_size=9, micro_batch_size=None):
    """As much of a Run as the loop and the strategy need."""
    args = SimpleNamespace(
        **{"num_workers": 0, "batch_size": batch_size, "micro_batch_size": micro_batch_size, "lr": 1e-3, "seed": 12},
        **{"task": "A", "num_epochs": 40, "sampler": None, "cap": None},
    )
    return SimpleNamespace(accelerator=Accelerator(cpu=True), args=args, quiet=True, labels=list(EMOTIONS))


WEIGHTS = {label: 0.5 + index for index, label in enumerate(EMOTIONS)}


def facts(clip, sigma):
    return {"clip": clip, "noise_multiplier": sigma, "sample_rate": 0.75, "class_weights": WEIGHTS}


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradients_alone(model, dataset, indices):
    """Of each utterance's weighted cross-entropy, by autograd: a list over utterances of lists over parameters."""
    model.eval()
    found = []
    for index in indices:
        item = dataset.collate([dataset[index]])
        logits = model(item["speech_inputs"], item["text_inputs"])
        loss = WEIGHTS[EMOTIONS[dataset.labels[index]]] * cross_entropy(logits, item["labels"])
        found.append(torch.autograd.grad(loss, trained(model)))
    return found


@pytest.mark.parametrize("epsilon, sigma", [(1, 5.1), (3, 2.0), (8, 1.06)])
def test_noise_is_that_of_the_accountant(epsilon, sigma):
    run = small_run(batch_size=256)
    run.args.epsilon, run.args.delta, run.args.clip, run.args.class_weights = epsilon, 1e-5, 1.0, None
    found = privacy_facts(run, {"A": SimpleNamespace(splits={"train": range(6738)})})
    assert found["noise_multiplier"] == pytest.approx(sigma, rel=0.01)
    assert found["sample_rate"] == 256 / 6738 and found["steps"] == 40 * 26
    accountant = RDPAccountant()
    accountant.history = [(found["noise_multiplier"], found["sample_rate"], found["steps"])]
    assert epsilon - 0.005 <= accountant.get_epsilon(1e-5) <= epsilon


def test_utterances_are_drawn_independently_with_probability_q():
    sampler = PoissonBatchSampler(50, 5, seed=1)
    drawn = []
    for sampler.epoch in range(1, 401):
        batches = sampler.global_batches()
        assert len(batches) == len(sampler) == 10 and all(len(set(batch)) == len(batch) for batch in batches)
        drawn += batches
    assert drawn[:10] != drawn[10:20]
    inside = np.zeros((len(drawn), 50))
    for row, batch in zip(inside, drawn):
        row[batch] = 1
    sizes = inside.sum(1)
    assert np.abs(inside.mean(0) - 0.1).max() < 0.02
    assert sizes.mean() == pytest.approx(5, abs=0.1) and sizes.var() == pytest.approx(50 * 0.1 * 0.9, rel=0.1)
    assert sizes.min() == 0  # which training has to take


@pytest.fixture()
def same_draws(monkeypatch):
    """A fixed secret: of random ones, one in fifty draws too few utterances to test anything."""
    monkeypatch.setattr(private.secrets, "randbits", lambda bits: 7)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_utterances_are_autograds(kind, dataset, same_draws, monkeypatch):
    model, run = small_model(kind), small_run()
    seen = []
    accumulate = PrivateTraining.after_micro_batch

    def watched(strategy):
        seen.append([parameter.grad_sample.clone() for parameter in strategy.trained.values()])
        accumulate(strategy)

    monkeypatch.setattr(PrivateTraining, "after_micro_batch", watched)
    training = Training.of(run, model, dataset, PrivateTraining(run, facts(clip=1.0, sigma=0.0)))
    training.sampler.epoch = 1
    (drawn,) = training.sampler.global_batches()
    expected = gradients_alone(small_model(kind), dataset, drawn)
    train_one_epoch(run, training, 1)
    (found,) = seen
    assert len(drawn) > 4 and len(found) == len(trained(model))
    for position, of_utterance in enumerate(expected):
        for parameter, gradient in zip(found, of_utterance):
            assert torch.allclose(parameter[position], gradient, atol=1e-5)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("clip, sigma", [(1e9, 0.0), (0.5, 0.7)])
def test_a_step_is_the_noisy_mean_of_clipped_gradients(clip, sigma, micro_batch_size, dataset, same_draws):
    model, run = small_model("bottleneck"), small_run(micro_batch_size=micro_batch_size)
    strategy = PrivateTraining(run, facts(clip, sigma))
    training = Training.of(run, model, dataset, strategy)
    training.sampler.epoch = 1
    (drawn,) = training.sampler.global_batches()
    alone = gradients_alone(small_model("bottleneck"), dataset, drawn)
    factors = [min(1.0, clip / torch.cat([part.flatten() for part in of]).norm().item()) for of in alone]
    assert len(drawn) > 4 and (min(factors) < 1) == (clip < 1)
    noise = torch.Generator().manual_seed(derived_seed(strategy.secret, 0, 1))
    expected = []
    for parts in zip(*alone):
        total = sum(factor * part for factor, part in zip(factors, parts))
        drawn_noise = torch.normal(0.0, 1.0, parts[0].shape, generator=noise) if sigma else 0.0
        expected.append((total + sigma * clip * drawn_noise) / 9)
    before = [parameter.detach().clone() for parameter in trained(model)]
    row = train_one_epoch(run, training, 1)
    for parameter, gradient, start in zip(trained(model), expected, before):
        assert torch.allclose(parameter.grad, gradient, atol=2e-5)
        # AdamW's first step, in which m / √v is the gradient's sign.
        step = start * (1 - 1e-3 * 0.01) - 1e-3 * parameter.grad / (parameter.grad.abs() + 1e-8)
        assert torch.allclose(parameter.detach(), step, atol=1e-6)
    assert row.keys() == {"train_loss"} and strategy.steps == 1


def test_a_batch_of_nobody_is_noise_alone(dataset, monkeypatch):
    model, run = small_model("bottleneck"), small_run()
    strategy = PrivateTraining(run, facts(clip=2.0, sigma=0.5))
    training = Training.of(run, model, dataset, strategy)
    monkeypatch.setattr(PoissonBatchSampler, "global_batches", lambda sampler: [[]])
    assert train_one_epoch(run, training, 1) == {"train_loss": 0.0}
    noise = torch.Generator().manual_seed(derived_seed(strategy.secret, 0, 1))
    for parameter in trained(model):
        assert torch.allclose(parameter.grad, torch.normal(0.0, 1.0, parameter.shape, generator=noise) / 9)


def test_without_dropout_training_mode_computes_what_evaluation_mode_does(dataset):
    model, batch = small_model("bottleneck"), dataset.collate([dataset[index] for index in range(4)])
    expected = model.eval()(batch["speech_inputs"], batch["text_inputs"])
    assert not torch.equal(model.train()(batch["speech_inputs"], batch["text_inputs"]), expected)
    model.remove_dropout()
    assert torch.equal(model.train()(batch["speech_inputs"], batch["text_inputs"]), expected)
    assert model.text_encoder.training and not model.speech_encoder.training
    assert not model.eval().text_encoder.training


def test_what_opacus_cannot_take_apart_is_one_line(dataset):
    model = small_model("none")
    model.classifier = torch.nn.Sequential(torch.nn.BatchNorm1d(model.classifier.in_features), model.classifier)
    with pytest.raises(UserError, match="--epsilon: .*BatchNorm1d"):
        Training.of(run := small_run(), model, dataset, PrivateTraining(run, facts(1.0, 1.0)))


def test_several_processes_are_refused():
    run = small_run()
    run.accelerator = SimpleNamespace(num_processes=2)
    with pytest.raises(UserError, match="--epsilon supports only a single process"):
        privacy_facts(run, {"A": SimpleNamespace(splits={"train": range(20)})})


def test_noise_does_not_follow_from_the_seed():
    one, other = (PrivateTraining(small_run(), facts(1.0, 1.0)) for _ in range(2))
    assert one.secret != other.secret


@pytest.fixture()
def call(call_main, data_root, encoders, tmp_path):
    """call(*flags) → (exit code, stdout, stderr) of adapter.py --epsilon 8 on KEMDy19; its 14 utterances, in steps of 4."""

    def call(*arguments, root=tmp_path, epsilon=("--epsilon", 8, "--exp_name", "adapter_eps8")):
        shared = flags(data_root, encoders, root)
        return call_main(adapter, "--task", "KEMDy19", *shared, "--batch_size", 4, *epsilon, *arguments)

    return call


def test_a_run_that_was_killed_ends_with_the_same_bits_and_tells_what_it_cost(call, monkeypatch, tmp_path):
    monkeypatch.setattr(private.secrets, "randbits", lambda bits: 7)
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps(WEIGHTS))
    arguments = ("--class_weights", weights, "--micro_batch_size", 3)
    code, _, stderr = call(*arguments, root=tmp_path / "whole")
    assert code == 0, stderr
    with monkeypatch.context() as patch:
        save = Run.save_last

        def save_and_die(run, state):
            save(run, state)
            raise KeyboardInterrupt

        patch.setattr(Run, "save_last", save_and_die)
        assert call(*arguments, root=tmp_path / "killed")[0] == 130
    monkeypatch.setattr(private.secrets, "randbits", lambda bits: 8)  # of the process that resumes
    code, stdout, stderr = call(*arguments, root=tmp_path / "killed")
    assert code == 0 and "resuming after epoch 1 of 2" in stdout, stderr
    whole, killed = (folder(tmp_path / name, "adapter_eps8", "KEMDy19") for name in ("whole", "killed"))
    assert digest(whole / "best_model.pt") == digest(killed / "best_model.pt")
    rows = [pd.read_csv(of / "history.csv").drop(columns="seconds") for of in (whole, killed)]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    config = read(whole / "config.json")
    told = config["privacy"]
    assert config["method"] == "adapter" and read(whole / "metrics.json")["best_epoch"] == 2
    assert (told["unit"], told["epsilon"], told["delta"], told["clip"]) == ("utterance", 8, 1e-5, 1)
    assert (told["sample_rate"], told["steps"], told["accountant"]) == (4 / 14, 2 * 4, "rdp")
    accountant = RDPAccountant()
    accountant.history = [(told["noise_multiplier"], told["sample_rate"], told["steps"])]
    assert 7.995 <= accountant.get_epsilon(1e-5) <= 8
    assert told["class_weights"] == WEIGHTS
    assert not (whole / "last_checkpoint.pt").exists()  # in which is what the noise follows from
    # The weights count by their content.
    assert "is finished: skipped" in call(*arguments, root=tmp_path / "whole")[1]
    weights.write_text(json.dumps(WEIGHTS | {"happy": 9}))
    code, _, stderr = call(*arguments, root=tmp_path / "whole")
    assert code == 1 and "class weights changed" in stderr


@pytest.mark.parametrize("arguments, line", [
    (("--batch_size", 15), "--batch_size 15: the training split has 14 utterances"),
    (("--epsilon", 0.01), "--epsilon 0.01 --delta 1e-05: The privacy budget is too low"),
    (("--lr", 1e-12), "after 2 steps "),
    (("--mixed_precision", "bf16"), "--epsilon needs --mixed_precision no, not bf16"),
    (("--sampler", "capped", "--cap", 2), "--epsilon uses Poisson sampling and cannot be combined with --sampler capped"),
    (("--exp_name", "adapter"), "--epsilon: name an --exp_name of its own, such as adapter_eps8"),
    (("--class_weights", "weights.json"), "weights.json has weights of happy; the classes are "),
    (("--class_weights", "zero.json"), "zero.json: the weight of happy is 0, but must be a positive number"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(arguments, line, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.json").write_text('{"happy": 2}')
    (tmp_path / "zero.json").write_text('{"happy": 0}')
    code, _, stderr = call(*arguments)
    assert code and stderr.startswith(f"error: {line}") and stderr.count("\n") == 1, stderr


def test_class_weights_are_for_private_training(call):
    assert call("--class_weights", "x.json", epsilon=())[2] == "error: --class_weights needs --epsilon\n"


def test_a_private_run_does_not_start_from_one_that_is_not(call, call_main, data_root, encoders, tmp_path):
    assert call("--num_epochs", 1)[0] == 0
    assert call("--num_epochs", 1, epsilon=())[0] == 0
    shared = (*flags(data_root, encoders, tmp_path), "--batch_size", 4, "--num_epochs", 1)
    second = ("--task", "KEMDy20", "--shared", "--epsilon", 8, "--exp_name", "shared_eps8")
    code, _, stderr = call_main(adapter, *second, *shared, "--init_name", "adapter")
    assert code == 1 and "adapter/fold_0/KEMDy19/best_model.pt was trained without --epsilon" in stderr, stderr
    assert "name the run with --epsilon to start from" in call_main(adapter, *second, *shared)[2]
    code, _, stderr = call_main(adapter, *second, *shared, "--init_name", "adapter_eps8")
    assert code == 0, stderr
    assert read(folder(tmp_path, "shared_eps8", "KEMDy20") / "config.json")["privacy"]["epsilon"] == 8
