"""Plan → Fit: starts, the loop, the certificate."""
