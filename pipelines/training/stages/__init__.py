"""Running stages: caches, training, export, records; fine-tuning."""
