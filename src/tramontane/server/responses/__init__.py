"""OpenAI's /v1/responses without state: a chat request in other words, its answer as items and typed events."""
