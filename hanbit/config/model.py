"""The shape of a model, per family. Numbers only: all of it is in `config.json` of an exported model folder too."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from hanbit.config.section import Auto, Count, Section


class RotaryScaling(Section):
    """How rotary angles are stretched beyond the context a model was first trained with."""

    kind: Literal["linear", "llama3", "yarn"] = Field(description="Rule of the stretch, as Hugging Face's `rope_type`.")
    factor: float = Field(gt=0, description="How many times longer the context becomes.")
    original_context: int | None = Field(
        None, gt=0, description="Context before stretching, tokens (llama3, yarn); null: model.context."
    )
    low_frequency_factor: float = Field(1.0, gt=0, description="llama3: below this the full stretch applies.")
    high_frequency_factor: float = Field(4.0, gt=0, description="llama3: above this nothing is stretched.")
    beta_fast: float = Field(32.0, gt=0, description="yarn: rotations above which nothing is stretched.")
    beta_slow: float = Field(1.0, gt=0, description="yarn: rotations below which the full stretch applies.")
    attention_factor: float | None = Field(None, gt=0, description="yarn: scale of cos and sin; none derives it.")


class Shape(Section):
    """What all families share."""

    layers: int = Field(gt=0, description="Number of transformer blocks.")
    hidden: int = Field(gt=0, description="Width of the residual stream.")
    heads: int = Field(gt=0, description="Number of query heads.")
    inner: Count | Auto = Field(
        "auto",
        description="Width inside the MLP; auto: 4 x hidden; for llama 8/3 x hidden up to a multiple of 64.",
    )
    vocabulary: Count | Auto = Field("auto", description="Rows of the embedding; auto: the tokenizer's size.")
    context: int = Field(2048, gt=0, description="Longest sequence, tokens.")
    norm_epsilon: float = Field(1e-5, gt=0, description="Added to the variance inside norms.")
    tied: bool = Field(True, description="The output projection shares the embedding's weight.")
    initial_deviation: float = Field(
        0.02,
        gt=0,
        description="Standard deviation of fresh weights; outputs of residual branches get it over sqrt(2 x layers).",
    )


class DecoderConfig(Shape):
    """Models of the next token, which generate."""


class RotaryConfig(DecoderConfig):
    """Those whose queries and keys are rotated by their positions."""

    rotary_base: float = Field(10000.0, gt=0, description="Base of the rotary frequencies (`rope_theta`).")
    rotary_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of a head that is rotated (`partial_rotary_factor`)."
    )
    rotary_scaling: RotaryScaling | None = Field(None, description="Stretch of the rotary angles; null: none.")

    @field_validator("rotary_scaling")
    @classmethod
    def _with_original_context(cls, scaling: RotaryScaling | None, others: ValidationInfo) -> RotaryScaling | None:
        """As Hugging Face's files, which always name it, so that an exported model reads back as the same config."""
        is_open = scaling is not None and scaling.kind != "linear" and scaling.original_context is None
        if scaling is None or not is_open or "context" not in others.data:  # not in: it has an error of its own
            return scaling
        return scaling.model_copy(update={"original_context": others.data["context"]})


class GPTConfig(DecoderConfig):
    """GPT-2's shape: learned positions, LayerNorm, GELU, biases."""

    family: Literal["gpt"]


class LlamaConfig(RotaryConfig):
    """Llama's shape and its relatives (Mistral, Qwen2, Qwen3, SmolLM2, EXAONE 3): rotary positions, RMSNorm, gated
    SiLU."""

    family: Literal["llama"]
    key_value_heads: Count | Auto = Field("auto", description="Number of key and value heads; auto: as many as heads.")
    head_dim: Count | Auto = Field("auto", description="Width of one head; auto: hidden / heads.")
    query_key_value_bias: bool = Field(False, description="Biases on query, key and value (Qwen2).")
    attention_output_bias: bool = Field(
        False, description="Bias on attention's output (`attention_bias` of Llama sets both)."
    )
    mlp_bias: bool = Field(False, description="Biases in the MLP.")
    query_key_norm: bool = Field(False, description="RMSNorm over each query and key head before rotation (Qwen3).")
    sliding_window: int | None = Field(
        None, gt=0, description="Tokens a query looks back, itself included (Mistral); null: all."
    )
    tied: bool = Field(False, description="The output projection shares the embedding's weight.")

    def window_of(self, layer: int) -> int | None:
        """Tokens that a query of this layer, counted from 0, looks back; None: all."""
        return self.sliding_window


class Phi3Config(LlamaConfig):
    """Phi-3's shape: Llama's, but its files have query, key and value in one matrix, gate and up in another."""

    family: Literal["phi3"]  # type: ignore[assignment]


