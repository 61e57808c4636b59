"""Text conditioning: T5 encoders, a word-level tokenizer, and prompts turned into states."""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from statefilm.errors import UsageError, suggest
from statefilm.models.weights import check_weights

__all__ = [
    "TEXT_PRESETS",
    "build_text_encoder",
    "build_word_tokenizer",
    "encode_prompts",
    "load_text_encoder",
    "unknown_words",
    "words_of",
]

logger = logging.getLogger(__name__)

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
NEIGHBOUR = 4.0  # bias of a fresh encoder's logits on the word beside; the others' are about 0

TEXT_PRESETS: dict[str, dict[str, Any]] = {
    # Chung et al. 2022 (arXiv 2210.11416), the encoder halves: 4.76B, 1.22B and 0.34B parameters.
    "flan_t5_xxl": {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "dropout_rate": 0.1,
    },
    "flan_t5_xl": {
        "vocab_size": 32128,
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "dropout_rate": 0.1,
    },
    "flan_t5_large": {
        "vocab_size": 32128,
        "d_model": 1024,
        "d_kv": 64,
        "d_ff": 2816,
        "num_layers": 24,
        "num_heads": 16,
        "dropout_rate": 0.1,
    },
    # Small enough to train together with the denoiser; give it its tokenizer's vocabulary size.
    "world_t5": {
        "vocab_size": 256,
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 768,
        "num_layers": 3,
        "num_heads": 4,
        "dropout_rate": 0.0,
    },
}


def build_text_encoder(preset: str, **overrides: Any) -> T5EncoderModel:
    """A freshly initialised T5 encoder; inside `with torch.device("meta")` it allocates nothing.

    Half of its heads begin by looking at the word before or the word after. As T5 draws its biases
    on distance (Raffel et al. 2020, arXiv 1910.10683), they hardly tell places apart: an encoder
    that learns along with a denoiser then knows which words a caption has and not which belong
    together.

    Args:
        preset: a name in `TEXT_PRESETS`.
        overrides: fields of `transformers.T5Config` that replace the preset's.

    Raises:
        UsageError: unknown preset or field.
    """
    if preset not in TEXT_PRESETS:
        raise suggest(preset, TEXT_PRESETS, "text encoder preset")
    known = set(T5Config().to_dict())
    for field in overrides:
        if field not in known:
            raise suggest(field, known, "text encoder field")
    fields = {**TEXT_PRESETS[preset], **overrides}
    config = T5Config(
        **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **fields},
        is_encoder_decoder=False,
        use_cache=False,
    )
    encoder = T5EncoderModel(config)
    _look_at_neighbours(encoder)
    return encoder


@torch.no_grad()
def _look_at_neighbours(encoder: T5EncoderModel) -> None:
    attention = encoder.encoder.block[0].layer[0].SelfAttention  # its biases are all layers'
    biases = attention.relative_attention_bias.weight  # [distances in buckets, heads]
    buckets = attention._relative_position_bucket(
        torch.tensor([-1, 1], device="cpu"),
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    ).tolist()
    heads = biases.shape[1]
    for head in range(min(heads, max(2, heads // 2))):
        biases[buckets[head % 2], head] = NEIGHBOUR


def build_word_tokenizer(
    vocabulary: Iterable[str], *, max_length: int = 64
) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer with one token a word, ended by `</s>`.

    Args:
        vocabulary: words, or whole captions, which are split as prompts will be; ids follow their
            order. Punctuation that occurs in it becomes a token of its own, all other is dropped.
        max_length: stored as the tokenizer's `model_max_length`, `</s>` included.
    """
    vocabulary = list(vocabulary)
    normalizer, pre_tokenizer = _splitters(set("".join(vocabulary)) & set(string.punctuation))
    ids = {PAD: 0, EOS: 1, UNK: 2}
    for text in vocabulary:
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)):
            ids.setdefault(word, len(ids))
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, ids[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=max_length,
    )


def words_of(text: str) -> list[str]:
    """Words and marks of punctuation, as the tokenizer of `build_word_tokenizer` splits them."""
    normalizer, pre_tokenizer = _all_marks()
    pairs = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
    return [word for word, _ in pairs]


@cache
def _all_marks() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    return _splitters(set(string.punctuation))


def _splitters(
    marks: Iterable[str],
) -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """What brings a text to lower case without other marks, and what cuts that into words."""
    kept = "".join(re.escape(mark) for mark in sorted(marks))
    normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(rf"[^\w\s{kept}]"), " "),
        ]
    )
    pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    return normalizer, pre_tokenizer


def load_text_encoder(
    folder: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    """Tokenizer and T5 encoder from a local folder: flat, or with `tokenizer/` and `text_encoder/`.

    Only safetensors are read and nothing is fetched.

    Raises:
        FileNotFoundError: the folder is not there.
        UsageError: the folder holds no safetensors, or damaged ones, or ones with NaN.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"text encoder folder not found: {folder}")
    nested = (folder / "text_encoder").is_dir()
    encoder_folder = folder / "text_encoder" if nested else folder
    if not any(encoder_folder.glob("*.safetensors")):
        raise UsageError(f"no .safetensors weights in {encoder_folder}: convert them first")
    check_weights(encoder_folder)
    tokenizer = AutoTokenizer.from_pretrained(
        folder / "tokenizer" if nested else folder, local_files_only=True
    )
    text_encoder = T5EncoderModel.from_pretrained(
        encoder_folder, dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return tokenizer, text_encoder.eval()


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: T5EncoderModel,
    prompts: Sequence[str],
    max_length: int,
    device: torch.device | str | None = None,
    *,
    warn: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's last states, one a token; the empty prompt is the unconditional one.

    Differentiable with respect to the encoder; callers that only sample wrap it in `no_grad`.

    Args:
        prompts: B texts. One of more than `max_length` tokens is cut.
        max_length: tokens kept of each prompt, the end token included.
        device: where the encoder runs; its own device when None.
        warn: of what was lost where a prompt is cut.

    Returns:
        states [B, S, D], zero at padding, and mask [B, S], True at tokens, where S is the longest
        prompt rounded up to a multiple of 8 (few shapes, little padding).
    """
    device = torch.device(device) if device is not None else text_encoder.device
    rows = [_token_ids(tokenizer, prompt, max_length, warn) for prompt in prompts]
    length = -(-max(map(len, rows), default=1) // 8) * 8
    padded = [row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]
    ids = torch.tensor(padded, device=device)
    mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
    mask = mask.to(device)
    states = text_encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return states.masked_fill(~mask[..., None], 0.0), mask


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[str]:
    """The words of `prompt` that are not in the vocabulary, in order, each once."""
    if tokenizer.unk_token_id is None or not tokenizer.is_fast:
        return []
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    words = [prompt[start:end] for token, (start, end) in spans if token == tokenizer.unk_token_id]
    return list(dict.fromkeys(words))


def _token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, max_length: int, warn: bool
) -> list[int]:
    """Token ids with the end token, cut to `max_length`."""
    ids = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
    if len(ids) <= max_length:
        return ids
    if warn:
        cut = tokenizer.decode(ids[max_length - 1 :], skip_special_tokens=True)
        logger.warning("prompt longer than %d tokens; the model does not see: %r", max_length, cut)
    return [*ids[: max_length - 1], tokenizer.eos_token_id]
