"""Posterior → theta: one update a block."""
