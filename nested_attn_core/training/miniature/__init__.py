"""The miniature world: generated subjects, a small base model, and encoders for it."""
