"""The platform server: Mistral's API and OpenAI's over AsyncLLM. Import its modules; this package loads nothing."""
