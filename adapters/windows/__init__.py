"""Token maps cut into windows, and attention inside them."""
