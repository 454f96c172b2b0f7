"""Models by name: what lies on disk, and what is pulled from the Hugging Face hub."""

from tramontane.hub.name import HubName, parse_hub_name
from tramontane.hub.pull import Progress, pull
from tramontane.hub.store import resolve_model

__all__ = ["HubName", "Progress", "parse_hub_name", "pull", "resolve_model"]
