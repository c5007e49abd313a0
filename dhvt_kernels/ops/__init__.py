"""The public operators: documentation, validation, fake kernels and gradients."""
