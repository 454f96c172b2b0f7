"""Usage: what every request took, kept as rows, summed up and priced."""
