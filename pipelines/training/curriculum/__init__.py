"""What is to be trained: recipes, how a preset resolves them, and the order of stages."""
