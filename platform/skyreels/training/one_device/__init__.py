"""A run of one rank on one device, in this process, without Ray and without DeepSpeed."""
