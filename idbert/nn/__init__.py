"""The encoder, what stands on it, and the models made of them."""
