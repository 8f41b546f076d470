"""Which model answers where the corpus is not told: features, centres, and the ways to one answer."""

import shutil

import numpy as np
import pytest
import torch
from conftest import digest, folder, run_main

from models.encoders import load_encoder
from models.speech import masked_mean, speech_features
from utils.data.batches import ordered_loader
from utils.training import routing
from utils.training.reopen import reopen

ONE = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]])
OTHER = np.array([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])


def test_the_nearest_centre_is_by_absolute_differences():
    # By squares the second task would be nearer to the origin.
    centroids = [torch.tensor([[9.0, 9.0], [3.0, 0.0]]), torch.tensor([[2.0, 2.0]])]
    assert routing.nearest(torch.tensor([[0.0, 0.0], [2.0, 2.0], [8.0, 9.0]]), centroids).tolist() == [0, 1, 0]


def test_the_ways_to_one_answer():
    for how, expected, chosen in (("entropy", [ONE[0], OTHER[1]], [0, 1]), ("mean", (ONE + OTHER) / 2, [-1, -1])):
        answer = routing.answer(how, [ONE, OTHER])
        assert answer[0] == pytest.approx(np.array(expected)) and answer[1].tolist() == chosen
    features, centroids = torch.tensor([[1.0], [1.1]]), [torch.tensor([[5.0]]), torch.tensor([[1.0], [7.0]])]
    answer = routing.answer("routed", [ONE, OTHER], features, centroids)
    assert answer[0] == pytest.approx(OTHER) and answer[1].tolist() == [1, 1]
    assert routing.entropy(OTHER) == pytest.approx([np.log(2), 0])
    # With one task everything is routed to it.
    for how in ("routed", "entropy"):
        assert routing.answer(how, [ONE], features, centroids[:1])[1].tolist() == [0, 0]


def test_probabilities_of_models_with_other_labels():
    classes = routing.union([["sad", "calm"], ["glad", "sad"]])
    assert classes == ["sad", "calm", "glad"]
    assert routing.over_union(np.array([[0.3, 0.7]]), ["glad", "sad"], classes).tolist() == [[0.7, 0.0, 0.3]]


@pytest.fixture(scope="module")
def adapter(outputs, tmp_path_factory):
    """A copy of an adapter's run folder, without centres."""
    copy = tmp_path_factory.mktemp("outputs") / "adapter" / "fold_0" / "KEMDy19"
    shutil.copytree(folder(outputs, "adapter", "KEMDy19"), copy, ignore=shutil.ignore_patterns(routing.CENTROIDS))
    return copy


def test_features_are_those_of_the_frozen_encoders_without_adapters(adapter, encoders):
    run, model, _, tasks = reopen(adapter, {"cpu": True})
    dataset = tasks["KEMDy19"].splits["test"]
    # Adapters and LayerNorms that would be noticed.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    found = routing.split_features(run, routing.pristine_text_encoder(run), model.speech_encoder, dataset, "")
    text, speech = (load_encoder(kind, encoders / kind) for kind in ("text", "speech"))
    (batch,) = ordered_loader(dataset, len(dataset), 0)
    with torch.no_grad():
        pooled = text(**batch["text_inputs"]).pooler_output
        frames = masked_mean(*speech_features(speech, **batch["speech_inputs"]))
    expected = torch.cat([frames / frames.norm(dim=1, keepdim=True), pooled / pooled.norm(dim=1, keepdim=True)], dim=1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_centres_lie_beside_the_adapter_and_are_the_same_when_made_again(adapter, capsys):
    before = digest(adapter / "best_model.pt")
    centres = []
    for _ in range(2):
        (adapter / routing.CENTROIDS).unlink(missing_ok=True)
        run_main("utils.training.routing", adapter, "--cpu", "--num_workers", "0")
        centres.append(torch.load(adapter / routing.CENTROIDS, weights_only=True))
    assert centres[0].shape == (5, 20 + 24) and torch.allclose(*centres, rtol=0, atol=1e-6)
    assert digest(adapter / "best_model.pt") == before and "centroids.pt" in capsys.readouterr().out
    assert sorted(path.name for path in adapter.parent.iterdir()) == ["KEMDy19"]  # and no lock


def test_centres_are_an_adapters_alone(outputs, call_main):
    for wrong in (folder(outputs, "task_a", "KEMDy19"), outputs):
        code, _, stderr = call_main(routing, wrong, "--cpu")
        assert code == 1 and str(wrong) in stderr and "adapter" in stderr and stderr.count("\n") == 1
