"""The models: equal to plain encoders put together by hand, blind to padding, and with only a task's own parts trained."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from conftest import VOCABULARY, read, small_speech_encoder, small_text_encoder
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from models import AdapterFusionClassifier, FusionClassifier, is_task_parameter, load_tokenizer
from models.adapter import Bottleneck
from models.encoders import (
    PaddingInvariantGroupNorm,
    architecture,
    build_encoder,
    count_parameters,
    fingerprint,
    load_encoder,
    make_padding_invariant,
    max_tokens,
    speech_features,
)
from models.hub import split_revision
from models.tokenizer import tokenizer_digest
from utils.errors import UserError

SAMPLES = (700, 16_000, 9_333, 250, 5_000)  # 250 is less than the encoders' receptive field
TOKENS = (3, 12, 7, 5, 9)


def batch_of(samples, tokens, pad_token_id=0):
    """Random inputs of these lengths, padded to the longest; the same utterance is the same whatever its batch."""
    values = torch.zeros(len(samples), max(samples))
    input_ids = torch.full((len(tokens), max(tokens)), pad_token_id)
    for row, (length, count) in enumerate(zip(samples, tokens)):
        generator = torch.Generator().manual_seed(length)
        values[row, :length] = torch.randn(length, generator=generator)
        input_ids[row, :count] = torch.randint(5, 300, (count,), generator=generator)
    return (
        {"input_values": values, "attention_mask": (torch.arange(max(samples)) < torch.tensor(samples)[:, None]).long()},
        {"input_ids": input_ids, "attention_mask": (torch.arange(max(tokens)) < torch.tensor(tokens)[:, None]).long()},
    )


def build(model_class, **speech_changes):
    torch.manual_seed(3)
    return model_class(small_text_encoder(), small_speech_encoder(**speech_changes)).eval()


def test_fusion_logits_equal_plain_encoders_put_together_by_hand(encoders):
    torch.manual_seed(5)
    model = FusionClassifier.from_pretrained(str(encoders / "text"), str(encoders / "speech")).eval()
    text_encoder = AutoModel.from_pretrained(encoders / "text").eval()
    speech_encoder = AutoModel.from_pretrained(encoders / "speech").eval()
    speech, text = batch_of((8_000, 8_000), (9, 4))
    with torch.no_grad():
        pooled = text_encoder(**text).pooler_output
        frames = model.speech_projector(speech_encoder(speech["input_values"]).last_hidden_state).mean(1)
        by_hand = model.classifier(torch.cat([pooled, frames], dim=1))
        assert torch.allclose(model(speech, text), by_hand, atol=1e-6)


def test_fusion_keeps_the_encoders_own_parameter_names():
    names = set(build(FusionClassifier).state_dict())
    plain = {f"text_encoder.{name}" for name in small_text_encoder().state_dict()}
    plain |= {f"speech_encoder.{name}" for name in small_speech_encoder().state_dict()}
    heads = {f"{part}.{kind}" for part in ("speech_projector", "classifier") for kind in ("weight", "bias")}
    assert names == plain | heads


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("model_class", [FusionClassifier, AdapterFusionClassifier])
def test_an_utterance_scores_the_same_alone_and_in_any_batch(model_class, norm):
    model = build(model_class, feat_extract_norm=norm)
    with torch.no_grad():
        together = model(*batch_of(SAMPLES, TOKENS))
        alone = torch.cat([model(*batch_of((samples,), (tokens,))) for samples, tokens in zip(SAMPLES, TOKENS)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_padding_would_matter_with_the_plain_norm():
    # Guards the test above: with the norm as published the same utterances do change with their batch.
    model = build(FusionClassifier)
    layer = model.speech_encoder.feature_extractor.conv_layers[0]
    plain = nn.GroupNorm(layer.layer_norm.num_groups, layer.layer_norm.num_channels)
    layer.layer_norm = plain
    with torch.no_grad():
        together = model(*batch_of(SAMPLES, TOKENS))
        alone = model(*batch_of(SAMPLES[:1], TOKENS[:1]))
    assert (together[:1] - alone).abs().max() > 1e-4


@pytest.mark.parametrize("model_class", [FusionClassifier, AdapterFusionClassifier])
def test_a_clip_of_a_few_samples_can_be_trained_on(model_class):
    # SpecAugment of transformers refuses clips shorter than one of its masks.
    model = build(model_class, mask_time_length=10).train()
    model(*batch_of((30,), (3,))).sum().backward()
    assert torch.isfinite(model.classifier.weight.grad).all()


def test_published_parameter_counts():
    with torch.device("meta"):
        klue = FusionClassifier(BertModel(BertConfig(vocab_size=32_000)), Wav2Vec2Model(Wav2Vec2Config()))
        kobert = FusionClassifier(BertModel(BertConfig(vocab_size=8_002)), Wav2Vec2Model(Wav2Vec2Config()))
        adapter = AdapterFusionClassifier(BertModel(BertConfig()), Wav2Vec2Model(Wav2Vec2Config()))
    assert count_parameters(klue) == 205_193_095
    assert count_parameters(kobert) == 186_762_631
    assert count_parameters(adapter, trained_only=True) == 13_241_607


def test_what_a_task_owns():
    model = build(AdapterFusionClassifier)
    layers = [f"text_encoder.encoder.layer.{layer}.{place}" for layer in (0, 1) for place in ("attention.output", "output")]
    expected = {
        f"{layer}.{part}.{kind}"
        for layer in layers
        for part in ("dropout.adapter.down", "dropout.adapter.up", "LayerNorm")
        for kind in ("weight", "bias")
    }
    heads = ("speech_projector", "classifier", *(f"speech_adapter.layers.{layer}" for layer in range(3)))
    expected |= {f"{part}.{kind}" for part in heads for kind in ("weight", "bias")}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected
    assert set(model.checkpoint_state()) == expected
    assert not is_task_parameter("text_encoder.embeddings.LayerNorm.weight")


def test_a_training_step_moves_all_that_the_task_owns_and_nothing_else():
    model = build(AdapterFusionClassifier).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    nn.functional.cross_entropy(model(*batch_of(SAMPLES, TOKENS)), torch.arange(5)).backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(model.checkpoint_state())


def test_frozen_encoders_stay_in_evaluation_mode():
    model = build(AdapterFusionClassifier).train()
    assert model.dropout.training
    assert not any(module.training for part in (model.text_encoder, model.speech_encoder) for module in part.modules())


def test_the_norm_of_valid_frames_and_its_gradient_are_those_of_the_plain_norm():
    torch.manual_seed(3)
    norm = PaddingInvariantGroupNorm(5, 5)
    nn.init.normal_(norm.weight)
    frames, valid = torch.randn(4, 5, 30, requires_grad=True), [30, 21, 7, 2]
    norm.valid_frames = torch.tensor(valid)
    plain = torch.cat(
        [
            nn.functional.pad(nn.functional.group_norm(own[..., :n], 5, norm.weight, norm.bias, norm.eps), (0, 30 - n))
            for own, n in zip(frames.split(1), valid)
        ]
    )
    ours, weights = norm(frames), torch.randn(4, 5, 30)
    assert torch.equal(ours, plain)
    inputs = (frames, norm.weight, norm.bias)
    gradients = [torch.autograd.grad((result * weights).sum(), inputs) for result in (ours, plain)]
    assert all(torch.equal(one, other) for one, other in zip(*gradients))
    # In bfloat16, as autocast hands it over on a CPU, and where nothing below is trained.
    assert torch.allclose(norm(frames.detach().bfloat16()).float(), plain, atol=0.05)
    frozen = torch.autograd.grad((norm(frames.detach()) * weights).sum(), inputs[1:])
    assert all(torch.equal(one, other) for one, other in zip(frozen, gradients[1][1:]))


def test_nothing_below_the_first_adapter_is_back_propagated():
    model = AdapterFusionClassifier(small_text_encoder(), small_speech_encoder()).train()
    reached = {}
    first = model.text_encoder.encoder.layer[0]
    watched = {
        "embeddings": model.text_encoder.embeddings,
        "attention": first.attention.self,
        "dense": first.attention.output.dense,
        "adapter": first.attention.output.dropout.adapter,
    }
    for name, module in watched.items():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: reached.update(
                {name: (output[0] if isinstance(output, tuple) else output).requires_grad}
            )
        )
    speech = {"input_values": torch.randn(2, 4000), "attention_mask": torch.ones(2, 4000, dtype=torch.long)}
    text = {"input_ids": torch.tensor([[2, 7, 3], [2, 8, 3]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    model(speech, text).sum().backward()
    assert reached == {"embeddings": False, "attention": False, "dense": False, "adapter": True}
    assert all(parameter.grad is None for parameter in model.speech_encoder.parameters())


def test_zeroed_adapters_leave_the_text_encoder_as_it_was():
    plain = small_text_encoder().eval()
    model = AdapterFusionClassifier(small_text_encoder(), small_speech_encoder()).eval()
    _, text = batch_of(SAMPLES, TOKENS)
    bottlenecks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    shared = {name.replace("dropout.adapter.", ""): tensor for name, tensor in model.text_encoder.state_dict().items()}
    plain.load_state_dict({name: shared[name] for name in plain.state_dict()})
    with torch.no_grad():
        assert not torch.equal(model.text_encoder(**text).pooler_output, plain(**text).pooler_output)
        for bottleneck in bottlenecks:
            for parameter in bottleneck.parameters():
                parameter.zero_()
        assert torch.equal(model.text_encoder(**text).pooler_output, plain(**text).pooler_output)
    assert len(bottlenecks) == 4


def test_parameters_of_one_task_load_over_those_of_another():
    first, second = build(AdapterFusionClassifier), build(AdapterFusionClassifier)
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if is_task_parameter(name):
                parameter.add_(0.1)
    inputs = batch_of(SAMPLES, TOKENS)
    first.load_checkpoint_state(second.checkpoint_state())
    assert torch.equal(first(*inputs), second(*inputs))
    with pytest.raises(ValueError, match="classifier.bias"):
        first.load_checkpoint_state({k: v for k, v in second.checkpoint_state().items() if k != "classifier.bias"})


def test_adapters_need_the_layers_of_a_bert():
    with pytest.raises(UserError, match="--text_model"):
        AdapterFusionClassifier(small_speech_encoder(), small_speech_encoder())


def test_without_pretraining_the_weights_differ_and_the_seed_rebuilds_them(encoders):
    name = str(encoders / "text")
    pretrained, drawn, again = (load_encoder("text", name, pretrained=p, seed=12) for p in (True, False, False))
    other = load_encoder("text", name, pretrained=False, seed=13)
    key = "encoder.layer.1.output.dense.weight"
    assert not torch.allclose(pretrained.state_dict()[key], drawn.state_dict()[key], atol=1e-3)
    assert not torch.allclose(other.state_dict()[key], drawn.state_dict()[key], atol=1e-3)
    assert drawn.provenance["fingerprint"] == again.provenance["fingerprint"]
    assert all(torch.equal(drawn.state_dict()[name], again.state_dict()[name]) for name in drawn.state_dict())
    model = AdapterFusionClassifier.from_pretrained(name, str(encoders / "speech"), without_pretraining=True)
    assert model.text_encoder.provenance["fingerprint"] == drawn.provenance["fingerprint"]
    assert not model.speech_encoder.provenance["pretrained"]


@pytest.mark.parametrize("pretrained", [True, False])
def test_loading_an_encoder_leaves_the_random_state_alone(encoders, pretrained):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_encoder("speech", str(encoders / "speech"), pretrained=pretrained)
    assert torch.equal(torch.rand(3), expected)


def test_fingerprint_overlooks_what_a_checkpoint_may_lack(encoders):
    speech = load_encoder("speech", str(encoders / "speech"))
    before = fingerprint(speech)
    with torch.no_grad():
        speech.masked_spec_embed.add_(1)
        assert fingerprint(speech) == before
        speech.encoder.layer_norm.bias.add_(1)
    assert fingerprint(speech) != before


def test_layerdrop_is_off(encoders):
    assert Wav2Vec2Config().layerdrop == 0.1
    assert load_encoder("speech", str(encoders / "speech")).config.layerdrop == 0.0


def configured(folder, copy, **settings):
    """A copy of an encoder's folder whose config.json has other settings."""
    shutil.copytree(folder, copy)
    (copy / "config.json").write_text(json.dumps(read(folder / "config.json") | settings))
    return copy


