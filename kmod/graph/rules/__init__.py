"""How channels flow through each kind of layer."""
