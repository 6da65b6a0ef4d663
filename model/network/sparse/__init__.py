"""Video Sparse Attention: a coarse stage that picks cubes, and kernels that attend to those that were picked."""
