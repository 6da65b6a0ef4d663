"""Training on Ray Train and DeepSpeed ZeRO-3, of anything that is a `Trainable`."""
