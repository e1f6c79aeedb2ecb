"""Pure functions: tensors in, tensors out; no TensorDict, no state."""
