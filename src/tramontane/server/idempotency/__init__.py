"""Requests that are sent again with the same Idempotency-Key make nothing a second time."""
