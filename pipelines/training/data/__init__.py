"""What a step sees: datasets, windows, the order of samples, batches."""
