"""What the engine trains: networks with their starts, batches, losses and samples."""
