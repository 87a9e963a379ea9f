"""Trained methods at work on the miniature: prompts, batches of pictures, loading."""