@pytest.mark.parametrize("kind", ["text", "speech"])
def test_settings_that_say_how_to_run_a_model_are_not_taken_from_its_folder(encoders, tmp_path, kind):
    how = {
        "gradient_checkpointing": True,  # facebook/wav2vec2-base's
        "return_dict": False,
        "output_hidden_states": True,
        "torchscript": True,
        "chunk_size_feed_forward": 7,
        "is_decoder": True,
        "add_cross_attention": True,
        "layerdrop": 0.5,
        "torch_dtype": "float16",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "attn_implementation": "somebody/kernel",
        "_attn_implementation": "somebody/kernel",
        "_experts_implementation": "somebody/kernel",
    }
    plain = load_encoder(kind, encoders / kind)
    encoder = load_encoder(kind, configured(encoders / kind, tmp_path / kind, **how))
    assert encoder.config._attn_implementation == "sdpa" and encoder.dtype == torch.float32
    assert encoder.provenance["fingerprint"] == plain.provenance["fingerprint"]
    parts = {kind: encoder, ("speech" if kind == "text" else "text"): None}
    torch.manual_seed(3)
    model = FusionClassifier(parts["text"] or small_text_encoder(), parts["speech"] or small_speech_encoder())
    model.train()(*batch_of(SAMPLES, TOKENS)).sum().backward()
    with torch.no_grad():
        speech, text = batch_of(SAMPLES, TOKENS)
        inputs = text if kind == "text" else {"input_values": speech["input_values"]}
        outputs = (one.eval()(**inputs).last_hidden_state for one in (encoder, plain))
        assert torch.equal(*outputs)


