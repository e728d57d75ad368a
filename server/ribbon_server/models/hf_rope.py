"""Rotary positions as Hugging Face configurations say them, in newer and older words. Knows fields, no family."""

import math

from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.spec import (
    DynamicRope,
    LinearRope,
    Llama3Rope,
    LongRope,
    Rope,
    RopeScaling,
    UnscaledRope,
    YarnRope,
)

KINDS = "default, linear, dynamic, yarn, llama3 and longrope"


def rope(
    config: HfConfig, head_dim: int, *, interleaved: bool = False, base: float = 10000.0, share: float = 1.0
) -> Rope:
    """Newer files say it in `rope_parameters`, older ones in `rope_theta`, `partial_rotary_factor` and `rope_scaling`.

    base and share (of a head that turns) are the architecture's defaults.
    """
    section = config.section("rope_parameters") or config.section("rope_scaling")
    return rope_of(section, config, head_dim, interleaved=interleaved, base=base, share=share)


def rope_of(
    section: HfConfig | None,
    config: HfConfig,
    head_dim: int,
    *,
    interleaved: bool = False,
    base: float = 10000.0,
    share: float = 1.0,
) -> Rope:
    """Of one section, where layers have several."""
    share = _field(section, config, "partial_rotary_factor").number("partial_rotary_factor", share)
    dim = int(head_dim * share)
    if dim % 2 or not 0 < dim <= head_dim:
        raise ModelNotSupported(
            f"config.json: `head_dim` is {head_dim}, of which {dim} elements turn in pairs; their number must be even and at most "
            "`head_dim`"
        )
    theta = _field(section, config, "rope_theta").number("rope_theta", base)
    scaling = rope_scaling(section, config)
    if isinstance(scaling, LongRope) and not len(scaling.short) == len(scaling.long) == dim // 2:
        raise ModelNotSupported(
            f"config.json: `short_factor` and `long_factor` have {len(scaling.short)} and {len(scaling.long)} numbers; {dim // 2} "
            "pairs turn, so each must have as many"
        )
    return Rope(theta, dim, scaling, interleaved)


def _field(section: HfConfig | None, config: HfConfig, name: str) -> HfConfig:
    """Where a field stands."""
    return section if section is not None and name in section else config


def rope_scaling(section: HfConfig | None, config: HfConfig) -> RopeScaling:
    """The scaling a section names, by `rope_type` (older files: `type`)."""
    kind = "default" if section is None else section.text("rope_type", section.text("type", "default"))
    if section is None or kind == "default":
        return UnscaledRope()
    if kind not in SCALINGS:
        raise ModelNotSupported(f"config.json: rope type `{kind}` is not supported; this server has {KINDS}")
    return SCALINGS[kind](section, config)


def stretched_positions(rope: Rope | None, max_positions: int) -> int:
    """The longest context of a model whose configuration says the original one."""
    scaling = None if rope is None else rope.scaling
    return int(max_positions * scaling.factor) if isinstance(scaling, DynamicRope) else max_positions


def _linear(section: HfConfig, _config: HfConfig) -> RopeScaling:
    return LinearRope(section.number("factor"))


def _dynamic(section: HfConfig, config: HfConfig) -> RopeScaling:
    return DynamicRope(section.number("factor"), config.integer("max_position_embeddings", 2048))


def _llama3(section: HfConfig, _config: HfConfig) -> RopeScaling:
    return Llama3Rope(
        factor=section.number("factor"),
        low_freq_factor=section.number("low_freq_factor"),
        high_freq_factor=section.number("high_freq_factor"),
        original_max_positions=section.integer("original_max_position_embeddings"),
    )


def _yarn(section: HfConfig, config: HfConfig) -> RopeScaling:
    original = _original(section, config)
    factor = _factor(section, config, original)
    return YarnRope(
        factor=factor,
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        original_max_positions=original,
        gain=_yarn_gain(section, factor),
        truncate=section.flag("truncate", default=True),
    )


def _yarn_gain(section: HfConfig, factor: float) -> float:
    """https://arxiv.org/abs/2309.00071, section 3.4; `mscale` and `mscale_all_dim` as in https://arxiv.org/abs/2405.04434."""
    if "attention_factor" in section:
        return section.number("attention_factor")
    if "mscale" in section and "mscale_all_dim" in section:
        return yarn_temperature(factor, section.number("mscale")) / yarn_temperature(
            factor, section.number("mscale_all_dim")
        )
    return yarn_temperature(factor, 1.0)


def yarn_temperature(factor: float, weight: float) -> float:
    """0.1 · weight · ln(factor) + 1."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def _long(section: HfConfig, config: HfConfig) -> RopeScaling:
    """Both gains are alike but where `short_mscale` and `long_mscale` say otherwise."""
    original = _original(section, config)
    factor = _factor(section, config, original)
    gain = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
    gain = section.number("attention_factor", gain)
    return LongRope(
        short=section.numbers("short_factor"),
        long=section.numbers("long_factor"),
        original_max_positions=original,
        short_gain=section.number("short_mscale", gain),
        long_gain=section.number("long_mscale", gain),
    )


def _original(section: HfConfig, config: HfConfig) -> int:
    """The context of the pretraining; some files say it outside the section."""
    name = "original_max_position_embeddings"
    holder = _field(section, config, name)
    return holder.integer(name, config.integer("max_position_embeddings", 2048))


def _factor(section: HfConfig, config: HfConfig, original: int) -> float:
    """How much longer the context is now."""
    return section.number("factor", config.integer("max_position_embeddings", original) / original)


SCALINGS = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _long,
    "su": _long,  # its first name
}
