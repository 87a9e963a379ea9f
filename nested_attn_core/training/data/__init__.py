"""Pictures, captions and who is in them: sources, features kept on the disk, batches."""
