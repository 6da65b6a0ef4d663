"""Prompts without a truth of their own, for people to judge: made by a grammar, or of public suites."""
