"""theta → Posterior: one engine a topology."""
