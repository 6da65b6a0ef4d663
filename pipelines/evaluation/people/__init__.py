"""What people say of clips: the rubric they answer, their records as JSONL, and what follows from them."""