class MixedWindowConfig(LlamaConfig):
    """Llama's shape where some layers see a window and some see all."""

    full_every: int = Field(2, gt=1, description="With a window: every so many layers, one sees all earlier tokens.")

    def is_full(self, layer: int) -> bool:
        """Does this layer, counted from 0, see all earlier tokens?"""
        return self.sliding_window is None or (layer + 1) % self.full_every == 0

    def window_of(self, layer: int) -> int | None:
        return None if self.is_full(layer) else self.sliding_window

    @field_validator("mlp_bias")
    @classmethod
    def _without_bias(cls, bias: bool) -> bool:
        if bias:
            raise ValueError("this family's MLP has no biases; leave it out")
        return bias


class GemmaConfig(MixedWindowConfig):
    """Gemma's shape, 1 to 3: scaled embeddings, norms whose weight counts from one, gated GELU."""

    family: Literal["gemma"]  # type: ignore[assignment]
    norm_epsilon: float = Field(1e-6, gt=0, description="Added to the mean of squares inside norms.")
    tied: bool = Field(True, description="The output projection shares the embedding's weight.")
    end_norms: bool = Field(True, description="Norms behind attention and MLP, too (Gemma 2 and 3).")
    query_width: float | None = Field(
        None, gt=0, description="Scores are divided by its root (`query_pre_attn_scalar`); null: model.head_dim."
    )
    score_cap: float | None = Field(
        None, gt=0, description="Scores stay between this and its negative, by tanh (Gemma 2); null: any."
    )
    logit_cap: float | None = Field(None, gt=0, description="As score_cap, for logits (Gemma 2); null: any.")
    window_rotary_base: float | None = Field(
        None,
        gt=0,
        description="Rotary base of layers with a window, which nothing stretches (Gemma 3); null: as others.",
    )


class ExaoneConfig(MixedWindowConfig):
    """EXAONE 4.0's shape: norms behind attention and MLP, norms over heads; layers that see all do not rotate where
    others have a window."""

    family: Literal["exaone"]  # type: ignore[assignment]
    full_every: int = Field(4, gt=1, description="With a window: every so many layers, one sees all earlier tokens.")
    query_key_norm: bool = Field(True, description="RMSNorm over each query and key head before rotation.")

    @field_validator("query_key_value_bias", "attention_output_bias")
    @classmethod
    def _without_biases(cls, bias: bool) -> bool:
        if bias:
            raise ValueError("this family's attention has no biases; leave it out")
        return bias


class NeoXConfig(RotaryConfig):
    """GPT-NeoX's shape (Pythia, Polyglot-Ko) and its relatives (GPT-J, Phi): LayerNorm, a part of each head rotated,
    attention and MLP side by side."""

    family: Literal["neox"]
    rotary_fraction: float = Field(0.25, gt=0, le=1, description="Share of a head that is rotated (`rotary_pct`).")
    rotary_neighbours: bool = Field(
        False, description="Rotated features are pairs of neighbours (GPT-J), and not of two halves."
    )
    parallel: bool = Field(
        True, description="Attention and MLP see the same hidden state (`use_parallel_residual`), or one the other's."
    )
    shared_norm: bool = Field(False, description="One norm for both of them (GPT-J, Phi).")
    attention_bias: bool = Field(True, description="Biases in attention.")
    output_bias: bool = Field(False, description="A bias of the output projection (GPT-J, Phi).")
    activation: Literal["gelu", "gelu_tanh"] = Field("gelu", description="GELU, exact or by its tanh form.")
    tied: bool = Field(False, description="The output projection shares the embedding's weight.")

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @field_validator("shared_norm")
    @classmethod
    def _side_by_side(cls, shared: bool, others: ValidationInfo) -> bool:
        if shared and not others.data.get("parallel", True):
            raise ValueError("only attention and MLP side by side share a norm; leave one of them out")
        return shared


class OPTConfig(DecoderConfig):
    """OPT's shape: learned positions, LayerNorm, ReLU (Galactica's: GELU), biases."""

    family: Literal["opt"]
    activation: Literal["relu", "gelu"] = Field("relu", description="ReLU, or GELU as Galactica has it.")


class BloomConfig(DecoderConfig):
    """BLOOM's shape: ALiBi in place of positions, a norm of the embedding, LayerNorm, GELU, biases."""

    family: Literal["bloom"]


