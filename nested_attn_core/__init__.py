"""Nested Attention (arXiv 2501.01407) in pure PyTorch; this package never imports the host."""
