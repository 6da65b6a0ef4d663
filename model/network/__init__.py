"""The transformer: latents and text in, velocities out; its layers, positions and attention kernels."""