class MixtureConfig(LlamaConfig):
    """Llama's shape with experts in place of MLPs (Mixtral, Qwen3-MoE)."""

    family: Literal["mixture"]  # type: ignore[assignment]
    experts: int = Field(gt=1, description="Number of experts of a sparse layer.")
    experts_per_token: int = Field(2, gt=0, description="Number of experts that each token goes through.")
    expert_inner: Count | Auto = Field("auto", description="Width inside one expert; auto: model.inner.")
    normalize_weights: bool = Field(
        True, description="Weights of a token's experts are scaled to sum to one (`norm_topk_prob`)."
    )
    sparse_every: int = Field(
        1, gt=0, description="Every so many layers, one has experts; others have an MLP (`decoder_sparse_step`)."
    )
    balance_coefficient: float = Field(
        0.001,
        ge=0,
        description="Weight of the load-balancing loss, a mean over sparse layers, in training "
        "(`router_aux_loss_coef`); 0: none.",
    )
    z_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of the routers' z-loss, a mean over sparse layers and tokens, in training: it keeps a "
        "router's logits small (`moe_z_loss_coeff`); ST-MoE has 0.001; 0: none.",
    )

    def is_sparse(self, layer: int) -> bool:
        """Has this layer, counted from 0, experts?"""
        return (layer + 1) % self.sparse_every == 0

    @field_validator("mlp_bias")
    @classmethod
    def _without_bias(cls, bias: bool) -> bool:
        if bias:
            raise ValueError("a mixture's experts have no biases; leave it out")
        return bias

    @field_validator("experts_per_token")
    @classmethod
    def _within_experts(cls, chosen: int, others: ValidationInfo) -> int:
        experts = others.data.get("experts", chosen)
        if chosen > experts:
            raise ValueError(f"more than model.experts={experts}; use at most {experts}")
        return chosen

    @field_validator("sparse_every")
    @classmethod
    def _within_layers(cls, every: int, others: ValidationInfo) -> int:
        layers = others.data.get("layers", every)
        if every > layers:
            raise ValueError(f"more than model.layers={layers}: no layer would have experts; use at most {layers}")
        return every


class BertConfig(Shape):
    """BERT's shape: sees both sides of a token; LayerNorm after each part, learned positions, exact GELU, biases."""

    family: Literal["bert"]
    context: int = Field(512, gt=0, description="Longest sequence, tokens.")
    norm_epsilon: float = Field(1e-12, gt=0, description="Added to the variance inside norms.")
    segments: int = Field(2, gt=0, description="Rows of the segment embedding (`type_vocab_size`).")
    word_head: bool = Field(
        True, description="A head that says hidden words; false: a model of embeddings (`BertModel`), not trained here."
    )
    sentence_order: bool = Field(
        True, description="A second head that says whether two segments were swapped (`BertForPreTraining`)."
    )

    @field_validator("sentence_order")
    @classmethod
    def _beside_words(cls, order: bool, others: ValidationInfo) -> bool:
        if order and not others.data.get("word_head", True):
            raise ValueError("a model without model.word_head has no second head either; set it to false")
        return order


class T5Config(Shape):
    """T5's shape: an encoder and a decoder, relative positions as a bias of the scores, RMSNorm, no biases.

    `layers` are the encoder's.
    """

    family: Literal["t5"]
    decoder_layers: Count | Auto = Field("auto", description="Blocks of the decoder; auto: as many as layers.")
    head_dim: Count | Auto = Field("auto", description="Width of one head; auto: hidden / heads.")
    context: int = Field(512, gt=0, description="Longest sequence it is trained on, tokens; positions have no end.")
    norm_epsilon: float = Field(1e-6, gt=0, description="Added to the mean of squares inside norms.")
    gated: bool = Field(False, description="GELU with a gate in the MLP (T5 1.1, mT5) in place of ReLU.")
    scaled_output: bool = Field(True, description="Times hidden^-0.5 before the output projection (T5 1.0).")
    position_buckets: int = Field(32, ge=4, multiple_of=2, description="Buckets of relative positions.")
    position_distance: int = Field(128, gt=0, description="Distance in tokens from which on all share the last bucket.")
    start_token: int = Field(0, ge=0, description="Token id that the decoder begins with; T5's padding.")
    initial_deviation: float = Field(
        1.0, gt=0, description="Fresh weights get this times T5's own deviations, 1 / sqrt(width) of their input."
    )


ModelConfig = Annotated[
    GPTConfig
    | LlamaConfig
    | MixtureConfig
    | BertConfig
    | T5Config
    | NeoXConfig
    | OPTConfig
    | BloomConfig
    | GemmaConfig
    | Phi3Config
    | ExaoneConfig,
    Field(discriminator="family"),
]


def num_layers(model: Shape) -> int:
    """Blocks in all, the decoder's beside the encoder's."""
    if not isinstance(model, T5Config):
        return model.layers
    return model.layers + (model.layers if model.decoder_layers == "auto" else model.decoder_layers)
