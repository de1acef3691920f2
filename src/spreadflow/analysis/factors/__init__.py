"""Structure factors from the pixels of all lattices together."""
