"""Vectors, the FAISS index, and recommendations."""
