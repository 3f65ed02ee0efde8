"""PyTorch, torchattacks, faiss and scikit-learn in a Python of their own: nothing here imports JAX or `tmu_jax`."""
