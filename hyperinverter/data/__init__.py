"""Images on disk (or sampled) -> batches of tensors: `sources` looks at them without PyTorch, `loader` reads them."""
