"""f′(E) and f″(E) of the metal sites from the Gram matrices of many lattices."""
