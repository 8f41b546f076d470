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
from models.encoders import architecture, build_encoder, count_parameters, fingerprint, load_encoder, max_tokens
from models.hub import split_revision
from models.speech import PaddingInvariantGroupNorm
from models.tokenizer import tokenizer_digest, tokenizer_files, tokenizer_from_files
from utils.errors import UserError
from utils.training.checkpoints import encoder_of

LABELS = 7
SAMPLES = (700, 16_000, 9_333, 250, 5_000)  # 250 is less than the encoders' receptive field
TOKENS = (3, 12, 7, 5, 9)
KOBERT = Path(__file__).resolve().parents[2] / "shared" / "kobert-base-v1"
# Speech encoders, by whether their features depend on padding.
BLIND = [("wav2vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}), ("wav2vec2", {"add_adapter": True})]
BLIND += [("hubert", {}), ("wavlm", {}), ("unispeech-sat", {})]
DEPENDENT = [("data2vec-audio", {}), ("wav2vec2-conformer", {}), ("sew", {}), ("hubert", {"conv_pos_batch_norm": True})]
# Files of an encoder that are missing (None) or damaged; LFS is what git leaves in place of a file that was not fetched.
LFS = b"version https://git-lfs.github.com/spec/v1"
FILES = [("config.json", content) for content in (None, b"{", b'{"model_type": "mine"}')]
FILES += [("model.safetensors", content) for content in (None, LFS)]
FILES += [("pytorch_model.bin", content) for content in (LFS, b"PK\x03\x04 and no more")]
VOCABULARIES = [("tokenizer.json", b"{"), ("tokenizer.json", b'{"version": "9"}'), ("vocab.txt", b"\xff\xfe\x00")]
VOCABULARIES += [("spiece.model", b"not a model")]
BOTH = pytest.mark.parametrize("model_class", [FusionClassifier, AdapterFusionClassifier])
KINDS = pytest.mark.parametrize("kind", ["text", "speech"])


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
    return model_class(small_text_encoder(), small_speech_encoder(**speech_changes), LABELS).eval()


@torch.no_grad()
def logits_alone_and_together(model):
    together = model(*batch_of(SAMPLES, TOKENS))
    return torch.cat([model(*batch_of((samples,), (tokens,))) for samples, tokens in zip(SAMPLES, TOKENS)]), together


def changed_weights(folder, copy, change):
    """A copy of an encoder's folder with other weights: ``change`` maps a state dict to another."""
    shutil.copytree(folder, copy)
    save_file(change(load_file(copy / "model.safetensors")), copy / "model.safetensors", {"format": "pt"})
    return copy


def configured(folder, copy, **settings):
    """A copy of an encoder's folder whose config.json has other settings."""
    shutil.copytree(folder, copy)
    (copy / "config.json").write_text(json.dumps(read(folder / "config.json") | settings))
    return copy


def test_fusion_logits_equal_plain_encoders_put_together_by_hand(encoders):
    torch.manual_seed(5)
    model = FusionClassifier(*(load_encoder(kind, encoders / kind) for kind in ("text", "speech")), num_labels=4).eval()
    text_encoder, speech_encoder = (AutoModel.from_pretrained(encoders / kind).eval() for kind in ("text", "speech"))
    speech, text = batch_of((8_000, 8_000), (9, 4))
    with torch.no_grad():
        pooled = text_encoder(**text).pooler_output
        frames = model.speech_projector(speech_encoder(speech["input_values"]).last_hidden_state).mean(1)
        by_hand = model.classifier(torch.cat([pooled, frames], dim=1))
        assert by_hand.shape == (2, 4) and torch.allclose(model(speech, text), by_hand, rtol=0, atol=1e-6)
    parts = {"text_encoder": text_encoder, "speech_encoder": speech_encoder}
    parts |= {part: nn.Linear(1, 1) for part in ("speech_projector", "classifier")}
    names = {f"{part}.{name}" for part, module in parts.items() for name in module.state_dict()}
    assert set(model.state_dict()) == set(model.checkpoint_state()) == names


@pytest.mark.parametrize("norm", ["group", "layer"])
@BOTH
def test_an_utterance_scores_the_same_alone_and_in_any_batch(model_class, norm):
    assert torch.allclose(*logits_alone_and_together(build(model_class, feat_extract_norm=norm)), atol=1e-5)


@BOTH
def test_a_clip_of_a_few_samples_can_be_trained_on(model_class):
    # SpecAugment of transformers refuses clips shorter than one of its masks.
    model = build(model_class, mask_time_length=10).train()
    model(*batch_of((30,), (3,))).sum().backward()
    assert torch.isfinite(model.classifier.weight.grad).all()


def test_published_parameter_counts():
    with torch.device("meta"):
        klue = FusionClassifier(BertModel(BertConfig(vocab_size=32_000)), Wav2Vec2Model(Wav2Vec2Config()), LABELS)
        kobert = FusionClassifier(BertModel(BertConfig(vocab_size=8_002)), Wav2Vec2Model(Wav2Vec2Config()), LABELS)
        adapter = AdapterFusionClassifier(BertModel(BertConfig()), Wav2Vec2Model(Wav2Vec2Config()), LABELS)
    assert count_parameters(klue) == 205_193_095
    assert count_parameters(kobert) == 186_762_631
    assert count_parameters(adapter, trained_only=True) == 13_241_607


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
    # And where nothing below is trained.
    frozen = torch.autograd.grad((norm(frames.detach()) * weights).sum(), inputs[1:])
    for own in (gradients[0], (gradients[1][0], *frozen)):
        assert all(torch.equal(one, other) for one, other in zip(own, gradients[1]))
    # In bfloat16, as autocast hands it over on a CPU.
    assert torch.allclose(norm(frames.detach().bfloat16()).float(), plain, atol=0.05)


def test_a_training_step_moves_all_that_the_task_owns_and_nothing_else():
    layers = [f"text_encoder.encoder.layer.{layer}.{place}" for layer in (0, 1) for place in ("attention.output", "output")]
    own = ("dropout.adapter.down", "dropout.adapter.up", "LayerNorm")
    parts = [f"{layer}.{part}" for layer in layers for part in own]
    parts += ["speech_projector", "classifier", *(f"speech_adapter.layers.{layer}" for layer in range(3))]
    expected = {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    model = build(AdapterFusionClassifier).train()
    assert set(model.checkpoint_state()) == expected
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    nn.functional.cross_entropy(model(*batch_of(SAMPLES, TOKENS)), torch.arange(5)).backward()
    optimizer.step()
    assert {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])} == expected
    # Frozen means evaluation mode.
    assert model.dropout.training
    assert not any(module.training for part in (model.text_encoder, model.speech_encoder) for module in part.modules())


def test_nothing_below_the_first_adapter_is_back_propagated():
    model, reached = build(AdapterFusionClassifier).train(), []
    first = model.text_encoder.encoder.layer[0].attention.output
    for module in (model.text_encoder.embeddings, first.dense, first.dropout.adapter):
        module.register_forward_hook(lambda module, inputs, output: reached.append(output.requires_grad))
    model(*batch_of(SAMPLES, TOKENS)).sum().backward()
    assert reached == [False, False, True]
    assert all(parameter.grad is None for parameter in model.speech_encoder.parameters())


def test_zeroed_adapters_leave_the_text_encoder_as_it_was():
    plain = small_text_encoder().eval()
    model = build(AdapterFusionClassifier)
    _, text = batch_of(SAMPLES, TOKENS)
    bottlenecks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    shared = {name.replace("dropout.adapter.", ""): tensor for name, tensor in model.text_encoder.state_dict().items()}
    plain.load_state_dict({name: shared[name] for name in plain.state_dict()})
    with torch.no_grad():
        moved = (model.text_encoder(**text).pooler_output - plain(**text).pooler_output).abs().max()
        # As published: weights and biases from a truncated normal of std 1e-3.
        assert 0 < moved < 0.05
        assert all(0 < parameter.abs().max() <= 2e-3 for module in bottlenecks for parameter in module.parameters())
        for bottleneck in bottlenecks:
            for parameter in bottleneck.parameters():
                parameter.zero_()
        assert torch.equal(model.text_encoder(**text).pooler_output, plain(**text).pooler_output)
    assert len(bottlenecks) == 4


def test_parameters_of_one_task_load_over_those_of_another():
    first, second = build(AdapterFusionClassifier), build(AdapterFusionClassifier)
    for name, parameter in second.named_parameters():
        parameter.data += 0.1 * is_task_parameter(name)
    inputs = batch_of(SAMPLES, TOKENS)
    first.load_checkpoint_state(second.checkpoint_state())
    assert torch.equal(first(*inputs), second(*inputs))
    state = second.checkpoint_state()
    del state["classifier.bias"]
    with pytest.raises(ValueError, match="classifier.bias"):
        first.load_checkpoint_state(state)


def test_adapters_need_the_layers_of_a_bert_and_a_bug_is_a_traceback(encoders, monkeypatch):
    with pytest.raises(UserError, match="--text_model: adapters need BERT's layers, but Wav2Vec2Model has others"):
        AdapterFusionClassifier(small_speech_encoder(), small_speech_encoder(), LABELS)

    def bug(*arguments, **named):
        raise AttributeError("a planted bug")

    for place in ("models.adapter.Bottleneck", "models.encoders._as_used", "models.encoders.depends_on_padding"):
        with monkeypatch.context() as patch, pytest.raises(AttributeError, match="a planted bug"):
            patch.setattr(place, bug)
            AdapterFusionClassifier(*(load_encoder(kind, encoders / kind) for kind in ("text", "speech")), LABELS)


def test_without_pretraining_the_weights_differ_and_the_seed_rebuilds_them(encoders):
    pretrained, drawn, again = (load_encoder("text", encoders / "text", pretrained=p, seed=12) for p in (True, False, False))
    other = load_encoder("text", encoders / "text", pretrained=False, seed=13)
    key = "encoder.layer.1.output.dense.weight"
    for one in (pretrained, other):
        assert not torch.allclose(one.state_dict()[key], drawn.state_dict()[key], atol=1e-3)
    assert drawn.provenance["fingerprint"] == again.provenance["fingerprint"]
    as_in_a_run = encoder_of({"without_pretraining": True, "encoder_seed": 12}, "text", encoders / "text")
    assert as_in_a_run.provenance == drawn.provenance and not drawn.provenance["pretrained"]


@pytest.mark.parametrize("pretrained", [True, False])
def test_loading_an_encoder_leaves_the_random_state_alone_and_layerdrop_off(encoders, pretrained, monkeypatch):
    monkeypatch.setattr(torch, "manual_seed", None)  # it would seed the generators of GPUs too
    state = torch.get_rng_state()
    encoder = load_encoder("speech", encoders / "speech", pretrained=pretrained)
    assert torch.equal(torch.get_rng_state(), state)
    assert Wav2Vec2Config().layerdrop == 0.1 and encoder.config.layerdrop == 0.0


@KINDS
def test_settings_that_say_how_to_run_a_model_are_not_taken_from_its_folder(encoders, tmp_path, kind):
    how = dict.fromkeys(("gradient_checkpointing", "is_decoder", "add_cross_attention", "output_hidden_states"), True)
    how |= dict.fromkeys(("attn_implementation", "_attn_implementation"), "somebody/kernel")
    how |= {"return_dict": False, "chunk_size_feed_forward": 7, "layerdrop": 0.5, "torch_dtype": "float16"}
    how |= {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    plain = load_encoder(kind, encoders / kind)
    encoder = load_encoder(kind, configured(encoders / kind, tmp_path / kind, **how))
    assert encoder.config._attn_implementation == "sdpa" and encoder.dtype == torch.float32
    assert encoder.provenance["fingerprint"] == plain.provenance["fingerprint"]
    speech, text = batch_of(SAMPLES, TOKENS)
    with torch.no_grad():
        inputs = text if kind == "text" else {"input_values": speech["input_values"]}
        assert torch.equal(*(one.eval()(**inputs).last_hidden_state for one in (encoder, plain)))


def test_no_code_of_a_model_is_run(encoders, tmp_path):
    code = {"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    known = configured(encoders / "speech", tmp_path / "known", **code)
    unknown = configured(encoders / "text", tmp_path / "unknown", model_type="mine", **code)
    for path in (known, unknown):
        (path / "code.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
    assert load_encoder("speech", known).provenance["fingerprint"] == fingerprint(load_encoder("speech", encoders / "speech"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder("text", unknown)
    assert not (tmp_path / "harm").exists()


def speech_encoder_of(model_type, **changes):
    torch.manual_seed(3)
    settings = architecture(small_speech_encoder(**changes)) | {"model_type": model_type}
    return AutoModel.from_config(AutoConfig.for_model(**settings | changes))


@pytest.mark.parametrize("model_type, changes", BLIND)
def test_speech_encoders_that_do_not_depend_on_padding_are_taken(tmp_path, model_type, changes):
    speech_encoder_of(model_type, **changes).save_pretrained(tmp_path)
    encoder = load_encoder("speech", tmp_path)
    assert encoder.config.model_type == model_type and not encoder.training
    assert getattr(encoder, "adapter", None) is None  # its own would shorten the frames that the mask counts
    norm = getattr(encoder.feature_extractor.conv_layers[0], "layer_norm", None)
    assert getattr(norm, "valid_frames", None) is None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in encoder.parameters())
    model = FusionClassifier(small_text_encoder(), encoder, LABELS).eval()
    assert torch.allclose(*logits_alone_and_together(model), atol=1e-5)


@pytest.mark.parametrize("model_type, changes", DEPENDENT)
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

    described(sampling_rate=8_000)
    with pytest.raises(UserError, match=f"its {file} expects waveforms of 8000 Hz"):
        load_encoder("speech", folder)
    for normalized in (True, False):
        described(do_normalize=normalized)
        load_encoder("speech", folder)  # its norm over time takes the scale of a waveform out
    small_speech_encoder(feat_extract_norm="layer").save_pretrained(folder)
    with pytest.raises(UserError, match=f"its {file} expects waveforms as recorded"):
        load_encoder("speech", folder)


def test_the_fingerprint_tells_architectures_and_tokenizers_apart(encoders, tmp_path):
    text, speech = encoders / "text", encoders / "speech"
    folders = [
        ("text", text),
        ("speech", speech),
        ("text", configured(text, tmp_path / "act", hidden_act="relu")),
        ("speech", configured(speech, tmp_path / "time", mask_time_prob=0.2)),
    ]
    words = {word: index for index, word in enumerate([*VOCABULARY, "cafe", "café"])}
    for number, settings in enumerate((
        {"vocab": words},
        {"vocab": words | {VOCABULARY[5]: 6, VOCABULARY[6]: 5}},
        {"do_lower_case": True},
        {"do_lower_case": True, "strip_accents": False},
        {"truncation_side": "left"},
        {"cls_token": "[MASK]"},
    )):  # fmt: skip
        folders.append(("text", shutil.copytree(text, tmp_path / str(number))))
        BertTokenizer(**{"vocab": words, "do_lower_case": False} | settings).save_pretrained(tmp_path / str(number))
    assert len({load_encoder(kind, path).provenance["fingerprint"] for kind, path in folders}) == len(folders)


@KINDS
def test_the_fingerprint_is_that_of_a_copy_under_another_name_or_in_another_format(encoders, tmp_path, kind):
    encoder = load_encoder(kind, encoders / kind)
    aside = {"_name_or_path": "/elsewhere", "transformers_version": "4.30.0", "torch_dtype": "float32", "architectures": None}
    aside |= {"id2label": {"0": "a", "1": "b"}, "initializer_range": 0.5, "tokenizer_class": "BertTokenizer"}
    copy = configured(encoders / kind, tmp_path / "copy", **aside)
    bare = shutil.copytree(encoders / kind, tmp_path / "bare")
    # As a version of transformers would write it that has fewer settings, and in torch's format.
    usual = type(encoder.config)().to_dict() | {"model_type": None}
    settings = {name: value for name, value in read(bare / "config.json").items() if value != usual.get(name)}
    (bare / "config.json").write_text(json.dumps(settings))
    torch.save(load_file(bare / "model.safetensors"), bare / "pytorch_model.bin")
    (bare / "model.safetensors").unlink()
    loaded = [load_encoder(kind, path) for path in (copy, bare)]
    assert {one.provenance["fingerprint"] for one in loaded} == {encoder.provenance["fingerprint"]}
    before = fingerprint(encoder)
    with torch.no_grad():
        if kind == "speech":
            encoder.masked_spec_embed.add_(1)  # a checkpoint may lack it
        assert fingerprint(encoder) == before
        list(encoder.state_dict().values())[-1].add_(1)
    assert fingerprint(encoder) != before


@pytest.mark.parametrize(
    "model_type, room", [("bert", 14), ("electra", 14), ("roberta", 12), ("mpnet", 12), ("jina_embeddings_v3", None)]
)
def test_how_many_tokens_a_text_encoder_has_room_for(model_type, room):
    sizes = dict(vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    encoder = AutoModel.from_config(AutoConfig.for_model(model_type, max_position_embeddings=14, **sizes)).eval()
    assert max_tokens(encoder) == room
    if room is not None:
        encoder(input_ids=torch.full((1, room), 7), attention_mask=torch.ones(1, room, dtype=torch.long))
        with pytest.raises((IndexError, RuntimeError)):
            encoder(input_ids=torch.full((1, room + 1), 7), attention_mask=torch.ones(1, room + 1, dtype=torch.long))


@KINDS
@pytest.mark.parametrize("file, content", FILES)
def test_a_folder_with_a_missing_or_damaged_file_is_one_line(encoders, tmp_path, kind, file, content):
    folder = shutil.copytree(encoders / kind, tmp_path / kind)
    if file == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(content) if content is not None else (folder / file).unlink()
    with pytest.raises(UserError, match=f"{kind} encoder .* cannot be loaded") as raised:
        load_encoder(kind, folder)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("file, content", VOCABULARIES)
def test_a_text_encoder_without_its_vocabulary_is_refused(encoders, tmp_path, file, content):
    folder = shutil.copytree(encoders / "text", tmp_path / "text")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    # Without any file transformers would make a tokenizer of special tokens alone, to which all text is [UNK].
    with pytest.raises(UserError, match="its vocabulary is missing"):
        load_tokenizer(folder)
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(folder)


def test_a_name_is_a_folder_or_a_hub_name_with_a_revision(tmp_path):
    assert split_revision("skt/kobert-base-v1@v2") == ("skt/kobert-base-v1", "v2")
    assert split_revision("skt/kobert-base-v1") == ("skt/kobert-base-v1", None)
    (tmp_path / "bert@home").mkdir()
    assert split_revision(str(tmp_path / "bert@home")) == (str(tmp_path / "bert@home"), None)
    for name, answer in (("./nowhere/at/all", r"--text_model \./nowhere/at/all: there is no such folder"),
                         ("my model", "it is not a hub name"), ("a--b", "cannot be loaded")):  # fmt: skip
        with pytest.raises(UserError, match=answer) as raised:
            load_encoder("text", name)
        assert "\n" not in str(raised.value)


def test_weights_that_are_missing_of_another_shape_or_not_finite_are_refused(encoders, tmp_path):
    # transformers would draw them at random, with a warning at best.
    folder, name = encoders / "text", "encoder.layer.1.output.dense.weight"
    changes = {
        "renamed": lambda weights: {f"other.{key}": tensor for key, tensor in weights.items()},
        "lacking": lambda weights: {key: tensor for key, tensor in weights.items() if key != name},
        "infinite": lambda weights: weights | {name: weights[name].fill_(float("inf"))},
    }
    folders = [changed_weights(folder, tmp_path / key, change) for key, change in changes.items()]
    for path in (*folders, configured(folder, tmp_path / "wider", intermediate_size=40)):
        answer = f"{name} contains values that are not finite" if path.name == "infinite" else "with all weights of the encoder"
        with pytest.raises(UserError, match=f"--text_model {path}: .*{answer}"):
            load_encoder("text", path)


def test_a_missing_pooler_is_named_and_drawn_from_a_seed(encoders, tmp_path):
    # A BERT trained on masked words alone has none.
    folder = changed_weights(
        encoders / "text",
        tmp_path / "text",
        lambda weights: {name: tensor for name, tensor in weights.items() if not name.startswith("pooler")},
    )
    encoder, again, other = (load_encoder("text", folder, seed=seed) for seed in (12, 12, 13))
    assert encoder.provenance["drawn_at_random"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert encoder.provenance["fingerprint"] == again.provenance["fingerprint"] != other.provenance["fingerprint"]
    assert load_encoder("text", encoders / "text").provenance["drawn_at_random"] == []


def test_a_speech_checkpoint_of_old_names_is_whole(encoders, tmp_path):
    # wav2vec2-base-960h was saved with a CTC head, without the mask embedding, and with weight norm's former names.
    def former(weights):
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        state = {"lm_head.weight": torch.zeros(32, 20)}
        for name, tensor in weights.items():
            for new, old in names.items():
                name = name.replace(new, old)
            state[f"wav2vec2.{name}"] = tensor
        del state["wav2vec2.masked_spec_embed"]
        return state

    folder = changed_weights(encoders / "speech", tmp_path / "speech", former)
    expected = load_encoder("speech", encoders / "speech").provenance["fingerprint"]
    assert load_encoder("speech", folder).provenance["fingerprint"] == expected


@pytest.fixture(scope="module")
def spiece_folder(tmp_path_factory):
    """A folder with nothing but a small SentencePiece vocabulary whose special tokens have KoBERT's ids."""
    folder = tmp_path_factory.mktemp("spiece")
    sentences = ["오늘 정말 기분이 좋아요", "내일은 비가 온다고 해요", "버스가 늦게 와서 화가 났어요"] * 20
    (folder / "text").write_text("\n".join(sentences), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False,
        unk_id=0, pad_id=1, bos_id=-1, eos_id=-1, unk_piece="[UNK]", pad_piece="[PAD]",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"], minloglevel=2,
    )  # fmt: skip
    return folder


def test_sentencepiece_vocabularies_are_read_by_sentencepiece(spiece_folder, tmp_path):
    tokenizer = load_tokenizer(spiece_folder)
    encoded = tokenizer(["오늘 기분이 좋아요", "비가"])
    for ids, text in zip(encoded["input_ids"], ("오늘 기분이 좋아요", "비가")):
        assert (ids[0], ids[-1]) == (2, 3)
        assert 0 not in ids and tokenizer.processor.decode(ids[1:-1]) == text  # the automatic classes make [UNK] of it
    assert encoded["attention_mask"] == [[1] * len(ids) for ids in encoded["input_ids"]]
    text = "버스가 늦게 와서 화가 났어요"
    (whole,), (cut,) = (tokenizer([text], **how)["input_ids"] for how in ({}, {"truncation": True, "max_length": 5}))
    assert cut == [*whole[:4], 3] and tokenizer.pad_token_id == 1
    model = (spiece_folder / "spiece.model").read_bytes()
    (tmp_path / "spiece.model").write_bytes(model.replace("오".encode(), "쀍".encode()))
    assert tokenizer_digest(load_tokenizer(tmp_path)) != tokenizer_digest(tokenizer)


def test_a_tokenizer_is_made_again_of_its_files(encoders, spiece_folder):
    for folder in (encoders / "text", spiece_folder):
        tokenizer = load_tokenizer(folder)
        assert tokenizer_digest(tokenizer_from_files(tokenizer_files(tokenizer))) == tokenizer_digest(tokenizer)


@pytest.mark.skipif(not KOBERT.is_dir(), reason="KoBERT's vocabulary is not here")
def test_kobert_encodings():
    tokenizer = load_tokenizer(KOBERT)
    expected = json.loads((KOBERT / "encodings.json").read_text(encoding="utf-8"))
    assert tokenizer(list(expected))["input_ids"] == list(expected.values())
    assert tokenizer.pad_token_id == 1 and len(tokenizer) == 8_002


def test_other_vocabularies_are_read_by_transformers(encoders):
    texts = ["가나다", "오늘"]
    expected = AutoTokenizer.from_pretrained(encoders / "text")(texts)["input_ids"]
    assert load_tokenizer(encoders / "text")(texts)["input_ids"] == expected
