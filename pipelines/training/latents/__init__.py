"""Latents and embeddings of a dataset, computed once and kept in shards of their own."""
