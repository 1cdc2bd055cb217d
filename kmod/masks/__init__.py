"""Kernel masks, heads and the modular model that trains them."""
