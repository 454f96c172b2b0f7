"""Model configurations and the strict readers of the three file forms they come in."""

from tramontane.config.fields import Fields, read_json
from tramontane.config.generation_config import read_generation_config
from tramontane.config.gguf_metadata import read_gguf_config, to_gguf_metadata
from tramontane.config.hf_config import read_hf_config, refuse_code, to_hf_config
from tramontane.config.model_config import Family, ModelConfig, MoeConfig, RopeScaling
from tramontane.config.params_json import read_params_json, to_params_json
from tramontane.config.stop_ids import read_stop_ids

__all__ = [
    "Family",
    "Fields",
    "ModelConfig",
    "MoeConfig",
    "RopeScaling",
    "read_generation_config",
    "read_gguf_config",
    "read_hf_config",
    "read_json",
    "read_params_json",
    "read_stop_ids",
    "refuse_code",
    "to_gguf_metadata",
    "to_hf_config",
    "to_params_json",
]
