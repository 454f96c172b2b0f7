"""Keys of `config.json` that say nothing about what a model computes: bookkeeping, training, defaults of generation.

What a model type computes is what transformers' class of that name computes, and that class knows a short list of
keys. Any other is a note of its author's or another program's, unless its name speaks of the architecture: then
somebody's own code may give it a meaning, and what they trained would be another model here.
"""

from __future__ import annotations

import re

from tramontane.config.fields import Fields

# Known to say nothing, though their names might.
_INERT = """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _flash_attn_2_enabled _from_auto _name_or_path attn_implementation bad_words_ids begin_suppress_tokens bf16
    bos_token_id cache_implementation cls_token_id decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size end_token_id eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_decoder_ids forced_eos_token_id fp16 gradient_checkpointing
    guidance_scale id2label is_composition is_llama_config label2id length_penalty license mask_token_id max_length
    max_new_tokens max_seq_len max_seq_length max_seqlen max_sequence_length min_length min_new_tokens
    model_max_length model_parallel n_ctx n_positions neftune_noise_alpha no_repeat_ngram_size num_beam_groups
    num_beams num_logits_to_keep num_return_sequences output_attention output_attentions output_hidden_states
    output_router_logits output_scores pad_token_id padding_side penalty_alpha prefix pretraining_tp problem_type
    remove_invalid_values renormalize_logits repetition_penalty return_dict return_dict_in_generate
    router_aux_loss_coef router_jitter_noise sep_token_id seq_len seq_length suppress_tokens task_specific_params
    temperature tf_legacy_loss tokenizer_class tokenizer_model_max_length tokenizer_padding_side top_k top_p
    torch_dtype torchscript transformers_version transformers_weights typical_p unk_token_id use_bfloat16 use_cache
    use_flash_attention use_flash_attention_2 use_flash_attn use_return_dict
""".split()  # noqa: SIM905
_INERT_NAMESPACES = ("axolotl_", "initializer_", "mergekit_", "transformers.js_", "unsloth_", "use_flash_")
_OF_THE_ARCHITECTURE = re.compile(
    r"(^|_)(n|num|ln|act|dim|kv|qk|qkv|q|k|v|swa|mla|mtp|mup|ut|glu|ffn|mlp|emb|rms|eps|tie|tied|gate|gated|sink|sinks)(_|s?$)"
    r"|attn|attention|norm|rope|rotary|alibi|yarn|ntk|theta|freq|scal|multipl|softcap|softmax|logit|bias|expert|moe|rout"
    r"|layer|block|depth|width|head|hidden|activation|swiglu|embed|position|window|sliding|chunk|residual|feed_?forward"
    r"|intermediate|expan|quant|conv|mamba|ssm|recurr|loop|quer|key|value|parallel|temperature|causal|mask|latent|lora"
    r"|compress|spars|predict|pool|prun|shared|sharing|skip|scor|top_?k|adapter|vision|visual|audio|image|video|speech|clip"
)
# Neutral values of switches and factors that other classes have.
_OFF: tuple[object, ...] = ("", [], {}, False)
_ON = ("causal", "is_causal", "norm_topk_prob", "scale_attn_weights")
_FACTORS = ("embedding_multiplier", "logit_scale", "logits_scaling", "residual_multiplier", "rope_pct", "rotary_pct")


def skip_bookkeeping(fields: Fields) -> None:
    """Accept what is left in `fields` and says nothing; `Fields.finish` then raises for the rest.

    Raises ConfigError for what is known to change the architecture.
    """
    fields.expect(
        "quantization_config",
        reason="describes quantised weights this version cannot read; use the original weights or a GGUF file",
    )
    for key in ("is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"):
        fields.expect(key, False, reason="is not supported; only decoder models are")
    for key in ("chunk_size_feed_forward", "cross_attention_hidden_size", "pruned_heads", "per_layer_config"):
        fields.expect(key, 0, {}, [], reason="changes the architecture in a way that is not supported")
    for key in _ON:
        fields.expect(key, True, reason="is not supported; only causal models with softmax attention are")
    for key in _FACTORS:
        fields.expect(key, 1, reason="is a factor that is not supported")
    fields.ignore("is_decoder", *_INERT)
    fields.ignore_namespaces(*_INERT_NAMESPACES)
    fields.ignore_where(_says_nothing)


def _says_nothing(key: str, value: object) -> bool:
    is_off = any(value == off and type(value) is type(off) for off in _OFF)
    return is_off or "dropout" in key or "pdrop" in key or _OF_THE_ARCHITECTURE.search(key.lower()) is None
