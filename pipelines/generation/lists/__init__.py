"""Requests as JSON lines: `prompt_file` reads them and prepares samples for training, `batch` makes a clip of each."""
