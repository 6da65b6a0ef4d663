"""One call of the generator, from a request to frames and sound."""
