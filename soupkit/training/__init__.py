"""Data becomes an ingredient."""
