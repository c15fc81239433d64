"""Language tasks on the shared encoder."""
