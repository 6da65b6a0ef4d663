"""From shards to a trained model: latents, recipes of the stages, what a step sees, and what it is made to learn."""
