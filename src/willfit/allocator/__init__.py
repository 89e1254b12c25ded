"""The CUDA caching allocator of PyTorch, as far as it decides reserved bytes."""
