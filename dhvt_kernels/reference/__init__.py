"""Plain PyTorch implementation of every operator: readable, the ground truth of the tests, and the last resort."""
