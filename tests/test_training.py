"""Sampling, Fisher information, penalty and scores, against what they are defined as."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import small_speech_encoder, small_text_encoder
from sklearn.metrics import f1_score
from torch.nn.functional import cross_entropy

from ewc import ElasticWeightConsolidation, online
from models import FusionClassifier, load_tokenizer
from utils.data.batches import BalancedBatchSampler, Loader, Sound, UtteranceDataset, derived_seed, ordered_loader
from utils.data.corpus import read_corpus
from utils.data.kemdy import EMOTIONS
from utils.metrics import (
    calibration_error,
    fit_temperature,
    majority_scores,  # pytest would take it for a test
    softmax,
)
from utils.metrics import test_scores as scores_of
from utils.training.engine import Training, evaluate, micro_batches, to_device, train_one_epoch
from utils.training.fisher import MAS, importance
from utils.training.strategy import Strategy


@pytest.fixture(scope="module")
def dataset(data_root, encoders):
    utterances = read_corpus(data_root, "KEMDy19", progress=False).utterances.head(23)
    return UtteranceDataset(utterances, EMOTIONS, load_tokenizer(str(encoders / "text")), 16, Sound(0.5))


def test_micro_batches_are_the_batch_without_the_others_padding(dataset):
    batch = dataset.collate([dataset[index] for index in range(7)])
    parts = micro_batches(batch, 3)
    assert [len(part["labels"]) for part in parts] == [3, 3, 1] and micro_batches(batch, None) == [batch]
    for start, part in zip((0, 3, 6), parts):
        alone = dataset.collate([dataset[index] for index in range(start, min(start + 3, 7))])
        for name in ("speech_inputs", "text_inputs"):
            assert part[name].keys() == alone[name].keys()
            assert all(torch.equal(part[name][key], alone[name][key]) for key in alone[name])
        assert torch.equal(part["labels"], alone["labels"]) and torch.equal(part["indices"], alone["indices"])


def test_batches_by_length_hold_every_utterance_once(dataset):
    loaders = [ordered_loader(dataset, 4, 0, index, 2, by_length=True) for index in (0, 1)]
    lengths = dataset.utterances["duration"].to_numpy()
    batches = [batch["indices"].numpy() for loader in loaders for batch in loader]
    assert sorted(np.concatenate(batches)) == list(range(len(dataset)))
    first = next(iter(loaders[0]))["indices"].numpy()
    assert lengths[first].min() >= np.sort(lengths)[::-1][3]


def test_reading_threads_end_with_the_pass_and_when_it_is_left(dataset):
    before = threading.active_count()
    batches = [[index] for index in range(8)]
    whole = [batch["indices"].tolist() for batch in Loader(dataset, batches, 3)]
    assert whole == batches and threading.active_count() == before
    left = iter(Loader(dataset, batches, 3))
    assert next(left)["indices"].tolist() == [0] and threading.active_count() == before + 3
    left.close()  # as leaving the loop does
    assert threading.active_count() == before


@pytest.fixture()
def model():
    torch.manual_seed(4)
    return FusionClassifier(small_text_encoder(), small_speech_encoder(), len(EMOTIONS))


@pytest.fixture()
def run():
    """As much of a Run as the loops need."""
    return SimpleNamespace(
        accelerator=Accelerator(cpu=True),
        args=SimpleNamespace(num_workers=0, batch_size=8),
        quiet=False,
    )


def global_batches(labels, processes, batch_size=6, epoch=1, seed=12):
    """What the processes draw together, step by step, without the utterances that only keep a process busy."""
    samplers = [BalancedBatchSampler(labels, batch_size, seed, index, processes) for index in range(processes)]
    for sampler in samplers:
        sampler.epoch = epoch
    steps = []
    for step, shares in enumerate(zip(*samplers)):
        size = samplers[0].global_size(step)
        shares = [share for index, share in enumerate(shares) if index < size]
        steps.append([shares[position % processes][position // processes] for position in range(size)])
    return steps


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_draws_the_same_batches(processes):
    labels = np.arange(25) % 3  # 25 = 4 · 6 + 1: the last batch has one utterance for all of them
    assert global_batches(labels, processes) == global_batches(labels, 1)
    assert [len(batch) for batch in global_batches(labels, 1)] == [6, 6, 6, 6, 1]


def test_an_epoch_draws_anew_and_a_seed_repeats_it():
    labels = np.arange(25) % 3
    assert global_batches(labels, 1, epoch=1) != global_batches(labels, 1, epoch=2)
    assert global_batches(labels, 1, seed=12) != global_batches(labels, 1, seed=13)
    assert global_batches(labels, 1, epoch=2) == global_batches(labels, 1, epoch=2)


def test_dropout_does_not_follow_the_order_of_the_utterances(run, dataset, model, monkeypatch):
    seeds = []
    monkeypatch.setattr("utils.training.engine.set_seed", seeds.append)
    run.args = SimpleNamespace(
        num_workers=0, batch_size=8, micro_batch_size=None, lr=1e-3, seed=12, sampler="balanced", cap=None
    )
    training = Training.of(run, model, dataset, Strategy())
    train_one_epoch(run, training, 1)
    monkeypatch.setattr("utils.data.batches.derived_seed", lambda *parts: seeds.append(derived_seed(*parts)) or seeds[-1])
    training.sampler.global_batches()
    assert len(set(seeds)) == 2


def test_classes_are_drawn_alike_and_an_absent_one_is_no_error():
    labels = np.array([0] * 2_000 + [3] * 200 + [6] * 20)  # four of seven classes are absent
    drawn = np.bincount(labels[np.concatenate(global_batches(labels, 1, batch_size=64))], minlength=7)
    assert (drawn[[1, 2, 4, 5]] == 0).all()
    assert np.allclose(drawn[[0, 3, 6]] / 2_220, 1 / 3, atol=0.04)


def importance_by_hand(model, dataset, batch_size, of, power):
    """The definition, spelled out: Σ n_b |g_b|^power / N with g_b the gradient of ``of`` batch b's logits and labels."""
    model.eval()
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for start in range(0, len(dataset), batch_size):
        items = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        batch = to_device(dataset.collate(items), "cpu")
        model.zero_grad()
        of(model(batch["speech_inputs"], batch["text_inputs"]), batch["labels"]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                expected[name] += len(items) * parameter.grad.abs() ** power / len(dataset)
    return expected


@pytest.mark.parametrize("batch_size", [1, 10])
def test_fisher_information_is_what_its_definition_says(run, model, dataset, batch_size):
    fisher = importance(run, model, dataset, batch_size)
    expected = importance_by_hand(model, dataset, batch_size, cross_entropy, 2)
    assert fisher.keys() == expected.keys()
    for name, values in fisher.items():
        assert torch.allclose(values, expected[name], rtol=1e-4, atol=1e-9), name
    assert fisher["classifier.weight"].abs().max() > 1e-4


@pytest.mark.parametrize("batch_size", [1, 10])
def test_importance_of_mas_is_what_its_definition_says(run, model, dataset, batch_size):
    omega = importance(run, model, dataset, batch_size, MAS)
    expected = importance_by_hand(model, dataset, batch_size, lambda logits, _: (logits**2).sum() / len(logits), 1)
    for name, values in omega.items():
        assert torch.allclose(values, expected[name], rtol=1e-4, atol=1e-7), name
    assert omega["classifier.weight"].abs().max() > 1e-4


def test_fisher_information_of_single_utterances_is_the_larger(run, model, dataset):
    # Squares of means are smaller than means of squares: the reason why λ goes with the batch size.
    exact, batched = (importance(run, model, dataset, size)["classifier.weight"].sum() for size in (1, 10))
    assert exact > 2 * batched


def test_penalty_and_its_gradient_equal_the_formula(model):
    torch.manual_seed(0)
    fisher = {name: torch.rand_like(parameter) for name, parameter in model.named_parameters()}
    anchor = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    penalty = ElasticWeightConsolidation([(anchor, fisher)], ewc_lambda=70.0)
    penalty.prepare(model, None, None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    parameters = dict(model.named_parameters())
    formula = 70.0 / 2 * sum((fisher[n] * (p - anchor[n]) ** 2).sum() for n, p in parameters.items())
    expected = dict(zip(parameters, torch.autograd.grad(formula, list(parameters.values()))))
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        assert torch.isclose(penalty.after_backward(), formula, rtol=1e-4)
    for name, parameter in parameters.items():
        assert torch.allclose(parameter.grad, 1 + expected[name], rtol=1e-4, atol=1e-5), name


def test_penalty_leaves_alone_what_the_loss_does_not_reach(model):
    ones = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    penalty = ElasticWeightConsolidation([(ones, ones)], ewc_lambda=1.0)
    penalty.prepare(model, None, None)
    assert penalty.after_backward() == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_online_ewc_has_one_penalty_around_the_last_tasks_parameters():
    """F ← γF + F of the next task, by hand."""
    guarded = [({"w": f"after task {n}"}, {"w": torch.tensor([float(n)])}) for n in (1, 2, 3)]
    ((anchors, fisher),) = online(guarded, 0.5)
    assert anchors == {"w": "after task 3"} and fisher["w"].tolist() == [0.5 * (0.5 * 1 + 2) + 3]


class Shrinking(Strategy):
    """Pulls logits to zero, with SGD in the place of AdamW, and counts what it is called for."""

    def __init__(self):
        self.calls = []

    def prepare(self, model, optimizer, dataset):
        assert len(dataset) == 23 and isinstance(optimizer, torch.optim.AdamW)
        return {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "score": lambda row: -row["epoch"]}

    def loss(self, model, batch, logits, share):
        self.calls.append(len(batch["indices"]))
        return logits.pow(2).mean() * share

    def after_backward(self):
        assert not torch.is_grad_enabled()
        self.calls.append("backward")
        return torch.tensor(2.0)

    def after_step(self):
        self.calls.append("step")


def test_a_strategys_terms_are_those_of_the_whole_batch_however_it_is_divided(run, dataset):
    ends, rows = [], []
    for size in (None, 3):
        torch.manual_seed(4)
        still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        names = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")
        speech = small_speech_encoder(**dict.fromkeys((*names, "layerdrop"), 0.0), mask_time_prob=0.0)
        model = FusionClassifier(small_text_encoder(**still), speech, len(EMOTIONS), dropout=0.0)
        run.args = SimpleNamespace(
            num_workers=0, batch_size=8, micro_batch_size=size, lr=1e-3, seed=12, sampler="balanced", cap=None
        )
        strategy = Shrinking()
        training = Training.of(run, model, dataset, strategy)
        rows.append(train_one_epoch(run, training, 1))
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        assert isinstance(training.optimizer.optimizer, torch.optim.SGD) and training.score({"epoch": 3}) == -3
        parts = [8, 8, 7] if size is None else [3, 3, 2, 3, 3, 2, 3, 3, 1]
        assert [call for call in strategy.calls if isinstance(call, int)] == parts
        assert strategy.calls.count("backward") == strategy.calls.count("step") == 3
    assert torch.allclose(*ends, atol=1e-5) and rows[0] == pytest.approx(rows[1], rel=1e-4)
    assert rows[0]["penalty"] > 2  # the mean over the steps of the term and of the penalty


def test_evaluation_is_in_table_order_and_does_not_depend_on_the_batches(run, model, dataset):
    whole = evaluate(run, model, dataset, "")
    run.args.batch_size = 3
    parts = evaluate(run, model, dataset, "")
    assert np.allclose(whole.logits, parts.logits, atol=1e-5)
    single = evaluate(run, model, dataset.subset([5]), "")
    assert np.allclose(whole.logits[5], single.logits[0], atol=1e-5)
    assert whole.loss == pytest.approx(
        cross_entropy(torch.from_numpy(whole.logits), torch.from_numpy(dataset.labels)).item(), rel=1e-6
    )
    assert [EMOTIONS[label] for label in whole.labels] == dataset.utterances["emotion"].tolist()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_a_split_without_repeating_an_utterance(dataset, processes):
    loaders = [ordered_loader(dataset, 4, 0, index, processes) for index in range(processes)]
    indices = [index for loader in loaders for batch in loader for index in batch["indices"].tolist()]
    assert sorted(indices) == list(range(len(dataset)))


def test_text_is_cut_in_tokens_and_speech_in_seconds(dataset):
    assert max(map(len, dataset.input_ids)) <= 16
    longest = max(len(dataset[index][1]) for index in range(len(dataset)))
    assert longest == 8_000


def test_scores_equal_scikit_learns():
    labels, predicted = np.array([0, 1, 4, 4, 4, 6, 0]), np.array([0, 4, 4, 4, 1, 6, 3])
    scores = scores_of(labels, predicted, EMOTIONS)
    for average in ("micro", "macro", "weighted"):
        assert scores[f"f1_{average}"] == pytest.approx(f1_score(labels, predicted, average=average))
    assert scores["n"] == 7
    assert scores["confusion_matrix"][0] == [1, 0, 0, 1, 0, 0, 0]
    assert scores["per_class"]["neutral"]["support"] == 3
    assert scores["per_class"]["angry"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}


def test_calibration_equals_what_is_worked_out_by_hand():
    # Logits that are twice too large: T = 2 gives back the shares 3 : 1 of the labels.
    logits, labels = np.tile([2 * np.log(3), 0.0], (4, 1)), np.array([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(2, abs=1e-3)
    assert calibration_error(softmax(logits / 2), labels) == pytest.approx(0, abs=1e-9)
    assert calibration_error(softmax(logits), labels) == pytest.approx(0.9 - 0.75)
    # Two bins: .9 and .95 are in one of fifteen, .6 in another.
    probabilities = np.array([[0.95, 0.05], [0.06, 0.94], [0.6, 0.4]])
    assert calibration_error(probabilities, np.array([0, 0, 0])) == pytest.approx((abs(1 - 1.89) + 0.4) / 3)


def test_majority_scores_of_the_published_corpus():
    counts = dict(neutral=11_120, happy=1_183, surprise=156, angry=144, sad=121, disgust=61, fear=43)
    scores = majority_scores(counts, counts)
    assert (round(scores["f1_weighted"], 3), round(scores["wa"], 3), round(scores["f1_macro"], 3)) == (
        0.805,
        0.867,
        0.133,
    )
