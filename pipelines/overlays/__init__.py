"""What is laid over a picture - text, logos, black bars - and where: measured by curation, taken away by generation."""
