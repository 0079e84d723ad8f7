"""A tiny config of every family that transformers builds for sequence classification, and what comes of it."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

from ackd import models
from ackd.errors import InputError
from ackd.models import Model
from ackd.types import OutputRequest

LAYERS, WIDTH, HEADS = 2, 16, 2
VOCABULARY = 72  # some families' tokenizers bring tokens of their own
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": WIDTH // HEADS,
    "intermediate_size": 24,
    "embedding_size": WIDTH,
    "max_position_embeddings": 96,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # so that layers matter and nothing is lost in rounding
}
EXPERTS: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    "num_experts_per_tok": 2,
}
LATENT = dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8)
LINEAR: dict[str, Any] = {
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    "layer_types": ["linear_attention", "full_attention"],
}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
OWN: dict[str, dict[str, Any]] = {  # what a family calls otherwise; None takes a size away
    **dict.fromkeys(("gpt_oss", "jetmoe", "mixtral", "phimoe", "qwen2_moe", "qwen3_moe"), EXPERTS),
    **{kind: {**EXPERTS, **LATENT} for kind in ("axk1", "axk2", "deepseek_v2", "deepseek_v3")},
    "mistral4": {**EXPERTS, **LATENT, "head_dim": None},
    "minicpm3": LATENT,
    "qwen3_next": {**EXPERTS, **LINEAR},
    "qwen3_5_text": LINEAR,
    "canine": {"vocab_size": None},
    "perceiver": {
        **dict.fromkeys(SIZES), "d_latents": WIDTH, "d_model": WIDTH, "num_latents": 4, "num_self_attends_per_block": 2,
        "num_self_attention_heads": HEADS, "num_cross_attention_heads": HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 32,
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "distilbert": {"hidden_dim": 24},
    "falcon": {"head_dim": None},
    "funnel": {
        "num_hidden_layers": None, "hidden_size": None, "block_sizes": [1, 1], "d_model": WIDTH, "n_head": HEADS,
        "d_head": WIDTH // HEADS, "d_inner": 24,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "jamba": {
        **EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 0, "mamba_d_state": 4, "use_mamba_kernels": False
    },
    "layoutlmv3": {"coordinate_size": 2, "shape_size": 4, "visual_embed": False},
    "lilt": {"hidden_size": 24, "channel_shrink_ratio": 2, "max_2d_position_embeddings": 32},
    "longformer": {"attention_window": [4, 8]},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 4},
    "markuplm": {
        "max_xpath_tag_unit_embeddings": 8, "max_xpath_subs_unit_embeddings": 8, "xpath_unit_hidden_size": 4,
        "max_depth": 4, "tag_pad_id": 5, "subs_pad_id": 6,
    },
    "mobilebert": {"intra_bottleneck_size": WIDTH, "true_hidden_size": WIDTH},
    "opt": {"word_embed_proj_dim": WIDTH, "ffn_dim": 24},
    "qwen2": {"vocab_size": 320},
    "reformer": {
        "axial_pos_embds": False, "attn_layers": ["local", "lsh"], "feed_forward_size": 24, "attention_head_size": 8,
        "max_position_embeddings": 256,
    },
    "roc_bert": dict.fromkeys(
        ("pronunciation_vocab_size", "shape_vocab_size", "pronunciation_embed_dim", "shape_embed_dim"), 8
    ),
    "xlnet": {"max_position_embeddings": None, "d_model": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "d_inner": 24},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "head_dim": None,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2, "mamba_d_state": 4,
        "n_mamba_heads": 2, "adapter_rank": 4, "chunk_size": 8, "head_dim": None, "use_mamba_kernels": False,
    },
}  # fmt: skip
BEYOND_TEXT = {"gemma3", "modernvbert", "qwen3_5", "ultravbert"}
GIVES = {
    "everything": OutputRequest(True, *[frozenset({0, 1})] * 6),
    "logits, hidden states": OutputRequest(logits=True, cls=frozenset({0, 1}), hidden=frozenset({0, 1})),
    "logits": OutputRequest(logits=True),
}


def config_of(kind: str) -> Any:
    """The tiny config."""
    if kind in BEYOND_TEXT:
        return AutoConfig.for_model(kind)
    sizes = {name: value for name, value in {**SIZES, **OWN.get(kind, {})}.items() if value is not None}
    return AutoConfig.for_model(kind, **sizes)


def gives(model: Model) -> str:
    """The row of the table that a model belongs to, by what it can be asked for."""
    return next(row for row, needs in GIVES.items() if not models.cannot_give(model, needs))


def can_cut(model: Model) -> bool:
    """Whether its layers can be picked one by one."""
    try:
        models.from_layers(model, 1)
    except InputError:
        return False
    return True


ALL = sorted(CLASSIFIERS)
