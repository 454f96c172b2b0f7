"""Files that clients upload and batches write."""
