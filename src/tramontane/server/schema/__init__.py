"""What requests may hold: one pydantic model per body, closed, so that nothing is accepted and then ignored."""
