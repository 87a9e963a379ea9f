"""The methods that nested attention is held against: same base, features, steps and size."""
