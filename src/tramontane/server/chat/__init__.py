"""/v1/chat/completions: a conversation in, answers out, in Mistral's shape or OpenAI's."""
