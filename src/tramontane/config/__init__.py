"""Model configurations and the strict readers of the three file forms they come in."""

from tramontane.config.model_config import Family, ModelConfig, MoeConfig, RopeScaling

__all__ = ["Family", "ModelConfig", "MoeConfig", "RopeScaling"]
