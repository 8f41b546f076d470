"""Two small encoders for the demonstration, a BERT and a wav2vec2, pretrained without labels on text and speech
generated like the corpora.

Their sentences, and the speech encoder's speakers, are not in the corpora. The text consists of short passages whose
sentences share an emotion, as in real texts; no emotion label is used.
"""

from collections import Counter

import numpy as np

from utils.data.audio import SAMPLE_RATE
from utils.data.kemdy import EMOTIONS
from utils.demo.corpora import VOICES, Synthesiser, draw_speaker, speak, unfinished, write_notice
from utils.demo.sentences import compose

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENDINGS = tuple("더라고요 더라고 예요 이에요 어요 아요 해요 요 는데 어 아 을 를 이 가 은 는 도 에".split())
# A mixture of both corpora's styles, so that neither is favoured.
UNLABELLED_WORDS = dict(
    explicit=0.85, exclaim=0.3, filler=0.2, time=0.3, context=0.3, polite=0.5, expressions=slice(None), contexts=slice(None)
)
UNLABELLED_VOICE = dict(expression=0.9, noise=(7, 9, 0.08), speed=270, room=0.005)
PASSAGES, CLIPS = 4000, 1500


def draw_passages(rng, count):
    """Draw unlabelled text: `count` passages of four sentences (str) that share an emotion."""
    moods = (EMOTIONS[rng.integers(len(EMOTIONS))] for _ in range(count))
    return [[compose(rng, mood, UNLABELLED_WORDS) for _ in range(4)] for mood in moods]


def build_vocabulary(sentences, frequent=8):
    """Build a WordPiece vocabulary (list of str): special tokens, syllables, frequent words and their endings, sorted."""
    words = Counter(word for sentence in sentences for word in sentence.split())
    pieces = Counter()
    for word, count in words.items():
        pieces.update({syllable: 1 for syllable in word} | {f"##{syllable}": 1 for syllable in word})
        # Endings are separate pieces, so that 기뻐 and 기뻐요 share their stem.
        ending = next((e for e in ENDINGS if word.endswith(e) and len(word) > len(e)), "")
        stem = word[: len(word) - len(ending)]
        if count >= frequent:
            pieces[stem] += count
            if ending:
                pieces[f"##{ending}"] += count
    pieces.update([".", "/"])
    return list(SPECIAL_TOKENS) + sorted(pieces)