def speech_encoder_of(model_type, **changes):
    torch.manual_seed(3)
    settings = architecture(small_speech_encoder(**changes)) | {"model_type": model_type}
    return AutoModel.from_config(AutoConfig.for_model(**settings | changes))


@pytest.mark.parametrize(
    "model_type, changes",
    [
        ("wav2vec2", {}),
        ("wav2vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
        ("hubert", {}),
        ("wavlm", {}),
        ("unispeech-sat", {}),
    ],
)
def test_speech_encoders_that_do_not_depend_on_padding_are_taken(tmp_path, model_type, changes):
    speech_encoder_of(model_type, **changes).save_pretrained(tmp_path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    encoder = load_encoder("speech", tmp_path)
    assert encoder.config.model_type == model_type and torch.equal(torch.rand(3), expected)
    norm = getattr(encoder.feature_extractor.conv_layers[0], "layer_norm", None)
    assert getattr(norm, "valid_frames", None) is None and not encoder.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize(
    "model_type, changes",
    [
        ("data2vec-audio", {}),
        ("wav2vec2-conformer", {}),
        ("sew", {}),
        ("sew-d", {}),
        ("hubert", {"conv_pos_batch_norm": True}),
    ],
)
def test_speech_encoders_that_depend_on_padding_are_refused(tmp_path, model_type, changes):
    encoder = speech_encoder_of(model_type, **changes)
    encoder.save_pretrained(tmp_path)
    for pretrained in (True, False):
        with pytest.raises(UserError, match=f"features of {type(encoder).__name__} depend on padding"):
            load_encoder("speech", tmp_path, pretrained)
    with pytest.raises(UserError, match="file: its speech encoder"):
        build_encoder("speech", architecture(encoder), "file")


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_waveforms_other_than_those_that_are_read_are_refused(encoders, tmp_path, file):
    folder = shutil.copytree(encoders / "speech", tmp_path / "speech")

    def described(**settings):
        Wav2Vec2FeatureExtractor(**settings).save_pretrained(folder)
        if file == "processor_config.json":
            settings = read(folder / "preprocessor_config.json")
            (folder / "preprocessor_config.json").unlink()
            (folder / file).write_text(json.dumps({"feature_extractor": settings}))

    described(do_normalize=True)
    load_encoder("speech", folder)
    described(sampling_rate=8_000)
    with pytest.raises(UserError, match=f"its {file} asks for waveforms of 8000 Hz"):
        load_encoder("speech", folder)
    described(do_normalize=False)
    load_encoder("speech", folder)  # see the next test
    small_speech_encoder(feat_extract_norm="layer").save_pretrained(folder)
    with pytest.raises(UserError, match=f"its {file} asks for waveforms as recorded"):
        load_encoder("speech", folder)


@pytest.mark.parametrize("norm, tells", [("group", False), ("layer", True)])
def test_a_norm_over_time_takes_the_scale_of_a_waveform_out(norm, tells):
    torch.manual_seed(3)
    encoder = make_padding_invariant(small_speech_encoder(feat_extract_norm=norm)).eval()
    with torch.no_grad():
        encoder.feature_extractor.conv_layers[0].conv.weight.mul_(30)  # the norm's epsilon is small beside what it divides
        waveform = torch.randn(1, 8_000)
        one, other = (
            speech_features(encoder, 3 * wave + 1, torch.ones(1, 8_000, dtype=torch.long))[0]
            for wave in (waveform, waveform / 10)
        )
    assert ((one - other).abs().max() > 0.01 * one.std()) == tells


@pytest.mark.parametrize("kind", ["text", "speech"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_not_finite_are_refused_by_name(encoders, tmp_path, kind, value):
    shutil.copytree(encoders / kind, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    name = sorted(weights)[3]
    weights[name].view(-1)[-1] = float(value)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"--{kind}_model .*: {name} holds numbers that are not finite"):
        load_encoder(kind, tmp_path)


def test_the_fingerprint_tells_architectures_and_tokenizers_apart(encoders, tmp_path):
    folder, known = encoders / "text", {load_encoder("text", encoders / "text").provenance["fingerprint"]}

    def different(kind, path):
        now = load_encoder(kind, path).provenance["fingerprint"]
        assert now not in known
        known.add(now)

    different("text", configured(folder, tmp_path / "act", hidden_act="relu"))
    different("text", configured(folder, tmp_path / "dropout", hidden_dropout_prob=0.3))
    different("speech", encoders / "speech")
    different("speech", configured(encoders / "speech", tmp_path / "time", mask_time_prob=0.2))
    vocabulary = {word: index for index, word in enumerate([*VOCABULARY, "cafe", "café"])}
    swapped = vocabulary | {VOCABULARY[5]: 6, VOCABULARY[6]: 5}
    for name, words, settings in (
        ("more", vocabulary, {"do_lower_case": False}),
        ("swapped", swapped, {"do_lower_case": False}),
        ("lower", vocabulary, {"do_lower_case": True}),
        ("accents", vocabulary, {"do_lower_case": True, "strip_accents": False}),
        ("side", vocabulary, {"do_lower_case": False, "truncation_side": "left"}),
        ("special", vocabulary, {"do_lower_case": False, "cls_token": "[MASK]"}),
    ):
        path = shutil.copytree(folder, tmp_path / name)
        BertTokenizer(vocab=words, **settings).save_pretrained(path)
        different("text", path)


@pytest.mark.parametrize("kind", ["text", "speech"])
def test_the_fingerprint_is_that_of_a_copy_under_another_name_or_in_another_format(encoders, tmp_path, kind):
    encoder = load_encoder(kind, encoders / kind)
    aside = {"_name_or_path": "/elsewhere", "transformers_version": "4.30.0", "torch_dtype": "float32", "architectures": None}
    aside |= {"id2label": {"0": "a", "1": "b"}, "initializer_range": 0.5, "tokenizer_class": "BertTokenizer"}
    copy = configured(encoders / kind, tmp_path / "copy", **aside)
    saved = shutil.copytree(encoders / kind, tmp_path / "saved")
    encoder.save_pretrained(saved)
    bare = shutil.copytree(encoders / kind, tmp_path / "bare")
    # As a version of transformers would write it that has fewer settings, and in torch's format.
    usual = type(encoder.config)().to_dict()
    settings = {name: value for name, value in read(bare / "config.json").items() if value != usual.get(name)}
    (bare / "config.json").write_text(json.dumps(settings | {"model_type": encoder.config.model_type}))
    torch.save(load_file(bare / "model.safetensors"), bare / "pytorch_model.bin")
    (bare / "model.safetensors").unlink()
    if kind == "text":
        AutoTokenizer.from_pretrained(saved).save_pretrained(saved)
    for path in (copy, saved, bare):
        assert load_encoder(kind, path).provenance["fingerprint"] == encoder.provenance["fingerprint"], path


@pytest.mark.parametrize(
    "model_type, room", [("bert", 14), ("electra", 14), ("roberta", 12), ("xlm-roberta", 12), ("mpnet", 12)]
)
def test_how_many_tokens_a_text_encoder_has_room_for(model_type, room):
    sizes = dict(vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    encoder = AutoModel.from_config(AutoConfig.for_model(model_type, max_position_embeddings=14, **sizes)).eval()
    assert max_tokens(encoder) == room
    for tokens, fits in ((room, True), (room + 1, False)):
        ids = torch.full((1, tokens), 7)
        try:
            encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        except (IndexError, RuntimeError):
            assert not fits
        else:
            assert fits


def test_rotary_positions_have_no_end():
    sizes = dict(vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    assert max_tokens(AutoModel.from_config(AutoConfig.for_model("jina_embeddings_v3", **sizes))) is None


def test_a_missing_folder_is_one_line_with_the_flag():
    with pytest.raises(UserError, match=r"--speech_model \./nowhere/at/all: there is no such folder"):
        load_encoder("speech", "./nowhere/at/all")


def test_an_incomplete_folder_is_one_line(tmp_path):
    for load in (lambda: load_encoder("text", str(tmp_path)), lambda: load_tokenizer(str(tmp_path))):
        with pytest.raises(UserError) as raised:
            load()
        assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_text_encoder_without_its_vocabulary_is_refused(encoders, tmp_path):
    # transformers would make a tokenizer of special tokens alone, to which all text is [UNK].
    for name in ("config.json", "model.safetensors"):
        shutil.copy(encoders / "text" / name, tmp_path)
    with pytest.raises(UserError, match="its vocabulary is missing"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("lost", ["encoder.layer.1", ""])
def test_an_encoder_that_lacks_weights_is_refused(encoders, tmp_path, lost):
    # transformers would draw them at random, with a warning at best.
    shutil.copy(encoders / "text" / "config.json", tmp_path)
    weights = load_file(encoders / "text" / "model.safetensors")
    save_file({("" if not name.startswith(lost) else "other.") + name: tensor for name, tensor in weights.items()},
              tmp_path / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(UserError, match="name a checkpoint that holds the whole encoder"):
        load_encoder("text", str(tmp_path))


def test_a_missing_pooler_is_told_and_drawn_from_a_seed(encoders, tmp_path):
    # A BERT trained on masked words alone has none.
    shutil.copytree(encoders / "text", tmp_path, dirs_exist_ok=True)
    weights = load_file(encoders / "text" / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if not k.startswith("pooler")}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    encoder, again = load_encoder("text", tmp_path), load_encoder("text", tmp_path)
    assert encoder.provenance["drawn_at_random"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert encoder.provenance["fingerprint"] == again.provenance["fingerprint"]
    assert load_encoder("text", encoders / "text").provenance["drawn_at_random"] == []


def test_a_speech_checkpoint_of_old_names_is_whole(encoders, tmp_path):
    # wav2vec2-base-960h was saved with a CTC head, without the mask embedding, and with weight norm's former names.
    shutil.copy(encoders / "speech" / "config.json", tmp_path)
    weights = load_file(encoders / "speech" / "model.safetensors")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    former = {}
    for name, tensor in weights.items():
        for new, old in names.items():
            name = name.replace(new, old)
        former[f"wav2vec2.{name}"] = tensor
    del former["wav2vec2.masked_spec_embed"]
    save_file(former | {"lm_head.weight": torch.zeros(32, 20)}, tmp_path / "model.safetensors", {"format": "pt"})
    expected = load_encoder("speech", encoders / "speech").provenance["fingerprint"]
    assert load_encoder("speech", tmp_path).provenance["fingerprint"] == expected


@pytest.mark.parametrize("name", ["my model", "a--b", "@x"])
def test_what_cannot_be_a_name_is_one_line(name):
    with pytest.raises(UserError) as raised:
        load_encoder("text", name)
    assert "\n" not in str(raised.value)


def test_a_speech_encoder_with_adapters_of_its_own_is_used_without_them(tmp_path):
    small_speech_encoder(add_adapter=True, num_adapter_layers=2).save_pretrained(tmp_path)
    model = FusionClassifier(small_text_encoder(), load_encoder("speech", str(tmp_path))).eval()
    assert model.speech_encoder.adapter is None
    with torch.no_grad():
        together, alone = model(*batch_of(SAMPLES, TOKENS)), model(*batch_of(SAMPLES[:1], TOKENS[:1]))
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_a_name_may_carry_a_revision(tmp_path):
    assert split_revision("skt/kobert-base-v1@v2") == ("skt/kobert-base-v1", "v2")
    assert split_revision("skt/kobert-base-v1") == ("skt/kobert-base-v1", None)
    folder = tmp_path / "bert@home"
    folder.mkdir()
    assert split_revision(str(folder)) == (str(folder), None)


@pytest.fixture(scope="module")
def spiece_folder(tmp_path_factory):
    """A folder with nothing but a small SentencePiece vocabulary whose special tokens lie where KoBERT's do."""
    folder = tmp_path_factory.mktemp("spiece")
    sentences = ["오늘 정말 기분이 좋아요", "내일은 비가 온다고 해요", "버스가 늦게 와서 화가 났어요"] * 20
    (folder / "text").write_text("\n".join(sentences), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False,
        unk_id=0, pad_id=1, bos_id=-1, eos_id=-1, unk_piece="[UNK]", pad_piece="[PAD]",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"], minloglevel=2,
    )  # fmt: skip
    return folder


def test_sentencepiece_vocabularies_are_read_by_sentencepiece(spiece_folder):
    tokenizer = load_tokenizer(str(spiece_folder))
    encoded = tokenizer(["오늘 기분이 좋아요", "비가"])
    for ids, text in zip(encoded["input_ids"], ("오늘 기분이 좋아요", "비가")):
        assert (ids[0], ids[-1]) == (2, 3)
        assert 0 not in ids and tokenizer.processor.decode(ids[1:-1]) == text  # the automatic classes make [UNK] of it
    assert encoded["attention_mask"] == [[1] * len(ids) for ids in encoded["input_ids"]]


def test_sentencepiece_tokenizer_truncates_and_pads(spiece_folder):
    tokenizer = load_tokenizer(str(spiece_folder))
    text = "버스가 늦게 와서 화가 났어요"
    whole = tokenizer([text])["input_ids"][0]
    assert tokenizer([text], truncation=True, max_length=5)["input_ids"][0] == [*whole[:4], 3]
    padded = tokenizer([text, ""], padding=True, return_tensors="pt")
    assert padded["input_ids"].shape == (2, len(whole))
    assert padded["input_ids"][1].tolist() == [2, 3] + [tokenizer.pad_token_id] * (len(whole) - 2)
    assert padded["attention_mask"][1].tolist() == [1, 1] + [0] * (len(whole) - 2)
    assert tokenizer.pad_token_id == 1


def test_another_sentencepiece_vocabulary_is_another_tokenizer(spiece_folder, tmp_path):
    before, path = tokenizer_digest(load_tokenizer(str(spiece_folder))), tmp_path / "spiece.model"
    model = (spiece_folder / "spiece.model").read_bytes()
    path.write_bytes(model)
    assert tokenizer_digest(load_tokenizer(str(tmp_path))) == before
    path.write_bytes(model.replace("오".encode(), "쀍".encode()))
    assert tokenizer_digest(load_tokenizer(str(tmp_path))) != before


def test_kobert_encodings():
    folder = Path(__file__).resolve().parents[2] / "shared" / "kobert-base-v1"
    if not folder.is_dir():
        pytest.skip("KoBERT's vocabulary is not here")
    tokenizer = load_tokenizer(str(folder))
    expected = json.loads((folder / "encodings.json").read_text(encoding="utf-8"))
    assert tokenizer(list(expected))["input_ids"] == list(expected.values())
    assert tokenizer.pad_token_id == 1 and len(tokenizer) == 8_002


def test_other_vocabularies_are_read_by_transformers(encoders):
    texts = ["가나다", "오늘"]
    expected = AutoTokenizer.from_pretrained(encoders / "text")(texts)["input_ids"]
    assert load_tokenizer(str(encoders / "text"))(texts)["input_ids"] == expected
