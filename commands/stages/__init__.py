"""The stages of the miniature's training, one file each; `commands/train.py` runs them."""
