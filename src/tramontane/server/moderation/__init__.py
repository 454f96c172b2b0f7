"""Moderation by self-reflection: the model is asked, category by category, what it thinks of a text."""
