"""Fit → uncertainty."""