def save_tokenizer(vocabulary, folder):
    """Write a WordPiece tokenizer that AutoTokenizer loads from `folder`; returns it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    # Composed syllables: BERT's own normalizer strips accents by default, which would decompose them into jamo.
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
        model_max_length=256,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return tokenizer


def make_text_encoder(folder, seed, steps):
    """Pretrain a small BERT and save it, with its tokenizer, to `folder`; returns mean losses of the last tenth as text.

    Two objectives: masked words, and matching the two halves of a passage by their pooled outputs (instead of BERT's
    next-sentence prediction, so that the pooler, which stays frozen under adapters, represents the whole sentence).
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize
    from tqdm import tqdm
    from transformers import BertConfig, BertModel

    rng = np.random.default_rng([seed, 10])
    torch.manual_seed(seed)
    passages = draw_passages(rng, PASSAGES)
    with unfinished(folder) as unfinished_folder:
        tokenizer = save_tokenizer(build_vocabulary([s for passage in passages for s in passage]), unfinished_folder)
        size = dict(hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192)
        size |= dict(vocab_size=len(tokenizer), max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id)
        model = BertModel(BertConfig(**size, initializer_range=0.05, attention_probs_dropout_prob=0.0)).train()
        head = torch.nn.Sequential(torch.nn.Linear(96, 96), torch.nn.GELU(), torch.nn.LayerNorm(96))
        bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
        scale = torch.nn.Parameter(torch.tensor(1.5))
        optimizer, schedule = optimise([*model.parameters(), *head.parameters(), bias, scale], 2e-3, steps)
        losses = []
        for _ in (bar := tqdm(range(steps), desc="text encoder", leave=False, disable=None)):
            chosen = [passages[i] for i in rng.choice(len(passages), 48, replace=False)]
            sentences = [" ".join(passage[:2]) for passage in chosen] + [" ".join(passage[2:]) for passage in chosen]
            batch = tokenizer(sentences, padding=True, return_tensors="pt")
            ids, present = batch["input_ids"], batch["attention_mask"].bool()
            masked = torch.from_numpy(rng.random(ids.shape) < 0.2) & present & (ids >= len(SPECIAL_TOKENS))
            output = model(torch.where(masked, tokenizer.mask_token_id, ids), attention_mask=batch["attention_mask"])
            logits = head(output.last_hidden_state[masked]) @ model.embeddings.word_embeddings.weight.T + bias
            pooled = output.pooler_output - output.pooler_output.mean(0)  # the common component does not discriminate
            first, second = normalize(pooled, dim=-1).chunk(2)
            similarity = scale.exp() * first @ second.T  # (48, 48), halves of the same passage on the diagonal
            own = torch.arange(len(first))
            matching = (cross_entropy(similarity, own) + cross_entropy(similarity.T, own)) / 2
            word_loss = cross_entropy(logits, ids[masked])
            step(optimizer, schedule, word_loss + matching, model)
            losses.append((word_loss.item(), matching.item()))
            bar.set_postfix_str(f"words {losses[-1][0]:.2f}, halves {losses[-1][1]:.2f}")
        final = np.mean(losses[-max(1, steps // 10) :], axis=0)
        summary = f"masked words {final[0]:.3f}, halves of a passage {final[1]:.3f}"
        save(model, unfinished_folder, "text", seed, steps, summary)
    return summary


def optimise(parameters, lr, steps):
    """AdamW with linear warm-up over a tenth of the steps and linear decay; returns the optimizer and its schedule."""
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / max(1, steps // 10), 1.0) * (1 - i / (steps + 1))
    )
    return optimizer, schedule


def step(optimizer, schedule, loss, model):
    import torch

    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def draw_clips(rng, seed, count):
    """Draw unlabelled speech: `count` clips, float32 (samples,), zero mean and unit variance, by 40 separate speakers."""
    from tqdm import tqdm

    speakers = [draw_speaker(rng, VOICES["unlabelled"], "FM"[i % 2]) for i in range(40)]
    clips = []
    with Synthesiser(seed) as synthesiser:
        for _ in tqdm(range(count), desc="unlabelled speech", leave=False, disable=None):
            mood = EMOTIONS[rng.integers(len(EMOTIONS))]
            text, speaker = compose(rng, mood, UNLABELLED_WORDS), speakers[rng.integers(len(speakers))]
            clip = speak(rng, synthesiser, text, speaker, mood, UNLABELLED_VOICE).astype(np.float32)
            clips.append((clip - clip.mean()) / (clip.std() + 1e-5))
    return clips


def spectrum(clips, hop):
    """Log spectra (clips, frames, 80) of clips (clips, samples), one frame every `hop` samples: 48 narrow bands from 47
    to 780 Hz, which resolve pitch, and 32 mel bands.
    """
    import torch
    from torchaudio.functional import melscale_fbanks

    spectra = torch.stft(clips, 1024, hop_length=hop, window=torch.hann_window(1024), return_complex=True)
    power = spectra.abs().square().transpose(1, 2)  # (clips, frames, 513)
    mel = melscale_fbanks(513, 100.0, 8000.0, 32, SAMPLE_RATE)
    return torch.log(torch.cat([power[..., 3:51], power @ mel], dim=-1) + 1)


def make_speech_encoder(folder, seed, steps):
    """Pretrain a small wav2vec2 and save it to `folder`; returns the mean loss of the last tenth of the steps as text.

    Objective: predict the log spectrum of every frame, with about a quarter of the frames masked in the input.
    """
    import torch
    from tqdm import tqdm
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    rng = np.random.default_rng([seed, 11])
    torch.manual_seed(seed)
    with unfinished(folder) as unfinished_folder:
        model = Wav2Vec2Model(speech_config()).train()
        hop = int(np.prod(model.config.conv_stride))
        clips = draw_clips(rng, seed, max(32, min(CLIPS, steps * 24)))
        frames = torch.cat([spectrum(torch.from_numpy(clip)[None], hop)[0] for clip in clips[:200]])
        mean, deviation = frames.mean(0), frames.std(0)
        head = torch.nn.Linear(model.config.hidden_size, len(mean))
        optimizer, schedule = optimise([*model.parameters(), *head.parameters()], 2e-3, steps)
        losses = []
        for _ in (bar := tqdm(range(steps), desc="speech encoder", leave=False, disable=None)):
            batch = draw_batch(rng, clips)
            count = int(model._get_feat_extract_output_lengths(batch.shape[1]))
            target = ((spectrum(batch, hop) - mean) / deviation)[:, :count]
            masked = torch.zeros(len(batch), count, dtype=torch.bool)
            for row in masked:
                for start in rng.integers(count - 1, size=max(1, round(0.15 * count))):
                    row[start : start + 2] = True
            error = (head(model(batch, mask_time_indices=masked).last_hidden_state) - target).abs().mean(-1)
            step(optimizer, schedule, error.mean() + error[masked].mean(), model)
            losses.append((error.mean().item(), error[masked].mean().item()))
            bar.set_postfix_str(f"frames {losses[-1][0]:.3f}, masked {losses[-1][1]:.3f}")
        final = np.mean(losses[-max(1, steps // 10) :], axis=0)
        summary = f"spectrum of all frames {final[0]:.3f}, of masked ones {final[1]:.3f}"
        save(model, unfinished_folder, "speech", seed, steps, summary)
        Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(unfinished_folder)
    return summary


def speech_config():
    """A wav2vec2 configuration with 40 ms frames and without dropout."""
    from transformers import Wav2Vec2Config

    size = dict(vocab_size=32, hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192)
    convolutions = dict(conv_dim=(24, 48, 96), conv_kernel=(20, 8, 8), conv_stride=(10, 8, 8), num_feat_extract_layers=3)
    positions = dict(num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="group")
    dropout = dict.fromkeys(("layerdrop", *(f"{of}_dropout" for of in ("hidden", "attention", "activation", "feat_proj"))), 0.0)
    # SpecAugment: a clip has about 40 frames.
    augmentation = dict(mask_time_prob=0.05, mask_time_length=4, mask_time_min_masks=0, mask_feature_prob=0.0)
    return Wav2Vec2Config(**size, **convolutions, **positions, **dropout, **augmentation)


def draw_batch(rng, clips):
    """Draw 24 clips cut to one length, (24, samples): the first layer normalizes over time, which would include padding."""
    import torch

    chosen = [clips[i] for i in rng.choice(len(clips), 24)]
    length = min(SAMPLE_RATE, min(len(clip) for clip in chosen))
    starts = [rng.integers(len(clip) - length + 1) for clip in chosen]
    return torch.from_numpy(np.stack([clip[i : i + length] for clip, i in zip(chosen, starts)]))


def describe(kind, seed, steps):
    """The line in an encoder's SYNTHETIC file: a description, and the settings that reproduce it."""
    return f"This {kind} encoder was trained on synthesised material only, for a demonstration (seed {seed}, {steps} steps)."


def save(model, folder, kind, seed, steps, losses):
    """Save the model, its card and its SYNTHETIC file."""
    from transformers.utils import logging

    if kind == "text":
        name, material = "BERT", "short Korean sentences made from parts by chance"
        objective = "masked words, and which two halves of a passage belong together"
    else:
        name, material = "wav2vec2", "such sentences spoken by espeak-ng"
        objective = "the log spectrum of frames, a quarter of them masked"
    logging.disable_progress_bar()
    model.eval().save_pretrained(folder)
    logging.enable_progress_bar()
    count = sum(parameter.numel() for parameter in model.parameters())
    (folder / "README.md").write_text(
        f"# Small {name} of the demonstration\n\n{describe(kind, seed, steps)} It knows nothing of real {kind}.\n\n"
        f"- parameters: {count:,}\n- trained on: {material}; no labels, and nothing taken from the corpora\n"
        f"- objective: {objective}\n- loss at the end: {losses}\n",
        encoding="utf-8",
    )
    write_notice(folder, describe(kind, seed, steps))
