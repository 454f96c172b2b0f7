"""Structured output: answers held to a grammar token by token, whatever the model would rather say."""
